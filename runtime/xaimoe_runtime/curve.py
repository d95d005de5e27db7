"""Accuracy against the latency budget, on labelled recordings: which budget to choose."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from xaimoe_runtime.audio import Window
from xaimoe_runtime.budget import for_each
from xaimoe_runtime.costs import Percentile
from xaimoe_runtime.drawing import new_figure, save_figure
from xaimoe_runtime.errors import AudioError, DatasetError
from xaimoe_runtime.inference import file_windows, run_windows
from xaimoe_runtime.labels import normal_label, spelled
from xaimoe_runtime.metadata import Metadata, Split, read_metadata
from xaimoe_runtime.recording import warn_if_incomplete
from xaimoe_runtime.result import decide, pool
from xaimoe_runtime.schema import LINE, TaskKind, TaskSpec

if TYPE_CHECKING:
    from xaimoe_runtime.runtime import Runtime

LOG = logging.getLogger("xaimoe_runtime")

STEPS = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.25)
"""Budgets that are tried: the floor, and so much of what all the experts of a typical clip take on top."""
TYPICAL = 8
"""Recordings that a typical clip is made out from."""
LEAST_ROOM_MS = 0.5
"""What a budget has over the floor's own time, for the runtime's own work."""


@dataclass(frozen=True)
class Labelled:
    """A recording and what is in it."""

    path: Path
    labels: frozenset[str]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What a budget gives."""

    budget_ms: float | None
    """None: no budget."""
    right: float
    """Share of the recordings whose labels are all right."""
    pairs: float
    """Mean number of pairs run for a window."""
    degraded: float
    """Share of the windows of which pairs were left out."""
    late: float
    """Share of the windows that came after their deadline."""
    p50_ms: float
    p95_ms: float


def read_labelled(folder: Path, split: Split, task: TaskSpec | None = None) -> list[Labelled]:
    """Read the recordings of a split from a dataset's ``metadata.csv``, or all if it has no splits.

    What may be wrong with the table, such as labels that look alike, is logged as a warning.

    Args:
        folder: of the dataset.
        split: ``train``, ``val`` or ``test``.
        task: of the bundle, whose spelling labels get; a label that it does not know is a defect, since no answer
            could be right. If None, recordings may have any number of any labels.

    Raises:
        DatasetError: everything that is wrong with the table, with row numbers, or no recording in the split.
    """
    path = folder / "metadata.csv"
    kind: TaskKind = "multi_label" if task is None else task.kind
    table = read_metadata(path, folder, kind, (split,), default_split=split)
    known = {label: label for label in table.labels}
    if task is not None:
        known = {normal_label(label): label for label in task.labels}
        _note_unknown(table, known, task.labels)
    table.defects.raise_if_any()
    if not table.rows:
        raise DatasetError(f"{path}: found no recordings of split {split!r}; choose another with --split")
    for warning in table.warnings:
        LOG.warning("%s", warning)
    return [Labelled(row.path, frozenset(known[label] for label in row.labels)) for row in table.rows]


def _note_unknown(table: Metadata, known: Container[str], labels: tuple[str, ...]) -> None:
    """Note the labels of a table that are not ``known``, the normal forms of a bundle's labels."""
    for row in table.rows:
        for label in row.labels:
            if label not in known:
                meant = spelled(label, labels)
                hint = f" (meant {meant!r}?)" if meant else ""
                text = f"is not a label of the bundle, which has {', '.join(labels)}"
                table.defects.add(row.line, text, f"label {label!r}{hint}")


def budgets(runtime: Runtime, percentile: Percentile, most_pairs: float) -> list[float]:
    """Milliseconds that are worth trying, rising: from the floor to what so many pairs take on top."""
    costs = runtime.costs
    floor = sum(costs[stage].predict(1, percentile) for stage in LINE) + LEAST_ROOM_MS
    experts = [cost for name, cost in costs.items() if name.startswith("expert ")]
    pair = float(np.mean([cost.predict(1, percentile) for cost in experts]))
    return [round(floor + step * most_pairs * pair, 3) for step in STEPS]


def measure(
    runtime: Runtime,
    items: list[Labelled],
    percentile: Percentile,
    advance: Callable[[], None] = lambda: None,
    refused: Callable[[AudioError], None] = lambda _: None,
) -> list[Point]:
    """Points of the curve, by rising budget, the last without one. A file at a time, with all budgets one after the
    other, so that a disturbance hits all alike.

    Args:
        runtime: that answers.
        items: the recordings.
        percentile: of the graphs' costs to plan with.
        advance: is called after each recording.
        refused: is told of each that cannot be used; it counts for nothing.

    Raises:
        DatasetError: none can be used.
    """
    usable = (windows for item in items if (windows := _windows(runtime, item, None)))
    unbudgeted = list(islice(usable, TYPICAL))
    if not unbudgeted:
        raise DatasetError(f"{items[0].path}: found no recording that can be used, of {len(items)}")
    typical = max(float(np.median([runtime.infer(w.samples).trace.pairs[0] for ws in unbudgeted for w in ws])), 1.0)
    tried: list[float | None] = [*budgets(runtime, percentile, typical), None]
    tallies = [_Tally() for _ in tried]
    for item in items:
        windows = _windows(runtime, item, refused)
        for budget, tally in zip(tried, tallies, strict=True) if windows else ():
            tally.add(runtime, item, windows, budget, percentile)
        advance()
    return [tally.point(budget) for budget, tally in zip(tried, tallies, strict=True)]


def _windows(runtime: Runtime, item: Labelled, refused: Callable[[AudioError], None] | None) -> list[Window]:
    """The windows of a recording; none if it cannot be used, which ``refused`` is called with, if there is one."""
    try:
        reading = file_windows(item.path, runtime.audio)
        windows = [window for _, window in reading]
        if refused is not None:
            warn_if_incomplete(item.path, reading.completeness)
        return windows
    except AudioError as error:
        if refused is not None:
            refused(error)
        return []


class _Tally:
    """What a budget gave so far."""

    def __init__(self) -> None:
        self.right: list[bool] = []
        self.ms: list[float] = []
        self.pairs: list[int] = []
        self.degraded: list[bool] = []
        self.late: list[bool] = []

    def add(
        self, runtime: Runtime, item: Labelled, windows: list[Window], budget_ms: float | None, percentile: Percentile
    ) -> None:
        scores, sounding = [], []
        for window in windows:
            engine = runtime if budget_ms is None else runtime.within(for_each(budget_ms), percentile)
            start = perf_counter()
            outputs = run_windows(engine, [window], runtime.routing)
            self.ms.append((perf_counter() - start) * 1e3)
            scores.append(outputs.scores)
            sounding.append(outputs.sounding)
            self.pairs.append(int(outputs.pairs[0]))
            self.degraded.append(bool(outputs.degraded[0]))
            self.late.append(outputs.late)
        self.right.append(
            set(decide(pool(np.concatenate(scores), np.concatenate(sounding)), runtime.task)) == item.labels
        )

    def point(self, budget_ms: float | None) -> Point:
        p50, p95 = (float(p) for p in np.percentile(self.ms, [50, 95]))
        right, pairs, degraded, late = (float(np.mean(x)) for x in (self.right, self.pairs, self.degraded, self.late))
        return Point(
            budget_ms=budget_ms, right=right, pairs=pairs, degraded=degraded, late=late, p50_ms=p50, p95_ms=p95
        )


def describe(points: list[Point], recordings: int) -> str:
    """The curve as a table for a terminal."""
    head = f"{'budget ms':>10}{'right':>9}{'pairs':>8}{'degraded':>10}{'late':>8}{'p50 ms':>9}{'p95 ms':>9}"
    rows = [
        f"{'none' if p.budget_ms is None else f'{p.budget_ms:.2f}':>10}{p.right:>9.4f}{p.pairs:>8.2f}"
        f"{p.degraded:>10.1%}{p.late:>8.1%}{p.p50_ms:>9.2f}{p.p95_ms:>9.2f}"
        for p in points
    ]
    return "\n".join([f"{recordings} labelled recordings, a budget for each window", head, *rows])


def draw(points: list[Point], path: Path) -> None:
    """The curve as a figure, in the format of the file's ending.

    Raises:
        ProviderError: matplotlib is missing.
    """
    figure = new_figure(6.4, 3.6)
    budgeted = [(p.budget_ms, p) for p in points if p.budget_ms is not None]
    axes: Any = figure.add_subplot()
    at = [budget for budget, _ in budgeted]
    axes.plot(at, [100 * p.right for _, p in budgeted], marker="o", color="#0072b2", label="recordings right")
    axes.axhline(100 * points[-1].right, color="#0072b2", linestyle=":", label="without a budget")
    axes.set_xlabel("budget of a window [ms]")
    axes.set_ylabel("recordings right [%]", color="#0072b2")
    axes.set_ylim(max(100 * min(p.right for p in points) - 5, 0), 101)
    beside: Any = axes.twinx()
    beside.plot(at, [p.pairs for _, p in budgeted], marker="s", color="#d55e00", label="pairs run")
    beside.set_ylabel("pairs run, mean", color="#d55e00")
    beside.set_ylim(0, max(p.pairs for p in points) * 1.15 + 0.1)
    lines = [*axes.get_lines(), *beside.get_lines()]
    figure.legend(lines, [str(line.get_label()) for line in lines], loc="outside upper center", ncols=3, frameon=False)
    save_figure(figure, path)
