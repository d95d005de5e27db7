"""Results as people read them: what ``print(result)`` shows, and its HTML for notebooks."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from xaimoe_runtime.result import Result

SILENT = "silent"
MAX_SCORES, MAX_CLIPS = 5, 10
"""Scores of a clip, and clips of a batch, that are shown."""


def best_scores(result: Result) -> list[list[tuple[str, float]]]:
    """Return the names and values of each clip's best scores, best first; none for a silent clip."""
    rows: NDArray[np.float32] = np.atleast_2d(result.scores)
    names = result.classes or tuple(str(number) for number in range(rows.shape[1]))
    return [
        [(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:MAX_SCORES]] if row.any() else []
        for row in rows[:MAX_CLIPS]
    ]


def answers(result: Result) -> list[tuple[str, ...]]:
    """Return the labels of each clip."""
    labels = [result.labels] if result.scores.ndim == 1 else result.labels
    return [tuple(str(label) for label in clip) for clip in labels]


def remarks(result: Result) -> str:
    """Return what else matters about an answer, in a few words."""
    pairs, windows = int(result.trace.pairs.sum()), len(result.trace.gates)
    silent = int(np.count_nonzero(result.trace.sounding == 0))
    text = f"{result.trace.routing}, {pairs} pairs run in {windows} window{'s' if windows > 1 else ''}"
    text += f" ({silent} silent)" if silent else ""
    text += f", {sum(result.trace.ms.values()):.1f} ms"
    text += (", degraded" if result.degraded else "") + (", late" if result.late else "")
    return "; ".join([text, *result.warnings])


def as_text(result: Result) -> str:
    """Return a line for each clip, with its labels and best scores."""
    more = result.scores.shape[-1] - MAX_SCORES
    lines = []
    for labels, scores in zip(answers(result), best_scores(result), strict=False):
        shown = ", ".join(f"{name} {value:.3f}" for name, value in scores) + (f", and {more} more" if more > 0 else "")
        shown = shown if scores else SILENT
        lines.append(f"{', '.join(labels) or 'no label'} ({shown})")
    if (left := len(answers(result)) - len(lines)) > 0:
        lines.append(f"and {left} more clips")
    return "\n".join([*lines, remarks(result)])


def as_html(result: Result) -> str:
    """Return a table with a row for each clip."""
    rows = []
    for labels, scores in zip(answers(result), best_scores(result), strict=False):
        cells = "".join(f"<td>{html.escape(name)} {value:.3f}</td>" for name, value in scores) or f"<td>{SILENT}</td>"
        rows.append(f"<tr><th>{html.escape(', '.join(labels)) or 'no label'}</th>{cells}</tr>")
    if (left := len(answers(result)) - len(rows)) > 0:
        rows.append(f"<tr><th>and {left} more clips</th></tr>")
    return f"<table>{''.join(rows)}</table><p>{html.escape(remarks(result))}</p>"
