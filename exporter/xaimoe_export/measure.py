"""What is told of a bundle: its report, with the time of each graph."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from xaimoe_export import tensorrt
from xaimoe_export.compare import milliseconds
from xaimoe_export.cost import cost
from xaimoe_export.make import Made
from xaimoe_export.recordings import Recordings
from xaimoe_export.report import ExportReport, GraphReport, PrecisionReport
from xaimoe_runtime import Runtime
from xaimoe_runtime.dispatch import Graph
from xaimoe_runtime.schema import Manifest, Precision
from xaimoe_runtime.verify import beside_the_line

Floats = NDArray[np.float32]


def report_on(
    made: Made, manifest: Manifest, size: int, calibration: Recordings | None, validation: Recordings | None
) -> ExportReport:
    """The report on a bundle of ``size`` bytes."""
    draft, answers = made.draft, made.golden
    runtimes = {precision: draft.runtime(precision) for precision in manifest.precisions}
    waveform, source = answers["waveform"], answers["source"]
    spent = milliseconds({p: partial(runtime.run, waveform, source, "routed") for p, runtime in runtimes.items()})
    for_tensorrt = sorted((spec.name, spec.precision) for spec in manifest.graphs if "tensorrt" in spec.providers)
    return ExportReport(
        bundle_id=manifest.bundle_id,
        bytes=size,
        clips=made.clips,
        real_clips=0 if calibration is None else len(calibration.waveform),
        recordings=0 if validation is None else len(validation.targets),
        accuracy_in_fp32=made.accuracy["fp32"],
        precisions={
            precision: PrecisionReport(
                scores=found.scores,
                same_predictions=found.same_predictions,
                accuracy=made.accuracy[precision],
                ms=spent[precision],
            )
            for precision, found in made.differences.items()
        },
        graphs=_graph_reports(made, runtimes),
        tensorrt=tensorrt.operator_list().tensorrt,
        refused_by_tensorrt={
            name if precision == "fp32" else f"{name} ({precision})": tensorrt.refusals(draft.model(name, precision))
            for name, precision in for_tensorrt
        },
    )


def _graph_reports(made: Made, runtimes: dict[Precision, Runtime]) -> dict[Precision, dict[str, GraphReport]]:
    """Of each file, the precisions of a graph timed by turns."""
    by_name: dict[str, dict[Precision, Graph]] = {}
    errors: dict[tuple[str, Precision], float] = {}
    for precision, runtime in runtimes.items():
        for graph in (*runtime.dispatcher.graphs.values(), *beside_the_line(runtime)):
            by_name.setdefault(graph.spec.name, {})[graph.spec.precision] = graph
            errors[graph.spec.name, graph.spec.precision] = made.differences[precision].graphs[graph.spec.name]
    reports: dict[Precision, dict[str, GraphReport]] = {}
    for name, graphs in by_name.items():
        spent = milliseconds({precision: partial(graph, **_row(graph, made)) for precision, graph in graphs.items()})
        for precision, graph in graphs.items():
            of = cost(made.draft.model(name, precision))
            reports.setdefault(precision, {})[name] = GraphReport(
                bytes=graph.spec.bytes,
                initialiser_bytes=of.initialiser_bytes,
                parameters=of.parameters,
                macs=of.macs,
                operators=of.operators,
                error=errors[name, precision],
                ms=spent[precision],
            )
    return reports


def _row(graph: Graph, made: Made) -> dict[str, Floats]:
    """The golden clip, or a patch of it, as a graph takes it."""
    return {
        tensor.name: made.golden[graph.spec.golden(tensor.name)][
            tuple(slice(1 if axis in ("B", "M") else None) for axis in tensor.shape)
        ]
        for tensor in graph.spec.inputs
    }
