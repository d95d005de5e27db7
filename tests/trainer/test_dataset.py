"""From a table to labelled recordings and targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from data import noise, write_wav

from xaimoe_audio.data.dataset import LabelledDataset, load_dataset
from xaimoe_runtime.errors import DatasetError

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
    with pytest.raises(DatasetError, match=r"row 2: .*long\.wav: found 1 channel\(s\), expected channel 1"):
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
