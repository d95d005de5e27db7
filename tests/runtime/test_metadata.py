"""The dataset's table: what is read from it, and that all of its defects are reported at once, with their rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaimoe_runtime.errors import DatasetError
from xaimoe_runtime.metadata import Metadata, Split, read_metadata
from xaimoe_runtime.schema import TaskKind

HEADER = "filepath,split,label"
GOOD = ("a.wav,train,boat", "b.wav,val,boat", "c.wav,test,boat")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder with the files a.wav … h.wav; their content does not matter here."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name in "abcdefgh":
        (folder / f"{name}.wav").write_bytes(b"RIFF")
    return folder


def read(
    folder: Path,
    *rows: str,
    header: str = HEADER,
    task: TaskKind = "single_label",
    splits: tuple[Split, ...] = ("train", "val", "test"),
) -> Metadata:
    table = folder / "metadata.csv"
    table.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return read_metadata(table, folder, task, splits)


def defects(folder: Path, *rows: str, header: str = HEADER, task: TaskKind = "single_label") -> list[str]:
    return read(folder, *rows, header=header, task=task).defects.listed()


DEFECTS = [
    ("gone.wav,train,boat", "row 5: gone.wav: does not exist under "),
    ("A.wav,train,boat", "row 5: A.wav (found a.wav): does not exist under "),
    (r"D:\data\d.wav,train,boat", "found an absolute path of Windows, expected one relative to that folder"),
    ("d.wav,training,boat", "row 5: split is 'training', expected train"),
    ("d.wav,Validation,boat", "row 5: split is 'Validation', expected val"),
    ("d.wav,TEST,boat", "row 5: split is 'TEST', expected test"),
    ("d.wav,fold1,boat", "row 5: split is 'fold1', expected train, val or test"),
    ("d.wav,,boat", "row 5: split is empty, expected train, val or test"),
    ("e.wav,train,", "row 5: label is empty; expected a class name (with task multi_label, empty means no class)"),
    ("a.wav,train,boat", "row 5: a.wav (row 2): is listed already; keep one row"),
    ("./b.wav,val,boat", "row 5: ./b.wav (row 3): is listed already; keep one row"),
    ("a.wav,train,rain", "row 5: a.wav (row 2): is listed already, with other labels; keep one row"),
    ("f.wav,test,whale", "row 5: class 'whale': has no recording in split train"),
    ("g.wav,train,boat|rain", "row 5: label 'boat|rain': names 2 classes, expected one"),
    ("g.wav,train,boat|", "row 5: label 'boat|': has an empty part"),
    ("g.wav,train,|", "row 5: label '|': has an empty part"),
    ("g.wav,train,unknown", "row 5: label 'unknown': is what a model answers when no score is high enough"),
    ("g.wav,train,a\x07b", "has a control character, or more than 1000 letters"),
    (f"g.wav,train,{'x' * 1001}", "has a control character, or more than 1000 letters"),
    (",train,boat", "row 5: filepath is empty"),
    ("../dataset,train,boat", "row 5: ../dataset: is a folder, expected a recording"),
    ("../other.wav,train,boat", "row 5: ../other.wav: lies outside "),
    (r"..\other.wav,train,boat", r"row 5: ..\other.wav: lies outside "),
    ("/etc/hostname,train,boat", "row 5: /etc/hostname: lies outside "),
    ("d.wav,train", "row 5: found 2 fields, the header has 3"),
    ("d.wav,train,boat,x", "row 5: found 4 fields, the header has 3"),
]


@pytest.mark.parametrize(("row", "report"), DEFECTS, ids=[row for row, _ in DEFECTS])
def test_a_defect_is_reported_with_its_row(folder: Path, row: str, report: str) -> None:
    (folder.parent / "other.wav").write_bytes(b"RIFF")
    listed = defects(folder, *GOOD, row)
    assert len(listed) == 1
    assert report in listed[0]


def test_all_defects_come_in_one_message_a_line_each(folder: Path) -> None:
    found = read(folder, *GOOD, "gone.wav,train,boat", "d.wav,training,boat", "e.wav,train,")
    with pytest.raises(DatasetError) as caught:
        found.defects.raise_if_any()
    head, *lines = str(caught.value).splitlines()
    assert head == f"{folder / 'metadata.csv'}: 3 defect(s):"
    assert [line.split(":")[0].strip() for line in lines] == ["row 5", "row 6", "row 7"]


def test_equal_defects_are_one_line(folder: Path) -> None:
    """Case 27's kind: 900 cleared cells were 900 defects."""
    listed = defects(folder, *GOOD, *(f"gone{i}.wav,train,boat" for i in range(900)), "d.wav,train,")
    assert listed == [
        f"rows 5-904: does not exist under {folder} (900 rows): "
        "gone0.wav, gone1.wav, gone2.wav, gone3.wav, gone4.wav and 895 more",
        "row 905: label is empty; expected a class name (with task multi_label, empty means no class)",
    ]


def test_a_long_list_of_defects_is_cut_and_counted(folder: Path) -> None:
    found = read(folder, *GOOD, *(f"d.wav,fold{i},boat" for i in range(60)))
    with pytest.raises(DatasetError) as caught:
        found.defects.raise_if_any()
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 50 + 1
    assert lines[-1].strip() == "and 11 more"  # with the 59 rows that list d.wav again


def test_a_row_of_empty_cells_is_a_blank_line(folder: Path) -> None:
    """Case 27: a table saved by Excel after cells were cleared."""
    found = read(folder, *GOOD, *[",,"] * 300, " , ,\u00a0", ",,,,", "d.wav,train,boat", "gone.wav,train,boat")
    assert [row.line for row in found.rows] == [2, 3, 4, 307]
    assert [line.split(":")[0] for line in found.defects.listed()] == ["row 308"]


def test_empty_cells_behind_a_row_do_not_count(folder: Path) -> None:
    found = read(folder, "a.wav,train,boat,,", "b.wav,val,boat,", header=f"{HEADER},,")
    assert [row.labels for row in found.rows] == [("boat",)]
    assert found.defects.listed() == ["row 3: found 4 fields, the header has 5"]


def test_a_table_without_rows_is_an_error(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"metadata\.csv: found no rows"):
        read(folder, ",,", "")


def test_with_several_labels_an_empty_label_means_no_class(folder: Path) -> None:
    """Case 29."""
    found = read(folder, "a.wav,train,boat", "b.wav,train,", "c.wav,val,\u200b ", "d.wav,val,boat", task="multi_label")
    assert found.defects.listed() == []
    assert [row.labels for row in found.rows] == [("boat",), (), (), ("boat",)]


def test_several_labels_are_joined_by_a_bar(folder: Path) -> None:
    rows = ("a.wav,train,rain | boat", "b.wav,val,boat", "c.wav,test,rain|rain")
    found = read(folder, *rows, task="multi_label")
    assert [row.labels for row in found.rows] == [("boat", "rain"), ("boat",), ("rain",)]
    assert found.labels == ("boat", "rain")


def test_labels_have_one_normal_form(folder: Path) -> None:
    """Case 22: the same name from a Mac and from Linux."""
    found = read(folder, "a.wav,train,e\u0301pave", "b.wav,val,\u00e9pave")
    assert found.labels == ("\u00e9pave",)
    assert found.warnings == ()


def test_labels_that_look_alike_are_a_warning(folder: Path) -> None:
    found = read(folder, "a.wav,train,boat", "b.wav,train,Boat", "c.wav,train,bo\u200bat", "d.wav,train,rain")
    assert found.defects.listed() == []
    (warning,) = found.warnings
    assert warning.startswith(r"labels look alike: 'Boat' (row 3), 'boat' (row 2), 'bo\u200bat' (row 4);")


def test_labels_that_look_like_numbers_stay_strings_and_sort_as_such(folder: Path) -> None:
    found = read(folder, "a.wav,train,10", "b.wav,val,10", "c.wav,train,9", "d.wav,train,007", "e.wav,train,1.50")
    assert found.labels == ("007", "1.50", "10", "9")


@pytest.mark.parametrize("label", ["NA", "nan", "None", "true", "#N/A", "=1+1"])
def test_labels_that_look_like_missing_values_are_labels(folder: Path, label: str) -> None:
    assert read(folder, f"a.wav,train,{label}", f"b.wav,val,{label}").labels == (label,)


def test_a_group_in_two_splits_leaks(folder: Path) -> None:
    rows = ("a.wav,train,boat,v\u00e9", "b.wav,val,boat,v2", "c.wav,test,boat,ve\u0301")
    (report,) = defects(folder, *rows, header=f"{HEADER},group")
    assert report == "row 2: group 'v\u00e9': is in the splits train, test, which leaks; keep it in one"


def test_rows_without_a_group_belong_to_none(folder: Path) -> None:
    rows = ("a.wav,train,boat,", "b.wav,val,boat,", "c.wav,test,boat,")
    assert defects(folder, *rows, header=f"{HEADER},group") == []


def test_two_rows_of_one_file_through_a_link_are_a_defect(folder: Path) -> None:
    (folder / "link.wav").symlink_to(folder / "a.wav")
    (folder / "hard.wav").hardlink_to(folder / "b.wav")
    listed = defects(folder, *GOOD, "link.wav,train,boat", "hard.wav,val,rain")
    text = "is the same file as that of another row, through a link"
    assert listed == [
        f"row 5: link.wav (row 2: a.wav): {text}; keep one row",
        f"row 6: hard.wav (row 3: b.wav): {text}, with other labels; keep one row",
        "row 6: class 'rain': has no recording in split train",
    ]


def test_files_of_other_splits_need_not_be_there(folder: Path) -> None:
    found = read(folder, *GOOD, "gone.wav,test,boat", "../x.wav,test,boat", splits=("train",))
    assert [row.filepath for row in found.rows] == ["a.wav"]
    assert [line.split(":")[0] for line in found.defects.listed()] == ["row 6"]  # outside, in whatever split


def test_only_training_needs_every_class_trained(folder: Path) -> None:
    assert read(folder, *GOOD, "f.wav,test,whale", splits=("test",)).defects.listed() == []


def test_columns_are_found_in_any_case_and_order(folder: Path) -> None:
    found = read(folder, "7,boat,a.wav,x,train", "8,boat,b.wav,,val", header='Id, LABEL ,"FilePath",note,Split')
    assert [(row.filepath, row.split, row.labels) for row in found.rows] == [
        ("a.wav", "train", ("boat",)),
        ("b.wav", "val", ("boat",)),
    ]


def test_missing_columns_are_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match="found the columns file, split, class; missing: filepath, label"):
        read(folder, "a.wav,train,boat", header="file,split,class")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"], ids=["nothing", "blank lines", "byte order mark"])
def test_an_empty_table_is_called_so(folder: Path, content: bytes) -> None:
    (folder / "empty.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=r"empty\.csv: found an empty file, expected a header with the columns file"):
        read_metadata(folder / "empty.csv", folder, "single_label")


def test_a_comment_line_is_named_as_the_cause(folder: Path) -> None:
    with pytest.raises(DatasetError, match="missing: filepath, split, label; a table has no comment lines"):
        read(folder, HEADER, *GOOD, header="# made by hand")


def test_a_column_that_is_there_twice_is_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match="found the column label more than once; keep one of each"):
        read(folder, "a.wav,train,boat,rain", header="filepath,split,label,Label")


def test_further_columns_may_share_a_name(folder: Path) -> None:
    assert len(read(folder, "a.wav,train,boat,1,2", header=f"{HEADER},note,note").rows) == 1


def test_the_split_column_may_be_left_out_where_the_caller_has_one(folder: Path) -> None:
    table = folder / "metadata.csv"
    table.write_text("filepath,label\na.wav,boat\n")
    assert read_metadata(table, folder, "single_label", ("val",), default_split="val").rows[0].split == "val"
    with pytest.raises(DatasetError, match="missing: split"):
        read_metadata(table, folder, "single_label")


def test_a_missing_folder_and_a_missing_table_are_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        read_metadata(folder / "metadata.csv", folder / "nowhere", "single_label")
    with pytest.raises(DatasetError, match=r"other\.csv: no such file; expected a CSV table .*filepath,split,label"):
        read_metadata(folder / "other.csv", folder, "single_label")


def test_rows_are_numbered_as_lines_of_the_file(folder: Path) -> None:
    rows = ("a.wav,train,boat,1", "", 'b.wav,val,boat,"two\nlines"', "gone.wav,test,boat,", "x.wav,test,boat,")
    found = read(folder, *rows, header=f"{HEADER},note")
    assert [row.line for row in found.rows] == [2, 4]
    assert found.defects.listed()[0].startswith("rows 6-7: does not exist")


def test_a_message_stays_short_and_without_control_characters(folder: Path) -> None:
    (report,) = defects(folder, *GOOD, f"\x1b[31m{'x' * 4000}.wav,train,boat")
    assert "\x1b" not in report
    assert len(report) < 400 + len(str(folder))
