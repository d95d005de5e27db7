"""Writing a bundle: export every graph, compare it with PyTorch, and only then put the folder in its place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from xaimoe_export import golden, tensorrt, triton
from xaimoe_export.card import CARD, model_card
from xaimoe_export.compare import Differences, compare, milliseconds
from xaimoe_export.cost import cost
from xaimoe_export.draft import BundleDescription, Draft, identity
from xaimoe_export.folder import new_folder
from xaimoe_export.fuse import fuse
from xaimoe_export.graphs import CONTRACT, EXAMPLE_BATCH, GraphModule, to_onnx
from xaimoe_export.options import ExportOptions
from xaimoe_export.plan import PLAN, Choices, Chooser, PrecisionPlan
from xaimoe_export.recordings import Recordings
from xaimoe_export.reference import Reference
from xaimoe_export.report import ExportReport, GraphReport, PrecisionReport
from xaimoe_export.sign import signer
from xaimoe_runtime import BundleError, ConfigError, Runtime
from xaimoe_runtime.bundle import MANIFEST
from xaimoe_runtime.console import replacing
from xaimoe_runtime.schema import Manifest, Precision
from xaimoe_runtime.signature import SIGNATURE
from xaimoe_runtime.verify import beside_the_line, verify

Floats = NDArray[np.float32]
MADE_UP_CLIPS = 8
"""That the line is compared with PyTorch on, beside the real ones."""


@dataclass(frozen=True)
class Exported:
    """A draft that is whole, and what was found about it."""

    draft: Draft
    clips: int
    differences: dict[Precision, Differences]
    accuracy: dict[Precision, float | None]
    golden: golden.Answers
    plan: PrecisionPlan


def steps(graphs: tuple[GraphModule, ...], options: ExportOptions) -> int:
    """How often an export calls its ``advance``."""
    return len(graphs) * len({"fp32", *options.precisions})


def export_bundle(
    graphs: tuple[GraphModule, ...],
    description: BundleDescription,
    out: Path,
    options: ExportOptions | None = None,
    calibration: Recordings | None = None,
    validation: Recordings | None = None,
    advance: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Exports the graphs of a model to the bundle folder ``out``, and writes what was found to ``out``.export.json.

    Args:
        graphs: the five roles, and ``frames`` and ``window`` if frames can be shared; the experts are in the order of
            ``description.experts``, which is that of the gates' last axis.
        description: what cannot be read off the modules.
        out: folder of the bundle.
        options: what to write.
        calibration: windows of the training split; INT8 takes its ranges from them, and the line is compared with
            PyTorch on them.
        validation: recordings that accuracy is measured on.
        advance: called :func:`steps` times.

    Raises:
        ConfigError: ``out`` exists or cannot be written, or the options ask for what cannot be made.
        BundleError: the exported line differs from PyTorch by more than a tolerance. Nothing is written in either case.
    """
    options = options or ExportOptions()
    _check_possible(graphs, options, calibration)
    sign = signer(options.sign) if options.sign is not None else None
    with ExitStack() as folders:
        part = folders.enter_context(new_folder(out, MANIFEST, options.force))
        repository = None
        if options.triton is not None:
            repository = folders.enter_context(new_folder(options.triton, triton.CONFIG, options.force))
        exported = _exported(graphs, description, options, calibration, validation, advance)
        manifest = _completed(exported, options)
        raw = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
        for file, content in exported.draft.files.items():
            (part / file).parent.mkdir(exist_ok=True)
            (part / file).write_bytes(content)
        (part / MANIFEST).write_bytes(raw)
        if sign is not None:
            (part / SIGNATURE).write_bytes(sign(raw))
        if repository is not None:
            triton.write_repository(repository, manifest, exported.draft.files[manifest.graph("fused").file])
        _prove(part, manifest)
        size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
        report = _report(exported, manifest, size, calibration, validation)
    with replacing(out.with_name(f"{out.name}.export.json")) as file:
        file.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return report


def _check_possible(graphs: tuple[GraphModule, ...], options: ExportOptions, calibration: Recordings | None) -> None:
    """Raises ConfigError for what would fail after all graphs have been exported."""
    names = [graph.name for graph in graphs]
    for precision, choices in (options.plan.precisions if options.plan is not None else {}).items():
        if set(choices) != set(names):
            raise ConfigError(
                f"precision plan: found {precision} choices for {', '.join(sorted(choices))}; expected "
                f"{', '.join(names)}"
            )
    if "int8" in options.precisions and calibration is None:
        raise ConfigError(
            "precision int8: found no recordings to take ranges from; give the dataset that the model was trained on "
            "(--dataset)"
        )


def _exported(
    graphs: tuple[GraphModule, ...],
    description: BundleDescription,
    options: ExportOptions,
    calibration: Recordings | None,
    validation: Recordings | None,
    advance: Callable[[], None],
) -> Exported:
    """All graphs in all precisions, each within its tolerance of PyTorch."""
    data = [None if recordings is None else recordings.sha256 for recordings in (calibration, validation)]
    draft = Draft(description, identity(description, options.identifying() | {"data": data}), options.precisions)
    reference = Reference(graphs, description.patches)
    answers = golden.answers_of_modules(reference, description.audio)
    for graph in graphs:
        rows = (answers[graph.golden(name)][:1] for name in CONTRACT[graph.role][0])
        examples = tuple(torch.from_numpy(np.repeat(row, EXAMPLE_BATCH, axis=0)) for row in rows)
        draft.add(graph.role, graph.expert, "fp32", to_onnx(graph, examples))
        advance()
    waveform, source = golden.made_up_clips(description.audio, MADE_UP_CLIPS)
    if calibration is not None:
        waveform = np.concatenate([waveform, calibration.waveform])
        source = np.concatenate([source, calibration.source])
    difference = partial(_difference, draft, reference, waveform, source)
    _check_parity(difference("fp32"), options.score_tolerance)  # before time is spent on the rest
    plan = _planned(draft, options, calibration, validation, advance)
    if options.needs_fused:
        _fuse(draft)
    differences = {precision: difference(precision) for precision in options.precisions}
    if "fp32" in differences:
        _check_parity(differences["fp32"], options.score_tolerance)
    accuracy = _accuracies(draft, validation, options.accuracy_tolerance)
    for precision in options.precisions:
        if precision != "fp32":
            answers |= golden.answers_of_precision(draft.runtime(precision), answers)
    return Exported(draft, len(waveform), differences, accuracy, answers, plan)


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


def _planned(
    draft: Draft,
    options: ExportOptions,
    calibration: Recordings | None,
    validation: Recordings | None,
    advance: Callable[[], None],
) -> PrecisionPlan:
    """Adds the graphs of the other precisions, as the plan says or as is best."""
    choices: dict[Precision, Choices] = {}
    for precision in options.precisions:
        if precision != "fp32":
            chooser = Chooser(draft, precision, calibration, validation, options.accuracy_tolerance, advance)
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
    """Of each precision, routed.

    Raises:
        BundleError: one loses too much.
    """
    if validation is None:
        return dict.fromkeys(draft.precisions)
    found: dict[Precision, float | None] = {}
    usual = _accuracy(draft.runtime(), validation)
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


def _completed(exported: Exported, options: ExportOptions) -> Manifest:
    """Adds the golden answers and the documents; drops the graphs that no precision asks for."""
    draft = exported.draft
    draft.drop_unused()
    draft.golden = draft.put(golden.GOLDEN, golden.archive(exported.golden))
    documents = [draft.put(PLAN, exported.plan.encoded())] if exported.plan.precisions else []
    documents.append(draft.put(CARD, model_card(draft.manifest(), options.licence).encode()))
    draft.documents = tuple(documents)
    return draft.manifest()


def _prove(folder: Path, manifest: Manifest) -> None:
    """Loads what was written as a device would."""
    for precision in manifest.precisions:
        failed = [found for found in verify(Runtime.load(folder, "cpu", precision=precision)) if not found.passed]
        if failed:
            raise BundleError(
                "the bundle does not prove itself: "
                + ", ".join(f"{precision} {one.what} deviates by {one.found:.1e}" for one in failed)
            )


def _report(
    exported: Exported, manifest: Manifest, size: int, calibration: Recordings | None, validation: Recordings | None
) -> ExportReport:
    draft, answers = exported.draft, exported.golden
    graphs: dict[Precision, dict[str, GraphReport]] = {}
    lines: dict[Precision, PrecisionReport] = {}
    for precision in manifest.precisions:
        runtime, found = draft.runtime(precision), exported.differences[precision]
        for graph in (*runtime.dispatcher.graphs.values(), *beside_the_line(runtime)):
            spec, of = graph.spec, cost(draft.model(graph.spec.name, graph.spec.precision))
            row = {tensor.name: answers[spec.golden(tensor.name)][:1] for tensor in spec.inputs}
            graphs.setdefault(spec.precision, {})[spec.name] = GraphReport(
                bytes=spec.bytes,
                initialiser_bytes=of.initialiser_bytes,
                parameters=of.parameters,
                macs=of.macs,
                operators=of.operators,
                error=found.graphs[spec.name],
                ms=milliseconds(partial(graph, **row)),
            )
        lines[precision] = PrecisionReport(
            scores=found.scores,
            same_predictions=found.same_predictions,
            accuracy=exported.accuracy[precision],
            ms=milliseconds(partial(runtime.run, answers["waveform"], answers["source"], "routed")),
        )
    for_tensorrt = {(spec.name, spec.precision) for spec in manifest.graphs if "tensorrt" in spec.providers}
    return ExportReport(
        bundle_id=manifest.bundle_id,
        bytes=size,
        clips=exported.clips,
        real_clips=0 if calibration is None else len(calibration.waveform),
        recordings=0 if validation is None else len(validation.targets),
        precisions=lines,
        graphs=graphs,
        tensorrt=tensorrt.operator_list().tensorrt,
        refused_by_tensorrt={
            name if precision == "fp32" else f"{name} ({precision})": tensorrt.refusals(draft.model(name, precision))
            for name, precision in sorted(for_tensorrt)
        },
    )
