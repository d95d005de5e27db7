"""The product on a GPU: the split graphs and the fused one, in FP32 and FP16, by batch size, beside PyTorch.

::

    python benchmarks/gpu.py runs/exp1/best.pt --bundle runs/exp1/bundle --out gpu.json
    python benchmarks/gpu.py runs/exp1/best.pt --bundle runs/exp1/bundle --provider cpu --batches 1,8    # to try it

The bundle should be exported with ``--precision fp32,fp16 --fused``; what it does not hold is left out. PyTorch runs
the checkpoint on the same device, as it is and compiled. A time is the median of calls after a warm-up, from samples on
the host to scores on the host, of as many as fit into ``--seconds``. Where a batch is too large, the rest of that way
is left out; what was timed is kept. ``--only`` times a part and adds it to what ``--out`` holds.
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
from xaimoe_runtime.writing import replacing

Floats = NDArray[np.float32]
Way = Callable[[Floats, Floats], Any]
WARM_UP = 3


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
    sizes, draw = [int(size) for size in batches.split(",")], np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    if only and out is not None and out.exists():
        rows = [row for row in json.loads(out.read_bytes())["times"] if only not in row["way"]]
    for name, run in ways(checkpoint, bundle, provider, compiled):
        if only not in name:
            continue
        for size in sizes:
            waveform = draw.normal(0, 0.1, (size, runtime.audio.clip_samples)).astype(np.float32)
            source = np.tile(np.float32([runtime.audio.sample_rate, 0]), (size, 1))
            try:
                times = timed(lambda run=run, given=(waveform, source): run(*given), rounds, seconds)
            except Exception as error:  # noqa: BLE001  out of memory, by whatever name the library has for it
                typer.echo(f"{name:<20}{size:>6} clips: {type(error).__name__}: {error}", err=True)
                rows.append({"way": name, "batch": size, "error": type(error).__name__})
                break
            ms = median(times)
            rows.append({"way": name, "batch": size, "ms": ms, "clips_per_s": size / ms * 1e3, "calls": len(times)})
            typer.echo(f"{name:<20}{size:>6} clips {ms:>10.2f} ms {size / ms * 1e3:>12.0f} clips/s")
        if out is not None:
            with replacing(out) as file:
                file.write(json.dumps(about | {"times": rows}, indent=1).encode())


def timed(call: Callable[[], Any], rounds: int, seconds: float) -> list[float]:
    """Milliseconds of calls after a warm-up: so many, or as many as fit into the time, but at least one."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    while not times or (len(times) < rounds and sum(times) < seconds * 1e3):
        start = perf_counter()
        call()
        times.append((perf_counter() - start) * 1e3)
    return times


if __name__ == "__main__":
    typer.run(main)
