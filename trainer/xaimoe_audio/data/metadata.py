"""Reading ``metadata.csv``: every defect of the table is found and reported at once, with its row."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xaimoe_audio.config import SPLITS, Split
from xaimoe_runtime.errors import DatasetError
from xaimoe_runtime.result import UNKNOWN
from xaimoe_runtime.schema import TaskKind

COLUMNS = ("filepath", "split", "label")
MAX_LISTED = 50
"""Defects that are spelled out; the rest are counted."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    line: int
    """Line in the file; the header is line 1."""
    filepath: str
    """As written in the table."""
    path: Path
    split: Split
    labels: tuple[str, ...]
    group: str
    """Recording, speaker or vessel; empty if the table does not say."""


@dataclass
class Defects:
    """What is wrong with a dataset, collected until all of it is known."""

    source: Path
    found: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """Notes a defect of a row; line 0 is the whole table."""
        self.found.append((line, text))

    def listed(self) -> list[str]:
        """All defects by row, one text each."""
        return [f"row {line}: {text}" if line else text for line, text in sorted(self.found)]

    def raise_if_any(self) -> None:
        """Raises one DatasetError that lists all defects, by row."""
        if not self.found:
            return
        listed = self.listed()
        more = len(listed) - MAX_LISTED
        tail = f"; and {more} more" if more > 0 else ""
        raise DatasetError(f"{self.source}: {len(listed)} defect(s): {'; '.join(listed[:MAX_LISTED])}{tail}")


def read_metadata(
    metadata_csv: Path, dataset_dir: Path, task: TaskKind, splits: tuple[Split, ...] = SPLITS
) -> tuple[list[Row], Defects]:
    """The rows of ``splits`` that can be used, and what is wrong with the table so far; nothing is decoded yet.

    Files of other splits need not be there. Classes must be trained if ``splits`` has ``train``.

    Raises:
        DatasetError: folder or table is missing, not a CSV file, without the columns, or without rows.
    """
    if not dataset_dir.is_dir():
        raise DatasetError(f"{dataset_dir}: no such folder; expected the folder that the file paths are relative to")
    if not metadata_csv.is_file():
        raise DatasetError(f"{metadata_csv}: no such file; expected a CSV table with the columns {','.join(COLUMNS)}")
    defects = Defects(metadata_csv)
    first_line: dict[Path, int] = {}
    rows: list[Row] = []
    readable: list[Row] = []
    for line, cells in _read_table(metadata_csv, defects):
        filepath, split, label = (cells[column].strip() for column in COLUMNS)
        path = Path(os.path.normpath(dataset_dir / filepath))
        labels = _labels(label, task, line, defects)
        row: Row | None = None
        if split not in SPLITS:
            defects.add(line, f"split is {split!r}, expected train, val or test")
        elif "" not in labels:
            row = Row(line, filepath, path, _split(split), labels, cells.get("group", "").strip())
            readable.append(row)
        if not filepath:
            defects.add(line, "filepath is empty")
        elif not path.is_relative_to(os.path.normpath(dataset_dir)):
            defects.add(line, f"{filepath} lies outside {dataset_dir}")
        elif path in first_line:
            defects.add(line, f"{filepath} stands already in row {first_line[path]}")
        elif split in splits and not _is_file(path):
            defects.add(line, f"{filepath} does not exist under {dataset_dir}")
        elif split in splits and row is not None:
            rows.append(row)
        first_line.setdefault(path, line)
    _check_across(readable, defects, training="train" in splits)
    return rows, defects


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, or a folder without permission
        return False


def _read_table(path: Path, defects: Defects) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells by column) of each row that has as many cells as the header; a row that has not is a defect."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [column.strip() for column in next(reader, [])]
            missing = [column for column in COLUMNS if column not in header]
            if missing:
                raise DatasetError(f"{path}: found the columns {', '.join(header)}; missing: {', '.join(missing)}")
            empty = True
            for cells in reader:
                if not cells:
                    continue  # a blank line
                empty = False
                if len(cells) == len(header):
                    yield reader.line_num, dict(zip(header, cells, strict=True))
                else:
                    defects.add(reader.line_num, f"found {len(cells)} fields, the header has {len(header)}")
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DatasetError(f"{path}: not readable as CSV ({error}); expected UTF-8 text with commas") from error
    if empty:
        raise DatasetError(f"{path}: found no rows, expected one for each recording")


def _split(text: str) -> Split:
    return next(split for split in SPLITS if split == text)


def _labels(text: str, task: TaskKind, line: int, defects: Defects) -> tuple[str, ...]:
    labels = tuple(sorted({part.strip() for part in text.split("|")}))
    if "" in labels:
        defects.add(line, f"label is {text!r}, expected a class name" if text.strip() else "label is empty")
    elif UNKNOWN in labels:
        defects.add(line, f"label {UNKNOWN!r} is what a model answers when no score is high enough; use another name")
    elif len(labels) > 1 and task == "single_label":
        defects.add(line, f"label {text!r} names {len(labels)} classes, expected one; or train with task multi_label")
    return labels


def _check_across(rows: Iterable[Row], defects: Defects, training: bool) -> None:
    """What only several rows together show: classes that are never trained, and groups that leak."""
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
            defects.add(line, f"class {label!r} has no recording in split train")
    for group, splits in splits_of.items():
        if len(splits) > 1:
            names = ", ".join(split for split in SPLITS if split in splits)
            defects.add(first_in[group], f"group {group!r} stands in the splits {names}, which leaks; keep it in one")
