"""What a model answers: raw outputs of a batch of windows, and the result of a recording made from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.choices import number_within, one_of
from xaimoe_runtime.drift import drifted, excess, familiarity, novelty
from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.pooling import Pooling
from xaimoe_runtime.presentation import as_html, as_text
from xaimoe_runtime.schema import POOLS, AttributeSpec, AudioSpec, Pool, Routing, TaskSpec

Floats = NDArray[np.float32]

UNKNOWN = "unknown"
"""Answered in place of a label when no score reaches ``min_score``, above ``max_novelty``, and for silence."""
MIN_PRESENT = 0.5
"""Score from which a label of a single-label model is present somewhere in a recording, if it is not a mean."""


@dataclass(frozen=True)
class DecisionRules:
    """How scores become labels, the same by every door."""

    min_score: float = 0.0
    """Below it, ``unknown`` is answered."""
    max_novelty: float = 1.0
    """Above it, ``unknown`` is answered."""
    pool: Pool = "mean"
    """How the scores of a recording come from those of its windows."""

    def __post_init__(self) -> None:
        for name in ("min_score", "max_novelty"):
            number_within(getattr(self, name), name, 0, 1)
        one_of(POOLS, self.pool, "pool")

    def of_window(self) -> DecisionRules:
        """Return the rules for a single window, where nothing is pooled."""
        return self if self.pool == "mean" else replace(self, pool="mean")

    @property
    def uses_novelty(self) -> bool:
        """Whether any novelty, which is 0…1, is above the limit, so that it must be known."""
        return self.max_novelty < 1


DEFAULT_RULES = DecisionRules()


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
    sounding: Floats = None  # type: ignore[assignment]  # set below
    """[N], share of each window that is not silent; 1 if it was not measured."""

    def __post_init__(self) -> None:
        if self.sounding is None:
            object.__setattr__(self, "sounding", np.ones(len(self.scores), np.float32))

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
            sounding=self.sounding[i : i + 1],
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
            sounding=np.concatenate([part.sounding for part in parts]),
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
    routing: Routing
    """Used unless another is chosen."""

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
    sounding: Floats = None  # type: ignore[assignment]  # set below
    """[N], share of each window that is not silent."""

    def __post_init__(self) -> None:
        if self.sounding is None:
            object.__setattr__(self, "sounding", np.ones(len(self.attributes), np.float32))

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

    def novelty(self, scores: Floats, windows: slice = slice(None)) -> float:
        """Return the novelty, 0…1, of scores [L] that were pooled over ``windows``; 0 if all of them are silent."""
        sounding = self.sounding[windows] > 0
        return novelty(scores, float(self.familiarity[windows][sounding].mean())) if sounding.any() else 0.0


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
    max_scores: Floats | None = None
    """Largest score of each label over the windows, as ``scores``; None for one window."""
    max_at_s: NDArray[np.float64] | None = None
    """Start of the first window with that score, in seconds, as ``scores``; None for one window."""
    warnings: tuple[str, ...] = ()
    """What is wrong with the channels of a file, or with the level."""

    def __str__(self) -> str:
        return as_text(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return as_html(self)

    @cached_property
    def novelty(self) -> float | Floats:
        """0…1, for a batch [B]: the more, the less what is heard is like anything the model knows; 0 for silence."""
        rows = np.atleast_2d(self.scores)
        found = np.array([self.trace.novelty(row, own) for row, own in zip(rows, self.spans, strict=True)], np.float32)
        return float(found[0]) if self.scores.ndim == 1 else found

    @cached_property
    def silent(self) -> bool | NDArray[np.bool_]:
        """Whether there is no signal, for a batch [B]."""
        silent = np.array([not self.trace.sounding[span].any() for span in self.spans])
        return bool(silent[0]) if self.scores.ndim == 1 else silent


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


def mark_silence(outputs: Outputs, sounding: Floats) -> Outputs:
    """Return the outputs with the share of each window that sounds [N], and scores of 0 where nothing does."""
    scores = np.where(sounding[:, None] > 0, outputs.scores, np.float32(0)) if not sounding.all() else outputs.scores
    return replace(outputs, scores=scores, sounding=sounding)


def pool(scores: Floats, sounding: Floats | None = None, how: Pool = "mean") -> Floats:
    """Return the scores [L] of a recording from those of its windows [N, L].

    Args:
        scores: of the windows.
        sounding: share of each window that is not silent, [N]; 1 if None.
        how: see :class:`xaimoe_runtime.pooling.Pooling`.

    Raises:
        AudioError: a score is not finite.
    """
    check_scores(scores)
    pooling = Pooling(scores.shape[1], how)
    pooling.add(scores, np.ones(len(scores), np.float32) if sounding is None else sounding, [0.0] * len(scores))
    return pooling.scores


def decide(
    scores: Floats,
    task: TaskSpec,
    rules: DecisionRules = DEFAULT_RULES,
    novelty: float = 0.0,
) -> tuple[str, ...]:
    """Return the labels for scores [L]: the best one (single-label), or all that reach their threshold, best first.

    Nothing that reaches ``rules.min_score``, or a novelty above ``rules.max_novelty``, gives ``("unknown",)``. Silence
    has scores of 0 and no class: ``("unknown",)`` in place of one label, ``()`` of several. Single-label scores that
    are not pooled by the mean may name several labels, since each may be present in another window: all from
    ``MIN_PRESENT``, best first.

    Args:
        scores: of a window, or pooled over those of a recording.
        task: of the model.
        rules: how to decide.
        novelty: of the scores.
    """
    single = task.kind == "single_label"
    if not scores.any():
        return (UNKNOWN,) if single else ()
    if novelty > rules.max_novelty:
        return (UNKNOWN,)
    order = np.argsort(-scores, kind="stable").tolist()
    if single:
        present = 1 if rules.pool == "mean" else max(int(np.count_nonzero(scores >= MIN_PRESENT)), 1)
        order = order[:present]
    else:
        enough = scores >= np.asarray(task.thresholds, np.float32)
        order = [i for i in order if enough[i]]
    chosen = tuple(task.labels[i] for i in order if scores[i] >= rules.min_score)
    if not chosen and (single or float(scores.max()) < rules.min_score):
        return (UNKNOWN,)
    return chosen
