"""What a bundle costs on this machine: each graph by batch size, the whole line by way and batch, streams, a cold start
and memory.

Run with ``make bench``; one thread unless said. Compare ratios within a run, not times between runs.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import BUNDLE
from numpy.typing import NDArray

from xaimoe_runtime import Runtime
from xaimoe_runtime.archive.pool import classify_all
from xaimoe_runtime.archive.run import OpenBundle
from xaimoe_runtime.files import FileOptions
from xaimoe_runtime.schema import ROUTINGS, Routing

Floats = NDArray[np.float32]
Benchmark = Callable[..., Any]
HOP_S = 0.5
FILES = 200
BATCHED = 32
COLD = (
    "import sys, numpy as np; from xaimoe_runtime import Runtime; runtime = Runtime.load(sys.argv[1], provider='cpu');"
    "runtime.infer(np.zeros(runtime.audio.clip_samples, np.float32));"
    "print(open('/proc/self/statm', encoding='utf-8').read().split()[1] if sys.platform == 'linux' else 0)"
)


def sources(runtime: Runtime, count: int) -> Floats:
    return np.tile(np.float32([runtime.audio.sample_rate, 0]), (count, 1))


@pytest.mark.parametrize("size", [1, 8, 32])
@pytest.mark.parametrize("role", ["frontend", "saliency", "router", "expert", "head"])
def bench_graph(runtime: Runtime, benchmark: Benchmark, role: str, size: int) -> None:
    """One graph on its golden input, repeated; for ``expert`` the first one, on so many patches."""
    benchmark.group = f"graph, batch {size}"  # type: ignore[attr-defined]
    name = next(name for name in runtime.dispatcher.graphs if name.split()[0] == role)
    graph = runtime.dispatcher.graphs[name]
    golden = {tensor.name: runtime.bundle.golden[graph.spec.golden(tensor.name)][:1] for tensor in graph.spec.inputs}
    inputs = {name: np.repeat(value, size, axis=0) for name, value in golden.items()}
    benchmark(lambda: graph(**inputs))


@pytest.mark.benchmark(group="clip, from samples to labels")
@pytest.mark.parametrize("routing", ROUTINGS)
def bench_clip(runtime: Runtime, clips: Floats, benchmark: Benchmark, routing: Routing) -> None:
    turn = cycle(clips)
    benchmark(lambda: runtime.infer(next(turn), routing=routing))


@pytest.mark.benchmark(group="clip, from samples to labels")
@pytest.mark.parametrize("precision", ["int8", "fused"])
def bench_other_graphs(runtime: Runtime, clips: Floats, benchmark: Benchmark, precision: str) -> None:
    """In INT8, and by the fused graph, where the bundle has them."""
    turn = cycle(clips)
    if precision == "fused":
        if not any(graph.role == "fused" for graph in runtime.manifest.graphs):
            pytest.skip("the bundle has no fused graph")
        source = sources(runtime, 1)
        benchmark(lambda: runtime.dispatcher.run(next(turn)[None], source, "routed", way="fused"))
        return
    if not any(graph.precision == "int8" for graph in runtime.manifest.graphs):
        pytest.skip("no graph of the bundle runs in INT8: it was not asked for, or gains none of them time")
    small = Runtime.load(BUNDLE, provider="cpu", precision="int8")
    benchmark(lambda: small.infer(next(turn)))


@pytest.mark.benchmark(group=f"{BATCHED} clips, from samples to labels, by batch size")
@pytest.mark.parametrize("size", [1, 8, BATCHED])
def bench_batch(runtime: Runtime, clips: Floats, benchmark: Benchmark, size: int) -> None:
    """The same clips whatever the size, since what a clip costs hangs on what is in it."""
    batches = np.split(np.resize(clips, (BATCHED, clips.shape[1])), BATCHED // size)
    benchmark(lambda: [runtime.infer(batch) for batch in batches])


@pytest.mark.benchmark(group="own work: all, and the graphs alone")
@pytest.mark.parametrize("what", ["call", "graphs"])
def bench_overhead(runtime: Runtime, clips: Floats, benchmark: Benchmark, what: str) -> None:
    """A whole call, and the same runs of the same sessions on the same inputs, bare."""
    clip = clips[:1]
    if what == "call":
        benchmark(lambda: runtime.infer(clip[0]))
        return
    calls: list[tuple[Any, Any, Any]] = []

    class Recorded:
        def __init__(self, session: Any) -> None:
            self.session = session

        def run(self, outputs: Any, inputs: Any) -> Any:
            calls.append((self.session.run, outputs, inputs))
            return self.session.run(outputs, inputs)

    graphs = list(runtime.dispatcher.graphs.values())
    bare = [graph.session for graph in graphs]
    for graph in graphs:
        graph.session = Recorded(graph.session)  # type: ignore[assignment]
    runtime.infer(clip[0])
    for graph, session in zip(graphs, bare, strict=True):
        graph.session = session
    benchmark(lambda: [run(outputs, inputs) for run, outputs, inputs in calls])


@pytest.mark.benchmark(group=f"window of a stream every {HOP_S} s, and as a clip")
@pytest.mark.parametrize("what", ["stream", "clip"])
def bench_stream(runtime: Runtime, clips: Floats, benchmark: Benchmark, what: str) -> None:
    if not runtime.manifest.frontend.streamable:
        pytest.skip("the bundle's frontend does not stream")
    if what == "clip":
        turn = cycle(clips)
        benchmark(lambda: runtime.infer(next(turn)))
        return
    stream = runtime.open_stream(hop_s=HOP_S)
    samples = np.concatenate([*clips, clips[0]])
    pieces = cycle(np.split(samples[: len(samples) // stream.hop * stream.hop], len(samples) // stream.hop))
    while not stream.push(next(pieces)):
        pass
    benchmark(lambda: stream.push(next(pieces)))


@pytest.mark.benchmark(group=f"archive of {FILES} files, processes ready")
@pytest.mark.parametrize("workers", [1, 2])
def bench_archive(runtime: Runtime, clips: Floats, benchmark: Benchmark, workers: int, tmp_path: Path) -> None:
    """FLAC files, decoding included. Starting the processes is not."""
    paths = [tmp_path / f"{i:04d}.flac" for i in range(FILES)]
    for path, clip in zip(paths, cycle(clips), strict=False):
        soundfile.write(path, clip, runtime.audio.sample_rate, subtype="PCM_16")

    def begin() -> tuple[tuple[Any], dict[str, Any]]:
        answers = classify_all(OpenBundle(BUNDLE, FileOptions(), provider="cpu"), [paths[0], *paths], workers)
        next(answers)
        return (answers,), {}

    benchmark.pedantic(lambda answers: sum(1 for _ in answers), setup=begin, rounds=3)  # type: ignore[attr-defined]


@pytest.mark.benchmark(group="start: import, load and first answer, in a process of its own")
def bench_start(runtime: Runtime, benchmark: Benchmark) -> None:
    command = [sys.executable, "-c", COLD, str(BUNDLE)]
    done = benchmark(lambda: subprocess.run(command, capture_output=True, text=True, check=True))
    pages = int(done.stdout)
    benchmark.extra_info["resident_mb"] = pages * resource.getpagesize() / 1e6  # type: ignore[attr-defined]
