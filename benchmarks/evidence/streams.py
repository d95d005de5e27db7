"""What a stream costs beside separate clips, and whether it leaks.

::

    python benchmarks/evidence/streams.py cost BUNDLE RECORDING…
    python benchmarks/evidence/streams.py soak BUNDLE RECORDING… --hours 24

``cost`` answers the same windows of the recordings, one after the other and over again, in turns by a stream with its
shared frames and clip by clip, and compares the time of each turn. ``soak`` streams hours of audio as fast as it goes,
and looks at the process's memory.
"""

from __future__ import annotations

import gc
from array import array
from pathlib import Path
from time import process_time
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from xaimoe_runtime import Runtime
from xaimoe_runtime.audio import read_blocks

Floats = NDArray[np.float32]
app = typer.Typer(add_completion=False, no_args_is_help=True)
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE")]
Recordings = Annotated[list[Path], typer.Argument(metavar="RECORDING…")]
Hop = Annotated[float, typer.Option(help="Seconds from window to window.")]
TURN_S = 60.0
"""Seconds of audio in a turn."""


def heard(runtime: Runtime, recordings: list[Path]) -> Floats:
    """A turn's worth of the recordings at the model's rate."""
    parts = [block.samples[:, 0] for path in recordings for block in read_blocks(path, runtime.audio.sample_rate)]
    samples = np.concatenate(parts)
    return np.resize(samples, round(TURN_S * runtime.audio.sample_rate))


@app.command()
def cost(bundle: Bundle, recordings: Recordings, hop: Hop = 0.5, turns: int = 30) -> None:
    """Time of a window in a stream, over that of the same window as a clip; one thread, in turns."""
    runtime = Runtime.load(bundle)
    samples = heard(runtime, recordings)
    stream, size = runtime.open_stream(hop_s=hop), runtime.audio.clip_samples
    source = np.array([[runtime.audio.sample_rate, 0]], np.float32)
    stream.push(samples)  # from now on every turn has as many windows
    ms: dict[str, list[float]] = {"stream": [], "clips": []}
    for _ in range(turns):
        start = process_time()
        windows = stream.push(samples)
        ms["stream"].append((process_time() - start) * 1e3 / len(windows))
        begins = range(0, len(samples) - size, stream.hop)
        start = process_time()
        for begin in begins:
            runtime.run(samples[None, begin : begin + size], source, stream.routing)
        ms["clips"].append((process_time() - start) * 1e3 / len(begins))
    ratios = np.array(ms["stream"]) / np.array(ms["clips"])
    shared, alone = (float(np.median(ms[way])) for way in ("stream", "clips"))
    low, high = np.percentile(ratios, [25, 75])
    length, step = size / runtime.audio.sample_rate, stream.hop / runtime.audio.sample_rate
    typer.echo(f"windows of {length:.2f} s, {step:.2f} s apart: {shared:.2f} ms in a stream, {alone:.2f} ms as a clip")
    typer.echo(f"ratio {np.median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})")


@app.command()
def soak(bundle: Bundle, recordings: Recordings, hop: Hop = 0.5, hours: float = 24.0) -> None:
    """Memory and windows of a stream of so many hours."""
    runtime = Runtime.load(bundle)
    samples = heard(runtime, recordings)
    stream, rate = runtime.open_stream(hop_s=hop), runtime.audio.sample_rate
    step = round(0.1 * rate)
    found, resident, at = 0, array("f"), array("f")  # lists of floats would take more than is to be found
    total = round(hours * 3600 * rate)
    for begin in range(0, total, step):
        offset = begin % len(samples)
        piece = samples[offset : offset + min(step, total - begin)]
        windows = len(stream.push(piece)) if len(piece) else 0
        found += windows
        if windows:
            resident.append(_resident_mb())
            at.append(begin / rate / 3600)
    expected = (stream._samples.end - runtime.audio.clip_samples) // stream.hop + 1
    gc.collect()
    memory, hour = np.array(resident), np.array(at)

    def around(when: float) -> float:
        return float(np.median(memory[np.abs(hour - when).argsort()[:100]]))

    first, last = around(min(1.0, hours / 2)), around(hours)
    typer.echo(f"{hours:g} h: {found} windows, {expected} expected")
    typer.echo(f"{first:.1f} MB after the first hour, {last:.1f} MB at the end: {last - first:+.1f} MB")


def _resident_mb() -> float:
    """Of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 1e6


if __name__ == "__main__":
    app()
