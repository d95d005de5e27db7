"""Proving a bundle on the device at hand: every graph answers its golden input as it did where it was exported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.runtime import Runtime
from xaimoe_runtime.schema import ROUTINGS

Floats = NDArray[np.float32]
GRAPH_TOLERANCE = 1e-3
"""Largest deviation of a graph's output, relative to the largest magnitude in it."""


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
    """Feeds every graph its golden input, then the golden clip to the whole line with each routing.

    Raises:
        BundleError: the golden answers are incomplete.
    """
    golden = runtime.bundle.golden
    path = runtime.bundle.path / runtime.manifest.golden.file
    tolerance = runtime.manifest.golden.tolerance.get(runtime.provider)
    if tolerance is None:
        raise BundleError(f"{path}: the manifest has no golden tolerance for provider {runtime.provider!r}")

    def answer(name: str) -> Floats:
        if name not in golden:
            raise BundleError(f"{path}: the golden answer {name!r} is missing; export the bundle again")
        return golden[name]

    found: list[Deviation] = []
    for name, graph in runtime.dispatcher.graphs.items():
        outputs = graph(**{tensor.name: answer(f"{name}/{tensor.name}") for tensor in graph.spec.inputs})
        for output, value in outputs.items():
            wanted = answer(f"{name}/{output}")
            found.append(Deviation(f"{name}/{output}", _distance(value, wanted, relative=True), GRAPH_TOLERANCE))
    for routing in ROUTINGS:
        outputs_of_line = runtime.run(answer("frontend/waveform"), answer("frontend/source"), routing)
        wanted = answer(f"line/{routing}")
        found.append(Deviation(f"line/{routing}", _distance(outputs_of_line.scores, wanted), tolerance))
    return found


def _distance(found: Floats, wanted: Floats, relative: bool = False) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-6) if relative else 1.0
    distance = float(np.abs(found - wanted).max(initial=0.0)) / scale
    return distance if np.isfinite(distance) else float("inf")
