"""What a bundle costs on this machine: each graph, and the whole line routed, dense and by the glance alone.

Run with ``make bench``; one thread, one clip. Compare ratios within a run, not times between runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xaimoe_runtime import Runtime
from xaimoe_runtime.schema import ROUTINGS, Routing

BUNDLE = Path(os.environ.get("XAIMOE_BUNDLE", "runs/demo/bundle"))


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    if not (BUNDLE / "manifest.json").is_file():
        pytest.skip(f"no bundle in {BUNDLE}; run make demo first, or set XAIMOE_BUNDLE")
    return Runtime.load(BUNDLE, provider="cpu", threads=1)


def graph_names() -> list[str]:
    return ["frontend", "saliency", "router", "expert", "head"]


@pytest.mark.parametrize("role", graph_names())
def bench_graph(runtime: Runtime, benchmark: Callable[..., Any], role: str) -> None:
    """One graph on its golden input, one clip; for ``expert`` the first one, on one patch."""
    name = next(name for name in runtime.dispatcher.graphs if name.split()[0] == role)
    graph = runtime.dispatcher.graphs[name]
    inputs = {tensor.name: runtime.bundle.golden[graph.spec.golden(tensor.name)][:1] for tensor in graph.spec.inputs}
    benchmark(lambda: graph(**inputs))


@pytest.mark.parametrize("routing", ROUTINGS)
def bench_line(runtime: Runtime, benchmark: Callable[..., Any], routing: Routing) -> None:
    """From samples at the model's rate to scores, on the golden clip."""
    waveform = runtime.bundle.golden["waveform"]
    source = np.array([[runtime.audio.sample_rate, 0]], np.float32)
    benchmark(lambda: runtime.run(waveform, source, routing))
