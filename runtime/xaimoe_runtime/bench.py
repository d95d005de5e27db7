"""How fast a bundle answers on this device, in scenarios like those of MLPerf Inference.

V. J. Reddi et al., "MLPerf Inference Benchmark", 2020. Each scenario begins with a warm-up and goes on until both a
time and a number of queries are reached:

- **single stream**: one clip a query, the next when its answer is there; told is the 90th percentile of its time.
- **multi-stream**: eight clips a query, as of eight microphones, the next when all answers are there; told is the 99th
  percentile of a query's time.
- **offline**: all clips are there from the beginning, 32 a query; told are clips a second.

A query goes from samples in memory, at the model's rate, to labels. Unlike a submission to MLPerf it lasts seconds
instead of ten minutes, takes the clips in turn instead of from a load generator, and no accuracy is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from xaimoe_runtime import __version__
from xaimoe_runtime.inference import BATCH, file_windows
from xaimoe_runtime.runtime import Runtime
from xaimoe_runtime.schema import Routing

Floats = NDArray[np.float32]
Milliseconds = Annotated[float, Meta(ge=0)]
WARM_UP = 10
"""Queries before a scenario is timed."""
MOST_CLIPS = 256
"""Of the recordings, that are held in memory."""


class Scenario(Struct, frozen=True, kw_only=True):
    """What a scenario took."""

    name: str
    clips: int
    """In each query."""
    queries: int
    seconds: float
    """All of them."""
    p50_ms: Milliseconds
    """Of a query."""
    p90_ms: Milliseconds
    p99_ms: Milliseconds
    clips_per_s: float
    pairs: float
    """(patch, expert) pairs run for a clip, in the mean."""


class Report(Struct, frozen=True, kw_only=True):
    """What ``xaimoe-runtime bench`` writes."""

    version: str
    bundle_id: str
    routing: Routing
    precision: str
    provider: str
    onnxruntime: str
    device: str
    threads: int
    clip_s: float
    sample_rate: int
    recordings: int
    """Clips that are taken in turn; 1 is the bundle's own synthetic one."""
    scenarios: tuple[Scenario, ...]


SCENARIOS = {"single stream": 1, "multi-stream": 8, "offline": BATCH}
"""Clips in a query."""


def clips_of(runtime: Runtime, paths: list[Path]) -> Floats:
    """The first clip of each recording at the model's rate, [N, S]; without recordings the bundle's golden clip.

    Raises:
        AudioError: a recording cannot be used.
    """
    firsts = [next(file_windows(path, runtime.audio))[1].samples for path in paths[:MOST_CLIPS]]
    return np.stack(firsts) if firsts else runtime.bundle.golden["waveform"][:1]


def bench(
    runtime: Runtime,
    clips: Floats,
    routing: Routing | None = None,
    seconds: float = 10.0,
    queries: int = 100,
    advance: Callable[[], None] = lambda: None,
) -> Report:
    """Times all scenarios.

    Args:
        runtime: the bundle.
        clips: [N, S] at the model's rate, taken in turn.
        routing: of all queries; the bundle's own if None.
        seconds: that a scenario lasts at least.
        queries: that it has at least.
        advance: is called after each scenario.

    Raises:
        AudioError: clips that are not finite, or the model's answer is not.
    """
    held, audio = runtime.conditions, runtime.audio
    routing = routing or runtime.routing
    scenarios = []
    for name, size in SCENARIOS.items():
        scenarios.append(_run(runtime, clips, routing, name, size, seconds, queries))
        advance()
    return Report(
        version=__version__,
        bundle_id=runtime.manifest.bundle_id,
        routing=routing,
        precision=runtime.precision,
        provider=runtime.provider,
        onnxruntime=held.onnxruntime,
        device=held.device,
        threads=held.threads,
        clip_s=audio.clip_samples / audio.sample_rate,
        sample_rate=audio.sample_rate,
        recordings=len(clips),
        scenarios=tuple(scenarios),
    )


def _run(
    runtime: Runtime, clips: Floats, routing: Routing, name: str, size: int, seconds: float, queries: int
) -> Scenario:
    batches = [np.ascontiguousarray(clips[np.arange(i, i + size) % len(clips)]) for i in range(0, len(clips), size)]
    times: list[float] = []
    pairs = 0
    for i in range(WARM_UP):
        runtime.infer(batches[i % len(batches)], routing=routing)
    began = perf_counter()
    while len(times) < queries or perf_counter() - began < seconds:
        batch = batches[len(times) % len(batches)]
        start = perf_counter()
        result = runtime.infer(batch, routing=routing)
        times.append((perf_counter() - start) * 1e3)
        pairs += int(result.trace.pairs.sum())
    took = perf_counter() - began
    p50, p90, p99 = np.percentile(times, [50, 90, 99]).tolist()
    return Scenario(
        name=name,
        clips=size,
        queries=len(times),
        seconds=took,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        clips_per_s=len(times) * size / took,
        pairs=pairs / len(times) / size,
    )


def describe(report: Report) -> str:
    """The report as a table for a terminal; what a scenario is judged by has a star."""
    judged = {"single stream": "p90", "multi-stream": "p99", "offline": "clips/s"}
    columns = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "clips/s": "clips_per_s"}
    lines = [
        f"{report.device}, {report.provider}, {report.precision}, {report.threads} thread(s), {report.routing}; "
        f"clips of {report.clip_s:.2f} s at {report.sample_rate} Hz",
        f"{'ms a query':<16}{'clips':>6}{'queries':>9}" + "".join(f"{name:>11}" for name in columns) + f"{'pairs':>8}",
    ]
    for one in report.scenarios:
        cells = "".join(
            f"{getattr(one, field):>10.2f}{'*' if judged.get(one.name) == name else ' '}"
            for name, field in columns.items()
        )
        lines.append(f"{one.name:<16}{one.clips:>6}{one.queries:>9}{cells}{one.pairs:>8.1f}")
    return "\n".join(lines)
