"""A dataset in memory: its table, its decoded recordings, and the clips cut from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from xaimoe_audio.config import SPLITS, Split
from xaimoe_audio.data.cache import AudioCache, Recording
from xaimoe_audio.data.metadata import Row, read_metadata
from xaimoe_runtime.audio import Window, open_recording, parse_channel, windows
from xaimoe_runtime.console import progress
from xaimoe_runtime.errors import AudioError, DatasetError
from xaimoe_runtime.schema import AudioSpec, TaskKind

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LabelledRecording:
    """A recording and what is heard in it."""

    recording: Recording
    row: Row


T = TypeVar("T")
Data = tuple[list[LabelledRecording], Floats]
"""The recordings of a split, and their targets [N, L]."""


@dataclass(frozen=True)
class LabelledDataset:
    """All recordings of a dataset, decoded at one rate."""

    items: tuple[LabelledRecording, ...]
    labels: tuple[str, ...]
    """All classes of the decoded splits, sorted as strings."""
    rate: int
    """Rate of the samples, in Hz."""

    def split(self, split: Split) -> list[LabelledRecording]:
        """The recordings of one split."""
        return [item for item in self.items if item.row.split == split]

    def targets(self, items: list[LabelledRecording], labels: tuple[str, ...]) -> Floats:
        """1 for each class heard, [N, L], in the order of ``labels``.

        Raises:
            DatasetError: a recording has a class that is not among ``labels``.
        """
        column = {label: i for i, label in enumerate(labels)}
        unknown = sorted({label for item in items for label in item.row.labels} - set(labels))
        if unknown:
            raise DatasetError(
                f"found the class(es) {', '.join(unknown)}, which the model does not know; it knows {', '.join(labels)}"
            )
        targets = np.zeros((len(items), len(labels)), np.float32)
        for i, item in enumerate(items):
            targets[i, [column[label] for label in item.row.labels]] = 1
        return targets

    def with_targets(self, labels: tuple[str, ...]) -> dict[Split, Data]:
        """Every split with its targets."""
        splits = {split: self.split(split) for split in SPLITS}
        return {split: (items, self.targets(items, labels)) for split, items in splits.items()}


def evenly(of: Sequence[T], most: int) -> list[T]:
    """All of them, or ``most``, evenly over the sequence."""
    return list(of) if len(of) <= most else [of[i * len(of) // most] for i in range(most)]


def load_dataset(
    dataset_dir: Path,
    metadata_csv: Path,
    task: TaskKind,
    rate: int,
    channel: str = "mix",
    cache: AudioCache | None = None,
    splits: tuple[Split, ...] = SPLITS,
    required: tuple[Split, ...] = ("train", "val"),
    most: int | None = None,
    refused: Callable[[str], None] | None = None,
) -> LabelledDataset:
    """Checks the table and decodes the recordings of ``splits`` at ``rate`` Hz, with a progress bar on stderr.

    With channel ``each`` every channel of a file is a recording of its own, in the file's split. The ``required``
    splits must not be empty. Of more than ``most`` files, as many are taken, evenly over the table. With ``refused``,
    which is told of each, defects are left out.

    Raises:
        DatasetError: all defects of table and recordings in one message, each with its row; with ``refused`` only if
            nothing can be used.
    """
    rows, defects = read_metadata(metadata_csv, dataset_dir, task, splits)
    for split in required:
        if not any(row.split == split for row in rows):
            defects.add(0, f"split {split} has no usable recording, expected at least one")
    if most is not None:
        rows = evenly(rows, most)
    wanted = parse_channel(channel)
    cache = cache or AudioCache()

    def load(row: Row) -> list[LabelledRecording] | AudioError:
        try:
            count = open_recording(row.path).channels
            channels: list[int | str] = list(range(count)) if wanted == "each" else [wanted]
            found = [LabelledRecording(cache.load(row.path, rate, number), row) for number in channels]
            if found[0].recording.length == 0:
                return AudioError(f"{row.filepath}: found too few samples to resample; record a longer one")
            return found
        except AudioError as error:
            return error

    items: list[LabelledRecording] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, progress("decoding", len(rows)) as advance:
        for row, loaded in zip(rows, pool.map(load, rows), strict=True):
            if isinstance(loaded, AudioError):
                defects.add(row.line, str(loaded))
            else:
                items += loaded
            advance()
    if refused is None or not items:
        defects.raise_if_any()
    else:
        for defect in defects.listed():
            refused(defect)
    labels = tuple(sorted({label for item in items for label in item.row.labels}))
    return LabelledDataset(tuple(items), labels, rate)


def windows_of(
    items: list[LabelledRecording], spec: AudioSpec, most: int | None = None
) -> Iterator[tuple[int, Window]]:
    """(index of the recording, window) over whole recordings, or the first ``most`` windows, cut as by the runtime."""
    for i, item in enumerate(items):
        recording = item.recording
        cut = windows(recording.blocks(), spec, recording.native_rate, name=str(recording.path))
        for window in islice(cut, most):
            yield i, window
