"""From a table to labelled recordings and targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from data import noise, write_wav

from xaimoe_audio.data.cache import AudioCache
from xaimoe_audio.data.dataset import LabelledDataset, check_trainable, load_dataset
from xaimoe_runtime.errors import DatasetError
from xaimoe_runtime.schema import TaskKind

RATE = 16_000
CLIP = 8_000


def write_table(folder: Path, *rows: str) -> Path:
    table = folder / "metadata.csv"
    table.write_text("\n".join(["filepath,split,label", *rows]) + "\n")
    return table


def load(folder: Path, *rows: str, channel: str = "mix") -> LabelledDataset:
    return load_dataset(folder, write_table(folder, *rows), "single_label", RATE, channel)


ROWS = ("long.wav,train,boat", "short.wav,train,rain", "stereo.wav,val,boat", "short2.wav,test,rain")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording of 3.2 clips, one of a quarter of a clip, one in stereo."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_wav(folder / "long.wav", noise(round(3.2 * CLIP)))
    write_wav(folder / "short.wav", noise(CLIP // 4, seed=1))
    write_wav(folder / "short2.wav", noise(CLIP // 4, seed=2))
    write_wav(folder / "stereo.wav", np.stack([noise(CLIP, seed=3), noise(CLIP, seed=4)], axis=1))
    return folder


def test_each_channel_can_be_a_recording_of_its_own(folder: Path) -> None:
    items = load(folder, *ROWS, channel="each").split("val")
    assert [item.recording.channel for item in items] == [0, 1]
    for seed, item in zip((3, 4), items, strict=True):
        np.testing.assert_array_equal(item.recording.samples(), noise(CLIP, seed=seed))


def test_channels_are_mixed_by_default(folder: Path) -> None:
    (item,) = load(folder, *ROWS).split("val")
    np.testing.assert_allclose(item.recording.samples(), (noise(CLIP, seed=3) + noise(CLIP, seed=4)) / 2, atol=1e-7)


def test_a_channel_that_is_not_there_is_a_defect(folder: Path) -> None:
    text = r"rows 2-3, 5: found 1 channel\(s\), expected channel 1; .*: long\.wav, short\.wav, short2\.wav"
    with pytest.raises(DatasetError, match=text):
        load(folder, *ROWS, channel="1")


def test_targets_mark_each_class_that_is_heard(folder: Path) -> None:
    table = write_table(folder, "long.wav,train,rain|boat", "short.wav,train,whale", "short2.wav,val,boat")
    dataset = load_dataset(folder, table, "multi_label", RATE)
    targets = dataset.targets(list(dataset.items), dataset.labels)
    assert dataset.labels == ("boat", "rain", "whale")
    assert targets.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_targets_refuse_a_class_that_the_model_does_not_know(folder: Path) -> None:
    dataset = load(folder, *ROWS)
    with pytest.raises(DatasetError, match=r"found the class\(es\) rain, which the model does not know; it knows boat"):
        dataset.targets(list(dataset.items), ("boat",))


def test_all_recordings_come_at_the_model_rate(folder: Path) -> None:
    soundfile.write(folder / "short.wav", noise(44_100), 44_100)
    recording = load(folder, *ROWS).split("train")[1].recording
    assert abs(recording.length - RATE) <= 2
    assert recording.native_rate == 44_100


GOOD = ("long.wav,train,boat", "short.wav,train,rain", "stereo.wav,val,boat")


def complaint(folder: Path, *rows: str) -> str:
    with pytest.raises(DatasetError) as caught:
        load(folder, *rows)
    return str(caught.value)


def test_an_undecodable_file_is_named(folder: Path) -> None:
    (folder / "broken.wav").write_text("this is no recording")
    message = complaint(folder, *GOOD, "broken.wav,train,boat")
    assert "row 5: broken.wav: not readable as audio" in message


def test_samples_that_are_not_finite_are_a_defect(folder: Path) -> None:
    write_wav(folder / "nan.wav", np.full(1600, np.nan, np.float32))
    message = complaint(folder, *GOOD, "nan.wav,train,boat")
    assert "row 5: nan.wav: found 1600 samples that are NaN or infinite" in message


def test_equal_defects_of_recordings_are_one_line(folder: Path) -> None:
    for name in "xyz":
        write_wav(folder / f"{name}.wav", np.full(1600, np.nan, np.float32))
    message = complaint(folder, *GOOD, *(f"{name}.wav,train,boat" for name in "xyz"))
    assert "rows 5-7: found 1600 samples that are NaN or infinite" in message
    assert message.endswith("(3 rows): x.wav, y.wav, z.wav")


def test_splits_train_and_val_must_hold_something(folder: Path) -> None:
    assert "split val has no usable recording" in complaint(folder, "long.wav,train,boat", "short.wav,test,boat")
    assert "split train has no usable recording" in complaint(folder, "long.wav,val,boat")
    assert load(folder, *GOOD).split("test") == []


def test_defects_of_the_table_come_before_anything_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AudioCache, "load", lambda *_: pytest.fail("decodes"))
    assert "gone.wav: does not exist" in complaint(folder, *GOOD, "gone.wav,train,boat")
    assert "split val has no usable recording" in complaint(folder, *GOOD[:2])


def test_recordings_without_a_class_have_targets_of_zeros(folder: Path) -> None:
    table = write_table(folder, "long.wav,train,rain|boat", "short.wav,train,", "short2.wav,val,boat")
    dataset = load_dataset(folder, table, "multi_label", RATE)
    assert dataset.targets(list(dataset.items), dataset.labels).tolist() == [[1, 1], [0, 0], [1, 0]]


def test_targets_take_the_labels_of_an_older_model_in_another_normal_form(folder: Path) -> None:
    dataset = load(folder, "long.wav,train,\u00e9pave", "short.wav,val,\u00e9pave")
    assert dataset.targets(list(dataset.items), ("e\u0301pave",)).tolist() == [[1], [1]]


def test_a_class_that_is_only_written_otherwise_is_named(folder: Path) -> None:
    dataset = load(folder, *ROWS)
    with pytest.raises(DatasetError, match="write Boat, Rain as the model does"):
        dataset.targets(list(dataset.items), ("Boat", "Rain"))


@pytest.mark.parametrize(
    ("rows", "task", "message"),
    [
        ((*GOOD, "gone.wav,train,boat"), "single_label", "gone.wav: does not exist"),
        (GOOD[:2], "single_label", "split val has no usable recording"),
        (("long.wav,train,boat", "stereo.wav,val,boat"), "single_label", "found one class, 'boat'; expected at least"),
        (("long.wav,train,", "stereo.wav,val,"), "multi_label", "found no class in split train, expected one"),
        (("long.wav,train,", "stereo.wav,val,boat"), "single_label", "label is empty; expected a class name"),
    ],
)
def test_a_table_that_nothing_could_be_trained_on_is_refused(
    folder: Path, rows: tuple[str, ...], task: TaskKind, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        check_trainable(folder, write_table(folder, *rows), task)
    check_trainable(folder, write_table(folder, *GOOD), task)
