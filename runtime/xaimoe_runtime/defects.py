"""What is wrong with a dataset, collected until all of it is known, and reported in one message."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xaimoe_runtime.errors import DatasetError
from xaimoe_runtime.metadata_csv import shown

MAX_LISTED = 50
"""Lines of a report; further defects are counted."""
MAX_SUBJECTS = 5
"""Files or labels that a line names; the rest are counted."""
MAX_RANGES = 8
"""Ranges of rows that a line names."""


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong."""

    line: int
    """Line in the table; 0 is the whole table."""
    text: str
    """What is wrong. Defects with the same text are reported together."""
    subject: str = ""
    """The file or label, if the text needs one."""


@dataclass
class Defects:
    """Defects of one table and of its recordings."""

    source: Path
    """The table."""
    found: list[Defect] = field(default_factory=list)

    def add(self, line: int, text: str, subject: str = "") -> None:
        """Note a defect of a row; line 0 is the whole table."""
        self.found.append(Defect(line, text, shown(subject)))

    def listed(self) -> list[str]:
        """Return a line for each kind of defect, by row."""
        groups: dict[str, list[Defect]] = {}
        for defect in sorted(self.found, key=lambda defect: defect.line):
            groups.setdefault(defect.text, []).append(defect)
        return [_described(group) for group in groups.values()]

    def raise_if_any(self) -> None:
        """Raise one DatasetError that lists all defects, one kind a line.

        Raises:
            DatasetError: there are any.
        """
        if not self.found:
            return
        lines = self.listed()
        more = len(lines) - MAX_LISTED
        tail = [f"and {more} more"] if more > 0 else []
        listed = "\n  ".join([*lines[:MAX_LISTED], *tail])
        raise DatasetError(f"{self.source}: {len(self.found)} defect(s):\n  {listed}")


def _described(group: list[Defect]) -> str:
    """Return the line for defects with the same text."""
    first = group[0]
    if len(group) == 1:
        row = f"row {first.line}: " if first.line else ""
        return row + (f"{first.subject}: " if first.subject else "") + first.text
    subjects = list(dict.fromkeys(defect.subject for defect in group if defect.subject))
    named = ", ".join(subjects[:MAX_SUBJECTS])
    if len(subjects) > MAX_SUBJECTS:
        named += f" and {len(subjects) - MAX_SUBJECTS} more"
    rows = ranges([defect.line for defect in group])
    return f"rows {rows}: {first.text} ({len(group)} rows)" + (named and f": {named}")


def ranges(lines: Sequence[int]) -> str:
    """Return rising line numbers in words, as in ``2-4, 9``; many of them are cut short."""
    spans: list[list[int]] = []
    for line in lines:
        if spans and line <= spans[-1][1] + 1:
            spans[-1][1] = line
        else:
            spans.append([line, line])
    text = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in spans[:MAX_RANGES])
    return text + (" and others" if len(spans) > MAX_RANGES else "")
