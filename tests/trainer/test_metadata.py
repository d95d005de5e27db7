"""The dataset's table: what is read from it, and that all of its defects are reported at once, with their rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data import noise, write_wav

from xaimoe_audio.data.dataset import LabelledDataset, load_dataset
from xaimoe_runtime.errors import DatasetError
from xaimoe_runtime.schema import TaskKind

GOOD = ("a.wav,train,boat", "b.wav,val,boat", "c.wav,test,boat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings a.wav … h.wav of 0.1 s, and broken.wav, which is text."""
    for seed, name in enumerate("abcdefgh"):
        write_wav(tmp_path / f"{name}.wav", noise(1600, seed))
    (tmp_path / "broken.wav").write_text("this is no recording")
    return tmp_path


def load(
    folder: Path, *rows: str, header: str = "filepath,split,label", task: TaskKind = "single_label"
) -> LabelledDataset:
    table = folder / "metadata.csv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return load_dataset(folder, table, task, 16_000)


def complaint(folder: Path, *rows: str, header: str = "filepath,split,label", task: TaskKind = "single_label") -> str:
    with pytest.raises(DatasetError) as caught:
        load(folder, *rows, header=header, task=task)
    return str(caught.value)


DEFECTS = [
    ("gone.wav,train,boat", "row 5: gone.wav does not exist under"),
    ("broken.wav,train,boat", "row 5: "),
    ("d.wav,training,boat", "row 5: split is 'training', expected train, val or test"),
    ("e.wav,train,", "row 5: label is empty"),
    ("a.wav,train,boat", "row 5: a.wav stands already in row 2"),
    ("f.wav,test,whale", "row 5: class 'whale' has no recording in split train"),
    ("g.wav,train,boat|rain", "row 5: label 'boat|rain' names 2 classes, expected one"),
    (",train,boat", "row 5: filepath is empty"),
]


@pytest.mark.parametrize(("row", "report"), DEFECTS, ids=[row for row, _ in DEFECTS])
def test_a_defect_is_reported_with_its_row(folder: Path, row: str, report: str) -> None:
    message = complaint(folder, *GOOD, row)
    assert "metadata.csv: 1 defect(s)" in message
    assert report in message


def test_an_undecodable_file_is_named(folder: Path) -> None:
    assert "broken.wav: not readable as audio" in complaint(folder, *GOOD, "broken.wav,train,boat")


def test_a_file_that_ends_early_is_a_defect(folder: Path) -> None:
    whole = write_wav(folder / "cut.flac", noise(16_000), subtype="PCM_16").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    message = complaint(folder, *GOOD, "cut.flac,train,boat")
    assert "row 5: " in message
    assert "cut.flac" in message


def test_samples_that_are_not_finite_are_a_defect(folder: Path) -> None:
    write_wav(folder / "nan.wav", np.full(1600, np.nan, np.float32))
    assert "nan.wav: found 1600 samples that are NaN or infinite" in complaint(folder, *GOOD, "nan.wav,train,boat")


def test_a_group_in_two_splits_leaks(folder: Path) -> None:
    rows = ("a.wav,train,boat,v1", "b.wav,val,boat,v2", "c.wav,test,boat,v1")
    message = complaint(folder, *rows, header="filepath,split,label,group")
    assert "row 2: group 'v1' stands in the splits train, test, which leaks" in message


def test_rows_without_a_group_belong_to_none(folder: Path) -> None:
    rows = ("a.wav,train,boat,", "b.wav,val,boat,", "c.wav,test,boat,")
    assert len(load(folder, *rows, header="filepath,split,label,group").items) == 3


def test_all_defects_come_in_one_message(folder: Path) -> None:
    message = complaint(folder, *GOOD, *(row for row, _ in DEFECTS))
    assert f"{len(DEFECTS)} defect(s)" in message
    for line, (_, report) in enumerate(DEFECTS, start=5):
        assert report.replace("row 5", f"row {line}") in message


def test_a_long_list_of_defects_is_cut_and_counted(folder: Path) -> None:
    message = complaint(folder, *GOOD, *(f"gone{i}.wav,train,boat" for i in range(60)))
    assert "60 defect(s)" in message
    assert "and 10 more" in message
    assert message.count("does not exist") == 50


def test_splits_train_and_val_must_hold_something(folder: Path) -> None:
    assert "split val has no usable recording" in complaint(folder, "a.wav,train,boat", "c.wav,test,boat")
    assert "split train has no usable recording" in complaint(folder, "b.wav,val,boat")


def test_split_test_may_be_empty(folder: Path) -> None:
    assert load(folder, *GOOD[:2]).split("test") == []


def test_missing_columns_are_named(folder: Path) -> None:
    message = complaint(folder, "a.wav,train,boat", header="file,split,class")
    assert "found the columns file, split, class; missing: filepath, label" in message


def test_an_empty_table_is_an_error(folder: Path) -> None:
    assert "metadata.csv: found no rows" in complaint(folder)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x9d\x81"])
def test_what_is_no_csv_is_refused(folder: Path, content: bytes) -> None:
    table = folder / "metadata.csv"
    table.write_bytes(content)
    with pytest.raises(DatasetError, match=r"metadata\.csv: (not readable as CSV|found)"):
        load_dataset(folder, table, "single_label", 16_000)


@pytest.mark.parametrize("line", [0, 2])
def test_a_row_with_too_many_fields_is_refused_as_such(folder: Path, line: int) -> None:
    """Wherever it stands; it must not shift what the columns mean."""
    rows = list(GOOD)
    rows[line] += ",x"
    assert "fields" in complaint(folder, *rows).replace(str(folder), "")


def test_a_missing_folder_and_a_missing_table_are_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        load_dataset(folder / "nowhere", folder / "metadata.csv", "single_label", 16_000)
    with pytest.raises(DatasetError, match=r"other\.csv: no such file; expected a CSV table .*filepath,split,label"):
        load_dataset(folder, folder / "other.csv", "single_label", 16_000)


def test_several_labels_are_joined_by_a_bar(folder: Path) -> None:
    rows = ("a.wav,train,rain | boat", "b.wav,val,boat", "c.wav,test,rain|rain")
    dataset = load(folder, *rows, task="multi_label")
    assert [item.row.labels for item in dataset.items] == [("boat", "rain"), ("boat",), ("rain",)]
    assert dataset.labels == ("boat", "rain")


def test_an_empty_part_of_several_labels_is_a_defect(folder: Path) -> None:
    message = complaint(folder, *GOOD, "d.wav,train,boat|", task="multi_label")
    assert "row 5: label is 'boat|', expected a class name" in message


def test_labels_that_look_like_numbers_stay_strings_and_sort_as_such(folder: Path) -> None:
    dataset = load(folder, "a.wav,train,10", "b.wav,val,10", "c.wav,train,9", "d.wav,train,007", "e.wav,train,1.50")
    assert dataset.labels == ("007", "1.50", "10", "9")


@pytest.mark.parametrize("label", ["NA", "nan", "None", "true"])
def test_labels_that_look_like_missing_values_are_labels(folder: Path, label: str) -> None:
    assert load(folder, f"a.wav,train,{label}", f"b.wav,val,{label}").labels == (label,)


def test_further_columns_are_ignored(folder: Path) -> None:
    dataset = load(folder, "7,a.wav,x,train,boat", "8,b.wav,,val,boat", header="id,filepath,note,split,label")
    assert [item.row.filepath for item in dataset.items] == ["a.wav", "b.wav"]


def test_a_byte_order_mark_is_accepted(folder: Path) -> None:
    (folder / "metadata.csv").write_text("\n".join(["filepath,split,label", *GOOD]), encoding="utf-8-sig")
    assert len(load_dataset(folder, folder / "metadata.csv", "single_label", 16_000).items) == 3


def test_blanks_around_fields_do_not_count(folder: Path) -> None:
    dataset = load(folder, " a.wav , train , boat ", "b.wav,val,boat")
    assert dataset.items[0].row.filepath == "a.wav"
    assert dataset.labels == ("boat",)


def test_rows_are_numbered_as_lines_of_the_file(folder: Path) -> None:
    message = complaint(folder, "a.wav,train,boat", "", "b.wav,val,boat", "gone.wav,test,boat")
    assert "row 5: gone.wav" in message
