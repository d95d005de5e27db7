"""The one reader of a dataset's ``metadata.csv``, for training and for the device.

The table has the columns ``filepath``, ``split``, ``label`` and, if recordings belong together, ``group``; see README.
Nothing is decoded: every defect of the table is found, and reported with its rows, before a recording is opened.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from xaimoe_runtime.dataset_files import DatasetFiles, Located
from xaimoe_runtime.defects import Defects
from xaimoe_runtime.errors import DatasetError
from xaimoe_runtime.labels import is_label, look_alikes, normal_label, split_labels
from xaimoe_runtime.metadata_csv import Table, read_table, shown, strip_cell
from xaimoe_runtime.result import UNKNOWN
from xaimoe_runtime.schema import MAX_TEXT, TaskKind

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
COLUMNS = ("filepath", "split", "label")
GROUP = "group"
KNOWN = (*COLUMNS, GROUP)
OTHER_NAMES: dict[str, Split] = {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "development": "val",
    "testing": "test",
    "evaluation": "test",
}
"""What other tables call the splits; a message names ours."""


@dataclass(frozen=True)
class Row:
    """One recording of the table."""

    line: int
    """Line in the file; the header is usually line 1."""
    filepath: str
    """As written in the table."""
    path: Path
    """The file, under the dataset folder."""
    split: Split
    labels: tuple[str, ...]
    """Sorted; none if the recording holds no class (``multi_label``)."""
    group: str
    """Recording, speaker or vessel; empty if the table does not say."""


@dataclass(frozen=True)
class Metadata:
    """What a table holds."""

    rows: list[Row]
    """Those of the requested splits that can be used, in the table's order."""
    defects: Defects
    """What is wrong with the table; further defects of the recordings may be added."""
    warnings: tuple[str, ...]
    """What may be wrong: labels that look alike."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes of the rows, sorted as strings."""
        return tuple(sorted({label for row in self.rows for label in row.labels}))


def read_metadata(
    metadata_csv: Path,
    dataset_dir: Path,
    task: TaskKind,
    splits: tuple[Split, ...] = SPLITS,
    default_split: Split | None = None,
) -> Metadata:
    """Read a dataset's table and find everything that is wrong with it; no recording is opened.

    Files of other splits need not be there. Classes must be trained if ``splits`` has ``train``.

    Args:
        metadata_csv: the table: CSV, tab- or semicolon-separated text, in UTF-8 or UTF-16.
        dataset_dir: the folder that the file paths are relative to; nothing outside of it is taken.
        task: with ``multi_label`` an empty label means that the recording holds no class.
        splits: whose rows are returned.
        default_split: split of all rows if the table has no such column; None if it must have one.

    Raises:
        DatasetError: folder or table is missing, not a table of text, without the columns, or without rows.
    """
    if not dataset_dir.is_dir():
        raise DatasetError(f"{dataset_dir}: no such folder; expected the folder that the file paths are relative to")
    if not metadata_csv.is_file():
        raise DatasetError(f"{metadata_csv}: no such file; expected a CSV table with the columns {','.join(COLUMNS)}")
    table = read_table(metadata_csv, KNOWN)
    places = _columns(metadata_csv, table, default_split is None)
    if not table.rows:
        raise DatasetError(f"{metadata_csv}: found no rows, expected one for each recording")
    reader = _Reader(Defects(metadata_csv), DatasetFiles(dataset_dir), task, splits)
    width = len(table.columns)
    for line, cells in table.rows:
        while len(cells) > width and not strip_cell(cells[-1]):
            cells.pop()  # empty cells that a spreadsheet adds
        if len(cells) != width:
            reader.defects.add(line, f"found {len(cells)} fields, the header has {width}")
            continue
        reader.read(line, {name: cells[place] for name, place in places.items()}, default_split)
    _check_across(reader.complete, reader.defects, training="train" in splits)
    return Metadata(reader.rows, reader.defects, _warnings(reader.complete))


def _columns(path: Path, table: Table, needs_split: bool) -> dict[str, int]:
    """Return where the known columns are.

    Raises:
        DatasetError: one is missing, or there twice.
    """
    needed = COLUMNS if needs_split else tuple(name for name in COLUMNS if name != "split")
    missing = [name for name in needed if name not in table.columns]
    if not table.columns:
        raise DatasetError(f"{path}: found an empty file, expected a header with the columns {','.join(needed)}")
    if missing:
        found = shown(", ".join(table.columns))
        hint = "; a table has no comment lines" if table.columns[0].startswith("#") else ""
        raise DatasetError(f"{path}: found the columns {found}; missing: {', '.join(missing)}{hint}")
    twice = [name for name in KNOWN if table.columns.count(name) > 1]
    if twice:
        raise DatasetError(f"{path}: found the column {', '.join(twice)} more than once; keep one of each")
    return {name: table.columns.index(name) for name in KNOWN if name in table.columns}


class _Reader:
    """Rows on their way from cells to recordings."""

    def __init__(self, defects: Defects, files: DatasetFiles, task: TaskKind, splits: tuple[Split, ...]) -> None:
        self.defects, self.files, self.task, self.splits = defects, files, task, splits
        self.rows: list[Row] = []
        """Those of the requested splits that can be used."""
        self.complete: list[Row] = []
        """Those of all splits whose label and split are right, whether or not the file is there."""
        self._first: dict[object, tuple[int, str, tuple[str, ...] | None]] = {}
        """Line, path and labels of the first row of each file."""

    def read(self, line: int, cells: dict[str, str], default_split: Split | None) -> None:
        """Take one row, or note what is wrong with it."""
        filepath = strip_cell(cells["filepath"])
        split = self._split(line, cells["split"]) if "split" in cells else default_split
        labels = self._labels(line, cells["label"])
        if not filepath:
            self.defects.add(line, "filepath is empty")
        located = self.files.locate(cells["filepath"]) if filepath else None
        usable = located is not None and self._check_file(line, filepath, located, labels, split in self.splits)
        if split is None or labels is None:
            return
        path = self.files.folder / filepath if located is None else located.path
        row = Row(line, filepath, path, split, labels, normal_label(cells.get(GROUP, "")))
        self.complete.append(row)
        if usable and split in self.splits:
            self.rows.append(row)

    def _split(self, line: int, cell: str) -> Split | None:
        name = strip_cell(cell)
        for split in SPLITS:
            if name == split:
                return split
        lower = name.lower()
        meant = lower if lower in SPLITS else OTHER_NAMES.get(lower)
        if not name:
            self.defects.add(line, "split is empty, expected train, val or test")
        else:
            self.defects.add(line, f"split is {shown(name)!r}, expected {meant or 'train, val or test'}")
        return None

    def _labels(self, line: int, cell: str) -> tuple[str, ...] | None:
        """Return the labels of a row; None if they are a defect."""
        labels, add = split_labels(cell), self.defects.add
        subject = f"label {shown(strip_cell(cell))!r}"
        if not labels and self.task == "single_label":
            add(line, "label is empty; expected a class name (with task multi_label, empty means no class)")
        elif "" in labels:
            add(line, "has an empty part, expected a class name on each side of |", subject)
        elif UNKNOWN in labels:
            add(line, "is what a model answers when no score is high enough; use another name", subject)
        elif not all(is_label(label) for label in labels):
            add(line, f"has a control character, or more than {MAX_TEXT} letters; expected plain text", subject)
        elif len(labels) > 1 and self.task == "single_label":
            add(line, f"names {len(labels)} classes, expected one; or use task multi_label", subject)
        else:
            return labels
        return None

    def _check_file(
        self, line: int, filepath: str, located: Located, labels: tuple[str, ...] | None, needed: bool
    ) -> bool:
        """Return whether a row's file can be used; note why not."""
        add = self.defects.add
        outside = located.problem.startswith("lies outside")
        for key in (located.key, located.identity):
            if key is None or outside:
                continue
            if key not in self._first:
                self._first[key] = line, filepath, labels
            elif self._first[key][0] != line:
                first_line, first_path, first_labels = self._first[key]
                linked = key == located.identity
                text = "is the same file as that of another row, through a link" if linked else "is listed already"
                differing = "" if labels == first_labels else ", with other labels"
                earlier = f"row {first_line}: {shown(first_path)}" if linked else f"row {first_line}"
                add(line, f"{text}{differing}; keep one row", f"{shown(filepath)} ({earlier})")
                return False
        if located.problem and (needed or outside):
            similar = f" (found {shown(located.similar)})" if located.similar else ""
            add(line, located.problem, shown(filepath) + similar)
        return not located.problem


def _check_across(rows: Iterable[Row], defects: Defects, training: bool) -> None:
    """Note what only several rows together show: classes that are never trained, and groups that leak."""
    trained: set[str] = set()
    splits_of: dict[str, set[str]] = defaultdict(set)
    first_in: dict[str, int] = {}
    first_of_class: dict[str, int] = {}
    for row in rows:
        if row.split == "train":
            trained.update(row.labels)
        for label in row.labels:
            first_of_class.setdefault(label, row.line)
        if row.group:
            splits_of[row.group].add(row.split)
            first_in.setdefault(row.group, row.line)
    for label, line in first_of_class.items():
        if training and label not in trained:
            defects.add(line, "has no recording in split train", f"class {shown(label)!r}")
    for group, splits in splits_of.items():
        if len(splits) > 1:
            names = ", ".join(split for split in SPLITS if split in splits)
            text = f"is in the splits {names}, which leaks; keep it in one"
            defects.add(first_in[group], text, f"group {shown(group)!r}")


def _warnings(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return a sentence for each set of labels that look alike."""
    first: dict[str, int] = {}
    for row in rows:
        for label in row.labels:
            first.setdefault(label, row.line)
    return tuple(
        f"labels look alike: {', '.join(f'{label!a} (row {first[label]})' for label in group)}; if they are one class, "
        "write it in one way"
        for group in look_alikes(first)
    )
