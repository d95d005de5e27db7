"""What a model answers: raw outputs of a batch of windows, and the result of a recording made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.drift import drifted, excess, familiarity, novelty
from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.presentation import as_html, as_text
from xaimoe_runtime.schema import AttributeSpec, AudioSpec, Routing, TaskSpec

Floats = NDArray[np.float32]

UNKNOWN = "unknown"
"""Answered in place of a label when no score reaches ``min_score``."""


@dataclass(frozen=True)
class Outputs:
    """What a model says about N windows."""

    scores: Floats
    """[N, L]"""
    attributes: Floats
    """[N, A]"""
    saliency: Floats
    """[N, P]; sums to 1"""
    gates: Floats
    """[N, P, E]; the gates of the pairs that were run"""
    ms: dict[str, float]
    """Milliseconds spent on the whole batch, by stage."""
    left_out: Floats
    """[N, P, E]; the gates of the pairs that were chosen but did not fit into the budget"""
    predicted_ms: dict[str, float] = field(default_factory=dict)
    """Milliseconds that the stages were expected to take, the experts for the pairs that were run; none without a
    budget."""
    late: bool = False
    """Whether it came after its deadline."""

    @property
    def degraded(self) -> NDArray[np.bool_]:
        """Whether pairs were left out, [N]."""
        return np.asarray(self.left_out.any(axis=(1, 2)))

    @property
    def pairs(self) -> NDArray[np.intp]:
        """(patch, expert) pairs run for each window, [N]."""
        counts: NDArray[np.intp] = np.count_nonzero(self.gates, axis=(1, 2))
        return counts

    def row(self, i: int) -> Outputs:
        """Those of one window; its times are its share of the batch's."""
        count = len(self.scores)
        return Outputs(
            scores=self.scores[i : i + 1],
            attributes=self.attributes[i : i + 1],
            saliency=self.saliency[i : i + 1],
            gates=self.gates[i : i + 1],
            ms={stage: ms / count for stage, ms in self.ms.items()},
            left_out=self.left_out[i : i + 1],
            predicted_ms={stage: ms / count for stage, ms in self.predicted_ms.items()},
            late=self.late,
        )

    @staticmethod
    def join(parts: list[Outputs]) -> Outputs:
        """The outputs of several batches as those of one."""
        if len(parts) == 1:
            return parts[0]
        return Outputs(
            scores=np.concatenate([part.scores for part in parts]),
            attributes=np.concatenate([part.attributes for part in parts]),
            saliency=np.concatenate([part.saliency for part in parts]),
            gates=np.concatenate([part.gates for part in parts]),
            ms=_added([part.ms for part in parts]),
            left_out=np.concatenate([part.left_out for part in parts]),
            predicted_ms=_added([part.predicted_ms for part in parts]),
            late=any(part.late for part in parts),
        )


def _added(parts: list[dict[str, float]]) -> dict[str, float]:
    """Sums by stage; parts that were run another way have other ones."""
    stages = dict.fromkeys(stage for part in parts for stage in part)
    return {stage: sum(part.get(stage, 0.0) for part in parts) for stage in stages}


class Engine(Protocol):
    """A model that answers: the ONNX bundle on a device, or the checkpoint in PyTorch."""

    task: TaskSpec
    audio: AudioSpec
    provider: str
    """What computes: an execution provider, or PyTorch and its device."""
    name: str
    """The bundle or checkpoint, for messages."""
    experts: tuple[str, ...]
    """Names of the experts, the last axis of the gates."""
    attribute_names: tuple[str, ...]
    usual: tuple[AttributeSpec, ...]
    """How the signal attributes are distributed over the training split; none if that is not known."""
    pairs_possible: int
    """(patch, expert) pairs of a window."""

    def run(self, waveform: Floats, source: Floats, routing: Routing) -> Outputs:
        """``waveform`` [N, S] at the model's rate and ``source`` [N, 2] -> outputs."""
        ...


@dataclass(frozen=True)
class Trace:
    """How the answer came about, for each of the N windows that were looked at."""

    routing: Routing
    experts: tuple[str, ...]
    """Names of the experts, the last axis of ``gates``."""
    attribute_names: tuple[str, ...]
    attributes: Floats
    """[N, A]"""
    saliency: Floats
    """[N, P]"""
    gates: Floats
    """[N, P, E]; zero for a pair that was not run"""
    ms: dict[str, float]
    """Milliseconds spent, by stage, over all windows."""
    left_out: Floats
    """[N, P, E]; gates of the pairs that were chosen but did not fit into the budget"""
    predicted_ms: dict[str, float]
    """Milliseconds that the stages were expected to take; none without a budget."""
    usual: tuple[AttributeSpec, ...] = ()
    """How the attributes are distributed over the training split, if that is known."""

    @cached_property
    def pairs(self) -> NDArray[np.intp]:
        """Pairs run, [N]."""
        counts: NDArray[np.intp] = np.count_nonzero(self.gates, axis=(1, 2))
        return counts

    @cached_property
    def excess(self) -> Floats:
        """How far each window's attributes lie outside the usual, [N, A]."""
        return excess(self.attributes, self.usual)

    @property
    def drift(self) -> tuple[tuple[str, ...], ...]:
        """Names of each window's attributes that are unlike the training split's, [N]."""
        return drifted(self.excess, self.usual)

    @cached_property
    def familiarity(self) -> Floats:
        """How usual each window's attributes are, 0…1, [N]."""
        return familiarity(self.excess)


@dataclass(frozen=True, repr=False)
class Result:
    """The answer for one clip, or for a batch of clips; ``print`` shows its labels and best scores by name."""

    labels: tuple[str, ...] | tuple[tuple[str, ...], ...]
    """Labels of the clip, best first; for a batch, one such tuple for each clip."""
    scores: Floats
    """[L] for one clip, [B, L] for a batch; in the order of the model's labels."""
    trace: Trace
    degraded: bool = False
    """Whether pairs were left out for want of time."""
    late: bool = False
    """Whether the answer came after the deadline."""
    spans: tuple[slice, ...] = (slice(None),)
    """Of each clip, its windows in the trace."""
    classes: tuple[str, ...] = ()
    """Name of each score, [L]; empty where only the model knows them."""

    def __str__(self) -> str:
        return as_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self)

    @cached_property
    def novelty(self) -> float | Floats:
        """0…1, for a batch [B]: the more, the less what is heard is like anything the model knows."""
        usual = (float(self.trace.familiarity[span].mean()) for span in self.spans)
        rows = np.atleast_2d(self.scores)
        found = np.array([novelty(row, own) for row, own in zip(rows, usual, strict=True)], np.float32)
        return float(found[0]) if self.scores.ndim == 1 else found


@dataclass(frozen=True)
class WindowResult:
    """The answer for one window of a file or of a stream."""

    start_s: float
    end_s: float
    channel: int | None
    """Channel number, or None for the mixture of all."""
    result: Result


def check_outputs(outputs: Outputs) -> None:
    """Raises AudioError if anything the model said is not finite; such an answer must not pass for one."""
    check_scores(outputs.scores)
    # Sums are not finite if any value is not.
    total = outputs.attributes.sum() + outputs.saliency.sum() + outputs.gates.sum()
    if not np.isfinite(total):
        raise AudioError("the model made attributes, a saliency or gates that are not finite; the answer was withheld")


def check_scores(scores: Floats) -> None:
    """Raises AudioError if a score is not finite."""
    if not np.isfinite(scores).all():
        raise AudioError("the model answered with scores that are not finite; the answer was withheld")


def pool(scores: Floats) -> Floats:
    """Scores [L] of a recording from those of its windows [N, L]: their mean.

    Raises:
        AudioError: a score is not finite.
    """
    check_scores(scores)
    pooled: Floats = scores[0] if len(scores) == 1 else scores.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.minimum(np.maximum(pooled, np.float32(0)), np.float32(1))


def decide(scores: Floats, task: TaskSpec, min_score: float = 0.0) -> tuple[str, ...]:
    """Labels for scores [L]: the best one (single-label), or all that reach their threshold, best first (multi-label).

    Nothing reaching ``min_score`` gives ``("unknown",)``.
    """
    if task.kind == "single_label":
        order = [int(scores.argmax())]
    else:
        enough = scores >= np.asarray(task.thresholds, np.float32)
        order = [i for i in np.argsort(-scores, kind="stable").tolist() if enough[i]]
    chosen = tuple(task.labels[i] for i in order if scores[i] >= min_score)
    if not chosen and (task.kind == "single_label" or float(scores.max()) < min_score):
        return (UNKNOWN,)
    return chosen
