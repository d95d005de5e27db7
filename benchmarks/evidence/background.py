"""How much a bundle computes for background noise: pairs of a window, over those of clips with a source.

::

    python benchmarks/evidence/background.py BUNDLE DATASET [--metadata TABLE] [--background ambient]

Noise of four spectra at 32 levels each, none of it of the training, and the recordings of the dataset's test split, by
label. Recordings of the classes named by ``--background`` do not count as clips with a source.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from xaimoe_audio.scenes import ambient_density
from xaimoe_runtime import Runtime
from xaimoe_runtime.metadata import read_metadata

Floats = NDArray[np.float32]
CLIPS = 32
CORNER_HZ = 20.0
LEVEL_DBFS = (-45.0, -20.0)
EXPONENTS = {"white": 0.0, "pink": 0.5, "brown": 1.0}
"""By which the amplitude falls with the frequency."""


def noise(colour: str, size: int, rate: float, rng: np.random.Generator) -> Floats:
    """Return steady noise [size] of one spectrum at a random level."""
    hz = np.maximum(np.fft.rfftfreq(size, 1 / rate), CORNER_HZ)
    if colour == "sea":
        amplitude = np.sqrt(ambient_density(hz, rng.uniform(0, 1), rng.uniform(1, 15)))
    else:
        amplitude = hz ** -EXPONENTS[colour]
    samples = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * amplitude, size)
    return np.asarray(samples * 10 ** (rng.uniform(*LEVEL_DBFS) / 20) / samples.std(), np.float32)


def pairs_of(gates: Floats) -> list[int]:
    """Return the number of pairs that each window of gates [N, P, E] runs."""
    counts: list[int] = np.count_nonzero(gates, axis=(1, 2)).tolist()
    return counts


def main(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE")],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET")],
    metadata: Annotated[Path | None, typer.Option(help="Its table; by default its metadata.csv.")] = None,
    background: Annotated[list[str] | None, typer.Option(help="A class that holds no source.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 12_345,
) -> None:
    """Print pairs of a window by class and by noise, and those of noise over those of clips with a source."""
    runtime, rng = Runtime.load(bundle), np.random.default_rng(seed)
    size, rate = runtime.audio.clip_samples, runtime.audio.sample_rate
    rows: dict[str, list[int]] = defaultdict(list)
    with_source: list[int] = []
    kind = runtime.bundle.manifest.task.kind
    for row in read_metadata(metadata or dataset / "metadata.csv", dataset, kind, ("test",)).rows:
        pairs = [count for window in runtime.infer_file(row.path) for count in pairs_of(window.result.trace.gates)]
        rows[" + ".join(row.labels)] += pairs
        with_source += [] if set(row.labels) & set(background or ()) else pairs
    for colour in (*EXPONENTS, "sea"):
        for _ in range(CLIPS):
            rows[f"{colour} noise"] += pairs_of(runtime.infer(noise(colour, size, rate, rng)).trace.gates)
    mean = np.mean(with_source)
    print(f"{'':<32} windows  pairs  of a source's  glance alone")
    for name, counts in sorted(rows.items()):
        glance_alone = np.mean(np.equal(counts, 0))
        print(f"{name:<32} {len(counts):7} {np.mean(counts):6.2f} {np.mean(counts) / mean:14.1%} {glance_alone:13.1%}")
    print(f"{'all with a source':<32} {len(with_source):7} {mean:6.2f}")


if __name__ == "__main__":
    typer.run(main)
