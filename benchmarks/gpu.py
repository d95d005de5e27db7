"""The product on a GPU: the split graphs and the fused one, in FP32 and FP16, by batch size, beside PyTorch.

::

    python benchmarks/gpu.py runs/exp1/best.pt --bundle runs/exp1/bundle --out gpu.json
    python benchmarks/gpu.py runs/exp1/best.pt --bundle runs/exp1/bundle --provider cpu --batches 1,8    # to try it

The bundle should be exported with ``--precision fp32,fp16 --fused``; what it does not hold is left out. PyTorch runs
the checkpoint on the same device, as it is and compiled. A time is the median of calls after a warm-up, from samples on
the host to scores on the host, of as many as fit into ``--seconds``. The first call of a size, in which a GPU's kernels
are chosen, is told apart (of the split graphs, those for 1 and 4 clips are chosen when the bundle is loaded). Several
batches are taken in turn, since a GPU's libraries are quickest with what they were given last: which pairs run, and so
how many an expert gets, differs from clip to clip. Where a batch is too large, the rest of that way is left out; what
was timed is kept. ``--only`` times a part and adds it to what ``--out`` holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from xaimoe_audio.checkpoint import load_checkpoint
from xaimoe_runtime import Runtime
from xaimoe_runtime.schema import AudioSpec
from xaimoe_runtime.writing import replacing

Floats = NDArray[np.float32]
Way = Callable[[Floats, Floats], Any]
BATCHES = 4
"""Different batches of a size that are taken in turn."""


def ways(checkpoint: Path, bundle: Path, provider: str, compiled: bool) -> Iterator[tuple[str, Way]]:
    """What is timed, by name."""
    runtime = Runtime.load(bundle, provider)
    graphs = runtime.manifest.graphs
    for precision in runtime.manifest.precisions:
        own = Runtime.load(bundle, provider, precision=precision)
        if all(own.provider in graph.providers for graph in graphs if graph.precision == precision):
            yield (
                f"split, {precision}",
                lambda waveform, source, own=own: own.dispatcher.run(waveform, source, "routed", way="in turn"),
            )
        if any(graph.role == "fused" and graph.precision == precision for graph in graphs):
            yield (
                f"fused, {precision}",
                lambda waveform, source, own=own: own.dispatcher.run(waveform, source, "routed", way="fused"),
            )
    device = torch.device("cuda" if runtime.provider in ("cuda", "tensorrt") else "cpu")
    model = load_checkpoint(checkpoint).model.to(device).eval()

    def by_torch(network: Callable[..., Any], waveform: Floats, source: Floats) -> Floats:
        with torch.inference_mode():
            scores, _ = network(*(torch.from_numpy(value).to(device) for value in (waveform, source)), "routed")
        found: Floats = scores.cpu().numpy()
        return found

    yield "PyTorch", lambda waveform, source: by_torch(model, waveform, source)
    if compiled:
        faster = torch.compile(model, dynamic=False)
        yield "PyTorch, compiled", lambda waveform, source: by_torch(faster, waveform, source)


def main(
    checkpoint: Annotated[Path, typer.Argument(metavar="BEST.PT")],
    bundle: Annotated[Path, typer.Option(help="Of the same checkpoint.")],
    out: Annotated[Path | None, typer.Option(help="The JSON file.")] = None,
    provider: Annotated[str, typer.Option()] = "cuda",
    batches: Annotated[str, typer.Option(help="Comma-separated.")] = "1,4,16,64,256,1024",
    rounds: Annotated[int, typer.Option(min=1)] = 30,
    seconds: Annotated[float, typer.Option(min=0, help="Most that one way at one size is timed for.")] = 3.0,
    only: Annotated[str, typer.Option(help="The ways whose names hold this.")] = "",
    compiled: Annotated[bool, typer.Option(help="Compile PyTorch's model, too; takes minutes.")] = True,
) -> None:
    """Time every way at every batch size."""
    runtime = Runtime.load(bundle, provider)
    about = {"provider": runtime.provider, "device": runtime.conditions.device, "torch": torch.__version__}
    sizes = [int(size) for size in batches.split(",")]
    draw = np.random.default_rng(0)
    given = {size: [made_up(draw, size, runtime.audio) for _ in range(BATCHES)] for size in sizes}
    rows: list[dict[str, Any]] = []
    if only and out is not None and out.exists():
        rows = [row for row in json.loads(out.read_bytes())["times"] if only not in row["way"]]
    for name, run in ways(checkpoint, bundle, provider, compiled):
        if only not in name:
            continue
        for size in sizes:
            try:
                first, times = timed(lambda i, run=run, every=given[size]: run(*every[i % BATCHES]), rounds, seconds)
            except Exception as error:  # noqa: BLE001  out of memory, by whatever name the library has for it
                typer.echo(f"{name:<20}{size:>6} clips: {type(error).__name__}: {error}", err=True)
                rows.append({"way": name, "batch": size, "error": type(error).__name__})
                break
            ms = median(times)
            row = {"way": name, "batch": size, "first_ms": first, "ms": ms, "clips_per_s": size / ms * 1e3}
            rows.append(row | {"calls": len(times)})
            typer.echo(
                f"{name:<20}{size:>6} clips {ms:>10.2f} ms {size / ms * 1e3:>10.0f} clips/s, first {first:.0f} ms"
            )
        if out is not None:
            with replacing(out) as file:
                file.write(json.dumps(about | {"times": rows}, indent=1).encode())


def made_up(draw: np.random.Generator, size: int, audio: AudioSpec) -> tuple[Floats, Floats]:
    """``waveform`` [B, S] and ``source`` [B, 2] of clips with one tone each, which comes and goes in noise."""
    time = np.arange(audio.clip_samples, dtype=np.float32) / audio.sample_rate
    waveform = draw.standard_normal((size, len(time)), np.float32)
    waveform *= 10 ** draw.uniform(-4, -1, (size, 1)).astype(np.float32)
    for clip in waveform:
        hz, start, length = draw.uniform((50, 0, 0.05), (audio.sample_rate / 2, time[-1], time[-1] / 2))
        clip[:] += 0.2 * np.sin(2 * np.pi * hz * time) * ((time > start) & (time < start + length))
    return waveform, np.tile(np.float32([audio.sample_rate, 0]), (size, 1))


def timed(call: Callable[[int], Any], rounds: int, seconds: float) -> tuple[float, list[float]]:
    """Milliseconds of the first call, and of those after a warm-up: so many, or as many as fit into the time."""

    def one(turn: int) -> float:
        start = perf_counter()
        call(turn)
        return (perf_counter() - start) * 1e3

    first, *_ = [one(turn) for turn in range(BATCHES)]
    times = [one(0)]
    while len(times) < rounds and sum(times) < seconds * 1e3:
        times.append(one(len(times)))
    return first, times


if __name__ == "__main__":
    typer.run(main)
