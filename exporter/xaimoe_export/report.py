"""What an export found: ``BUNDLE.export.json`` beside the bundle, and the same as a table for people."""

from __future__ import annotations

import msgspec

from xaimoe_runtime.schema import Precision


class GraphReport(msgspec.Struct, frozen=True, kw_only=True):
    """One graph in one precision."""

    bytes: int
    """Of the file."""
    initialiser_bytes: int
    parameters: int
    """Numbers in its initialisers, without the scales of INT8."""
    macs: int
    """Multiply-accumulates for one row of the dynamic axis: a clip; of an expert a patch, of ``frames`` a frame; of
    ``fused`` a clip with one patch for each expert."""
    operators: dict[str, int]
    error: float
    """Largest absolute difference of an output from PyTorch's."""
    ms: float
    """Median time of one row, on the CPU with one thread, on the exporting machine."""


class PrecisionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole line in one precision."""

    scores: dict[str, float]
    """Largest absolute difference of a score from PyTorch's, by routing."""
    same_predictions: bool
    """Whether the routed line answers every clip as PyTorch does."""
    accuracy: float | None
    """Routed, on the validation recordings; of several labels, the share of right decisions."""
    ms: float
    """Median time of one clip, routed, on the CPU with one thread, on the exporting machine."""


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an export found."""

    bundle_id: str
    bytes: int
    """Of all files of the bundle."""
    clips: int
    """That the exported line was compared with PyTorch's on, made-up ones included."""
    real_clips: int
    """Of recordings."""
    recordings: int
    """That the accuracy is of."""
    accuracy_in_fp32: float | None
    """Of all graphs in FP32, whether or not the bundle holds that: what another precision is compared with."""
    precisions: dict[Precision, PrecisionReport]
    graphs: dict[Precision, dict[str, GraphReport]]
    """By precision, the graphs that have a file of it."""
    refused_by_tensorrt: dict[str, list[str]]
    """By graph, for those meant for it: each node that TensorRT would refuse, and why."""
    tensorrt: str
    """Version that was asked about."""


def describe(report: ExportReport) -> str:
    """The report as text for a terminal."""
    accuracy = f"{report.recordings} recordings" if report.recordings else "no recordings"
    lines = [
        f"bundle {report.bundle_id[:16]}, {report.bytes / 1e6:.2f} MB; compared with PyTorch on {report.clips} clips, "
        f"{report.real_clips} of them real",
        f"{'graph':<32}{'precision':<10}{'KiB':>8}{'params':>10}{'MMAC':>9}{'nodes':>7}{'error':>10}{'ms':>9}",
    ]
    for precision, graphs in report.graphs.items():
        lines += [
            f"{name:<32}{precision:<10}{one.bytes / 1024:>8.0f}{one.parameters:>10,}{one.macs / 1e6:>9.2f}"
            f"{sum(one.operators.values()):>7}{one.error:>10.1e}{one.ms:>9.3f}"
            for name, one in graphs.items()
        ]
    lines.append(f"whole line, accuracy on {accuracy} of the validation split")
    if "fp32" not in report.precisions and report.accuracy_in_fp32 is not None:
        lines.append(f"  fp32   accuracy {report.accuracy_in_fp32:.4f}, not in the bundle")
    for precision, whole in report.precisions.items():
        figure = "-" if whole.accuracy is None else f"{whole.accuracy:.4f}"
        same = "same predictions" if whole.same_predictions else "other predictions"
        lines.append(
            f"  {precision:<6} accuracy {figure}, scores within {max(whole.scores.values()):.1e} of PyTorch's, {same}, "
            f"{whole.ms:.2f} ms a clip"
        )
        if precision != "fp32":
            own = len(report.graphs.get(precision, {}).keys() - {"fused"})
            lines.append(
                f"         {own} graph{'s' * (own != 1)} in {precision}, the others in fp32"
                if own
                else f"         no graph gains by {precision}: all are in fp32 (precision_plan.json says why)"
            )
    refused = [f"  {name}: {line}" for name, found in report.refused_by_tensorrt.items() for line in found]
    lines.append(f"TensorRT {report.tensorrt} would refuse {len(refused) or 'no'} node{'s' * (len(refused) != 1)}")
    return "\n".join(lines + refused)
