"""Metrics as people read them: the table at the end of a training, and what ``print`` shows of ``evaluate``."""

from __future__ import annotations

import html
import math
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from xaimoe_audio.training.metrics import headline, measure
from xaimoe_runtime.schema import ROUTINGS, TaskSpec

Floats = NDArray[np.float32]
MAX_GROUPS = 20
"""Groups of recordings for the jackknife."""
HEADLINES = ("recordings", "incomplete", "accuracy", "mAP", "macro_f1", "ece")
COUNTS = ("recordings", "incomplete")
MAX_CLASSES = 20
"""Classes that ``print`` shows."""


class Gain(TypedDict):
    """How much the experts add to the glance on a split, as ``metrics.json`` has it."""

    gain: float
    """Headline metric of the routed model minus that of the glance alone."""
    error: float | None
    """Standard error of the gain; None (null) if the split has too few recordings to know it."""


def shown(value: float | None) -> str:
    """Return a metric for a table; a split that holds no class has none."""
    return "-" if value is None else f"{value:.3f}"


class Metrics(dict[str, Any]):
    """The metrics of a split: a dictionary that is printed as a short table, in notebooks as HTML."""

    def _rows(self) -> list[tuple[str, str]]:
        """Names and values; classes with the smallest value first."""
        rows = [(name, shown(self[name]) if name not in COUNTS else str(self[name])) for name in self._shown()]
        classes = sorted(self.get("per_class", {}).items(), key=lambda item: item[1])
        kind = "average precision" if "mAP" in self else "F1"
        rows += [(f"{kind} of {label}", f"{value:.3f}") for label, value in classes[:MAX_CLASSES]]
        if len(classes) > MAX_CLASSES:
            rows.append((f"and {len(classes) - MAX_CLASSES} more classes", ""))
        return rows

    def _shown(self) -> list[str]:
        return [name for name in HEADLINES if name in self and (name != "incomplete" or self[name])]

    def __str__(self) -> str:
        rows = self._rows()
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{name:<{width}}  {value:>6}".rstrip() for name, value in rows]
        others = [name for name in self if name not in (*HEADLINES, "per_class")]
        return "\n".join([*lines, f"also: {', '.join(others)}"] if others else lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        cells = (f"<tr><th>{html.escape(name)}</th><td>{value}</td></tr>" for name, value in self._rows())
        return f"<table>{''.join(cells)}</table>"


def gain_over_glance(routed: Floats, glance: Floats, targets: Floats, task: TaskSpec) -> Gain:
    """Return how much the experts add to the glance on a split, and how uncertain that is with so few recordings.

    The standard error is that of the difference of the headline metric by the delete-a-group jackknife over recordings
    (J. Shao and C. F. J. Wu, 1989), which leaves out each of up to 20 groups in turn.

    Args:
        routed: scores [N, L] of the routed model.
        glance: scores [N, L] of the glance alone.
        targets: [N, L].
        task: what the model answers.

    Returns:
        The difference of the headline metric and its standard error, which is not known of one recording. A split that
        holds no class has no such metric: the gain is 0, its error not known.
    """
    metric, count = headline(task), len(targets)

    def difference(kept: NDArray[Any]) -> float:
        with_experts, without_experts = (
            measure(scores[kept], targets[kept], task)[metric] for scores in (routed, glance)
        )
        return math.nan if with_experts is None else float(with_experts - without_experts)

    groups = min(MAX_GROUPS, count)
    gain = difference(np.ones(count, bool))
    if math.isnan(gain) or groups < 2:
        return {"gain": 0.0 if math.isnan(gain) else gain, "error": None}
    without = np.array([difference(np.arange(count) % groups != group) for group in range(groups)])
    if np.isnan(without).any():  # the only recordings with a class are in one group
        return {"gain": gain, "error": None}
    error = math.sqrt((groups - 1) / groups * float(np.square(without - without.mean()).sum()))
    return {"gain": gain, "error": error}


def closing_table(figures: dict[str, dict[str, Any]], gains: dict[str, Gain], ms: dict[str, float], engine: str) -> str:
    """Return the table that ends a training.

    Args:
        figures: what ``metrics.json`` holds, by split.
        gains: by split, what :func:`gain_over_glance` returns.
        ms: by routing, milliseconds of a window.
        engine: what took that long.
    """
    rows = [("", *ROUTINGS, "")]
    for split, found in figures.items():
        metric = _metric(found)
        scores = (shown(found["by_routing"][routing][metric]) for routing in ROUTINGS)
        rows.append((f"{split} {metric}", *scores, f"{found['recordings']} recordings"))
    macs = next(reversed(figures.values()))["macs"]
    cost = {"routed": macs["routed"], "dense": macs["dense"], "glance": macs["floor"]}
    rows.append(
        (
            "MACs of a window",
            *(f"{cost[r] / 1e6:.2f} M" for r in ROUTINGS),
            f"and {macs['frontend'] / 1e6:.2f} M before",
        )
    )
    rows.append(("time of a window", *(f"{ms[r]:.2f} ms" for r in ROUTINGS), engine))
    lines = [f"{row[0]:<18}{row[1]:>12}{row[2]:>12}{row[3]:>12}  {row[4]}".rstrip() for row in rows]
    return "\n".join([*lines, *verdicts(figures, gains)])


def verdicts(figures: dict[str, dict[str, Any]], gains: dict[str, Gain]) -> list[str]:
    """Return a line if the experts do not show a gain over the glance, with the numbers.

    The test split decides, or the validation split where there is none. A gain shows if it is more than two standard
    errors.

    Args:
        figures: what ``metrics.json`` holds, by split; the test split last.
        gains: by split, what :func:`gain_over_glance` returns.
    """
    split = next(reversed(figures))
    gain, error = gains[split]["gain"], gains[split]["error"]
    if error is not None and gain > 2 * error:
        return []
    name, count = _metric(figures[split]), figures[split]["recordings"]
    over = f"{count} {split} recordings" if split == "test" else f"{count} {split} recordings (there is no test split)"
    if error is not None and gain < -2 * error:
        return [f"The experts make it worse: {name} routed minus glance is {gain:+.3f} ± {2 * error:.3f} on {over}."]
    spread = f"{gain:+.3f}" if error is None else f"{gain:+.3f} ± {2 * error:.3f} (two standard errors)"
    return [
        f"The experts add nothing that {over} can show: {name} routed minus glance is {spread}. More recordings may "
        "show it; or run the glance alone (routing glance), which costs less."
    ]


def _metric(figures: dict[str, Any]) -> str:
    """Return the name of the headline metric among those by routing: accuracy, or mAP of several labels."""
    (name,) = (name for name in figures["by_routing"]["routed"] if name != "ece")
    return str(name)
