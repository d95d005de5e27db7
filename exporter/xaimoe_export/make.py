"""All graphs of a bundle in all its precisions: those in FP32 within a tolerance of PyTorch's scores, the others of the
accuracy in FP32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from xaimoe_export import golden
from xaimoe_export.compare import Differences, compare
from xaimoe_export.draft import TOLERANCES, BundleDescription, Draft, identity
from xaimoe_export.exchange import exchange
from xaimoe_export.fuse import fuse
from xaimoe_export.graphs import GraphModule, example, to_onnx
from xaimoe_export.options import ExportOptions
from xaimoe_export.plan import Choices, Chooser, PrecisionPlan
from xaimoe_export.recordings import Recordings
from xaimoe_export.reference import Reference
from xaimoe_runtime import BundleError, Runtime
from xaimoe_runtime.schema import CONTRACT, Precision
from xaimoe_runtime.verify import beside_the_line

Floats = NDArray[np.float32]
MADE_UP_CLIPS = 8
"""That the line is compared with PyTorch on, beside the real ones."""


@dataclass(frozen=True)
class Made:
    """A draft that is whole, and what was found about it."""

    draft: Draft
    clips: int
    differences: dict[Precision, Differences]
    accuracy: dict[Precision, float | None]
    golden: golden.Answers
    plan: PrecisionPlan


def make(
    graphs: tuple[GraphModule, ...],
    description: BundleDescription,
    options: ExportOptions,
    calibration: Recordings | None,
    validation: Recordings | None,
    advance: Callable[[], None],
) -> Made:
    """All graphs in all precisions, each within its tolerance of PyTorch."""
    data = [None if recordings is None else recordings.sha256 for recordings in (calibration, validation)]
    draft = Draft(description, identity(description, options.identifying() | {"data": data}), options.precisions)
    every = (*graphs, *exchange(description.patches))
    reference = Reference(every, description.patches)
    answers = golden.answers_of_modules(reference, description.audio)
    for graph in every:
        examples = tuple(example(name, answers[graph.golden(name)]) for name in CONTRACT[graph.role][0])
        draft.add(graph.role, graph.expert, "fp32", to_onnx(graph, examples))
        if graph in graphs:
            advance()
    waveform, source = golden.made_up_clips(description.audio, MADE_UP_CLIPS)
    if calibration is not None:
        waveform = np.concatenate([waveform, calibration.waveform])
        source = np.concatenate([source, calibration.source])
    difference = partial(_difference, draft, reference, waveform, source)
    _check_parity(difference("fp32"), options.score_tolerance)  # before time is spent on the rest
    judges = validation or Recordings.unlabelled(waveform, source, len(description.task.labels))
    plan = _planned(draft, options, calibration, judges, advance)
    if options.needs_fused:
        _fuse(draft)
    differences = {precision: difference(precision) for precision in options.precisions}
    if "fp32" in differences:
        _check_parity(differences["fp32"], options.score_tolerance)
    for precision, found in differences.items():
        # Where a value lies between two steps of INT8, a difference of the last digit moves it by a whole step.
        most = options.score_tolerance if precision == "fp32" else TOLERANCES[precision].scores
        if not found.fused_apart <= most:
            raise BundleError(
                f"scores of the fused graph in {precision} differ by {found.fused_apart:.1e} from those of the graphs "
                f"it was made of, expected at most {most:.0e}; export without --fused"
            )
    accuracy = _accuracies(draft, validation, options.accuracy_tolerance)
    for precision in options.precisions:
        if precision != "fp32":
            answers |= golden.answers_of_precision(draft.runtime(precision), answers)
    return Made(draft, len(waveform), differences, accuracy, answers, plan)


def _difference(
    draft: Draft, reference: Reference, waveform: Floats, source: Floats, precision: Precision
) -> Differences:
    runtime = draft.runtime(precision)
    return compare(runtime, beside_the_line(runtime), reference, waveform, source)


def _check_parity(found: Differences, tolerance: float) -> None:
    worst = max(found.scores, key=lambda routing: found.scores[routing])
    if any(not difference <= tolerance for difference in found.scores.values()):
        raise BundleError(
            f"{worst} scores of the exported graphs differ from PyTorch's by {found.scores[worst]:.1e}, expected at "
            f"most {tolerance:.0e}; differences by graph: "
            + ", ".join(f"{name} {value:.1e}" for name, value in found.graphs.items())
        )
    if not found.same_predictions:
        raise BundleError("the exported graphs answer a clip otherwise than PyTorch; export with other options")


def _planned(
    draft: Draft,
    options: ExportOptions,
    calibration: Recordings | None,
    judges: Recordings,
    advance: Callable[[], None],
) -> PrecisionPlan:
    """Adds the graphs of the other precisions, as the plan says or as is best."""
    choices: dict[Precision, Choices] = {}
    for precision in options.precisions:
        if precision != "fp32":
            chooser = Chooser(draft, precision, calibration, judges, options.accuracy_tolerance, advance)
            given = options.plan.precisions.get(precision) if options.plan is not None else None
            choices[precision] = chooser.choose() if given is None else chooser.obey(given)
    return PrecisionPlan(choices)


def _fuse(draft: Draft) -> None:
    """Adds the fused graph in each precision that a graph has."""
    for precision in {precision: None for _, precision in draft.graphs}:
        models = {name: draft.model(name, precision) for name, of in draft.graphs if of == "fp32" and name != "fused"}
        experts = [expert.name for expert in draft.description.experts]
        draft.add("fused", None, precision, fuse(models, experts, draft.description.patches))


def _accuracies(draft: Draft, validation: Recordings | None, most_lost: float) -> dict[Precision, float | None]:
    """Of FP32 and of each precision, routed.

    Raises:
        BundleError: one loses too much.
    """
    if validation is None:
        return dict.fromkeys(("fp32", *draft.precisions))
    usual = _accuracy(draft.runtime(), validation)
    found: dict[Precision, float | None] = {"fp32": usual}
    for precision in draft.precisions:
        found[precision] = accuracy = usual if precision == "fp32" else _accuracy(draft.runtime(precision), validation)
        if accuracy < usual - most_lost:
            raise BundleError(
                f"accuracy on {len(validation.targets)} validation recordings falls from {usual:.4f} to {accuracy:.4f} "
                f"in {precision}, expected to lose at most {most_lost}; let fewer graphs use it in the "
                "precision plan, or allow more (--accuracy-tolerance)"
            )
    return found


def _accuracy(runtime: Runtime, validation: Recordings) -> float:
    scores = validation.scores(lambda waveform, source: runtime.run(waveform, source, "routed").scores)
    return validation.accuracy(scores, runtime.task)
