"""A dataset in memory: its table, its decoded recordings, and the clips cut from them."""

from __future__ import annotations

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
from xaimoe_runtime.audio import Window, open_recording, parse_channel, windows
from xaimoe_runtime.console import progress
from xaimoe_runtime.cpu import available_cores
from xaimoe_runtime.defects import Defects
from xaimoe_runtime.errors import AudioError, DatasetError
from xaimoe_runtime.labels import normal_label, spelled
from xaimoe_runtime.metadata import Row, read_metadata
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
        """Return 1 for each class that a recording holds, [N, L], in the order of ``labels``.

        A recording without a class has a row of zeros.

        Raises:
            DatasetError: a recording has a class that is not among ``labels``.
        """
        # A model of an earlier version may have labels in another normal form than the table's.
        column = {normal_label(label): i for i, label in enumerate(labels)}
        unknown = sorted({label for item in items for label in item.row.labels} - column.keys())
        if unknown:
            meant = dict.fromkeys(known for label in unknown if (known := spelled(label, labels)) is not None)
            hint = f"; write {', '.join(meant)} as the model does" if meant else ""
            raise DatasetError(
                f"found the class(es) {', '.join(unknown)}, which the model does not know; it knows "
                f"{', '.join(labels)}{hint}"
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


def check_trainable(dataset_dir: Path, metadata_csv: Path, task: TaskKind) -> None:
    """Check a table before hours of work: whether a model could be trained on it. No recording is opened.

    Raises:
        DatasetError: everything that is wrong with the table, with row numbers.
    """
    table = read_metadata(metadata_csv, dataset_dir, task)
    _require(("train", "val"), table.rows, table.defects)
    table.defects.raise_if_any()
    labels = table.labels
    for split in ("train", "val"):
        if not any(row.labels for row in table.rows if row.split == split):
            raise DatasetError(f"{metadata_csv}: found no class in split {split}, expected one; every label is empty")
    if task == "single_label" and len(labels) < 2:
        raise DatasetError(f"{metadata_csv}: found one class, {labels[0]!r}; expected at least two to tell apart")


def _require(splits: tuple[Split, ...], rows: Sequence[Row], defects: Defects) -> None:
    """Note the splits that have no usable recording."""
    for split in splits:
        if not any(row.split == split for row in rows):
            defects.add(0, f"split {split} has no usable recording, expected at least one")


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
    """Check the table, then decode the recordings of ``splits`` at ``rate`` Hz, with a progress bar on stderr.

    With channel ``each`` every channel of a file is a recording of its own, in the file's split. The ``required``
    splits must not be empty. Of more than ``most`` files, as many are taken, evenly over the table. With ``refused``,
    which is told of each, defects are left out.

    Raises:
        DatasetError: all defects of the table in one message, before anything is decoded; else all of the recordings,
            each with its row. With ``refused`` only if nothing can be used.
    """
    table = read_metadata(metadata_csv, dataset_dir, task, splits)
    rows, defects = table.rows, table.defects
    _require(required, rows, defects)
    if refused is None:
        defects.raise_if_any()
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
                return AudioError(f"{row.path}: found too few samples to resample; record a longer one")
            return found
        except AudioError as error:
            return error

    items: list[LabelledRecording] = []
    with ThreadPoolExecutor(available_cores()) as pool, progress("decoding", len(rows)) as advance:
        for row, loaded in zip(rows, pool.map(load, rows), strict=True):
            if isinstance(loaded, AudioError):
                defects.add(row.line, *problem_of(row, loaded))
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


def problem_of(row: Row, error: AudioError) -> tuple[str, str]:
    """Return what is wrong with a recording, and the recording; equal problems of several are reported together."""
    return str(error).removeprefix(f"{row.path}: "), row.filepath


def windows_of(
    items: list[LabelledRecording], spec: AudioSpec, most: int | None = None
) -> Iterator[tuple[int, Window]]:
    """(index of the recording, window) over whole recordings, or the first ``most`` windows, cut as by the runtime."""
    for i, item in enumerate(items):
        recording = item.recording
        source = recording.blocks(), spec, recording.native_rate
        cut = windows(*source, name=str(recording.path), encoding=recording.encoding)
        for window in islice(cut, most):
            yield i, window
