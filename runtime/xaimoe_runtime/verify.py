"""Proving a bundle on the device at hand: every graph answers its golden input as it did where it was exported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.dispatch import Graph
from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.mixing import on_host
from xaimoe_runtime.runtime import Runtime
from xaimoe_runtime.schema import EXCHANGE, ROUTINGS, STREAM, Precision, Role, Tolerance

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Deviation:
    """How far one graph, or the whole line with one routing, is from its golden answer."""

    what: str
    """``frontend/spectrogram``, ``line/routed`` …"""
    found: float
    """Largest absolute deviation; for a graph, relative to the largest magnitude of the golden output."""
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether it is within the tolerance; NaN is not."""
        return self.found <= self.tolerance


def verify(runtime: Runtime) -> list[Deviation]:
    """Feeds every graph of the runtime's precision its golden input, then the golden clip to the whole line with each
    routing.

    Raises:
        BundleError: the golden answers are incomplete.
    """
    golden, manifest = runtime.bundle.golden, runtime.manifest
    path = runtime.bundle.path / manifest.golden.file

    def answer(name: str, precision: Precision = "fp32") -> Floats:
        for known in (f"{precision}/{name}", name):  # what a precision does not change has one answer
            if known in golden:
                return golden[known]
        raise BundleError(f"{path}: the golden answer {name!r} is missing; export the bundle again")

    def tolerance(precision: Precision) -> Tolerance:
        if (given := manifest.tolerance(runtime.provider, precision)) is None:
            raise BundleError(f"{path}: the manifest has no tolerance for {precision} on provider {runtime.provider!r}")
        return given

    found: list[Deviation] = []
    for graph in (*runtime.dispatcher.graphs.values(), *beside_the_line(runtime)):
        spec, most = graph.spec, tolerance(graph.spec.precision)
        outputs = graph(**{tensor.name: answer(spec.golden(tensor.name)) for tensor in spec.inputs})
        for output, value in outputs.items():
            distance = _distance(on_host(value), answer(spec.golden(output), spec.precision), relative=True)
            found.append(Deviation(f"{spec.name}/{output}", distance, most.graphs))
    for routing in ROUTINGS:
        scores = runtime.run(answer("waveform"), answer("source"), routing).scores
        distance = _distance(scores, answer(f"scores/{routing}", runtime.precision))
        found.append(Deviation(f"line/{routing}", distance, tolerance(runtime.precision).scores))
    return found


def beside_the_line(runtime: Runtime) -> list[Graph]:
    """The graphs of the runtime's precision that the dispatch of clips does not use."""
    roles: tuple[Role, ...] = (*STREAM, *EXCHANGE, "fused")
    found = {graph.role for graph in runtime.manifest.graphs}
    if runtime.provider == "tensorrt":  # which has no engine of it
        found -= {"fused"}
    specs = [runtime.manifest.graph(role, precision=runtime.precision) for role in roles if role in found]
    return [Graph(runtime.factory, runtime.bundle, spec) for spec in specs]


def _distance(found: Floats, wanted: Floats, relative: bool = False) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-6) if relative else 1.0
    distance = float(np.abs(found - wanted).max(initial=0.0)) / scale
    return distance if np.isfinite(distance) else float("inf")
