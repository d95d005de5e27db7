"""How time grows with clip length, batch, experts and classes: models of many sizes, with random weights, as bundles.

::

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

Weights do not matter for time, but how many pairs run does, so pairs are dealt out: as many of them as patches where
clips grow, else eight a clip. One thread; the median of calls that take turns over all sizes, so that a disturbance
hits all alike.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import typer

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.checkpoint import CheckpointInfo, save_checkpoint
from xaimoe_audio.config import Overrides
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.policy import Facts, decide
from xaimoe_audio.policy.build import build
from xaimoe_audio.spectrogram import BACKENDS
from xaimoe_runtime import Runtime
from xaimoe_runtime.mixing import mix
from xaimoe_runtime.schema import AttributeSpec
from xaimoe_runtime.writing import replacing

RATE = 16_000
USUAL: dict[str, int] = {"clip": 5, "batch": 1, "experts": 8, "classes": 10}
"""Seconds, clips, experts and classes where another one is varied."""
SIZES: dict[str, tuple[int, ...]] = {
    "clip": (1, 2, 5, 10, 20, 30),
    "batch": (1, 2, 4, 8, 16, 32),
    "experts": (1, 2, 4, 8),
    "classes": (2, 10, 50, 200, 500),
}
PAIRS = 8
ATTRIBUTES = ("snr", "flatness", "transient_rate", "clipping_rate", "fmin_eff", "fmax_eff", "level", "quality")


def bundle_of(clip_s: int, experts: int, classes: int, folder: Path) -> Path:
    """A bundle of the latency budget's size with random weights."""
    labels = tuple(f"class {i:03d}" for i in range(classes))
    names = tuple(FAMILIES)[:experts]
    policy = decide(Facts(budget="latency"), Overrides(clip_s=float(clip_s), sample_rate=RATE, experts=names))
    config = build(policy.made, "single_label", labels, FAMILIES, BACKENDS)
    torch.manual_seed(0)
    model = MoEAudioModel(config)
    model.frontend.window.mean.fill_(-60)
    model.frontend.window.deviation.fill_(15)
    usual = tuple(AttributeSpec(name=name, unit="", q05=0, q50=0.5, q95=1) for name in ATTRIBUTES)
    info = CheckpointInfo(
        model=config,
        budget="latency",
        auto_config=True,
        overrides=Overrides(),
        thresholds=(0.5,) * classes,
        attributes=usual,
        dataset_sha256="0" * 64,
        seed=0,
        versions={},
        metrics={},
    )
    save_checkpoint(folder / "best.pt", model, info)
    MoEAudioClassifier.load(folder / "best.pt", "cpu").export(folder / "bundle")
    return folder / "bundle"


def line(runtime: Runtime, batch: int, pairs: int) -> Callable[[], Any]:
    """A call of the whole line with so many pairs a clip, dealt out at random."""
    line, draw = runtime.dispatcher, np.random.default_rng(0)
    waveform = draw.normal(0, 0.1, (batch, runtime.audio.clip_samples)).astype(np.float32)
    source = np.tile(np.float32([runtime.audio.sample_rate, 0]), (batch, 1))
    shape = (runtime.manifest.patches.grid.count, len(runtime.experts))
    gates = np.zeros((batch, shape[0] * shape[1]), np.float32)
    for row in gates:
        row[draw.permutation(len(row))[:pairs]] = 1 / pairs
    gates = gates.reshape(batch, *shape)

    def call() -> Any:
        heard = line.frontend(waveform=waveform, source=source)
        glance = line.saliency(spectrogram=heard["spectrogram"])
        line.router(saliency=glance["saliency"], context=glance["context"], attributes=heard["attributes"])
        mixing = line.mixing(heard["spectrogram"], gates)
        mix(mixing, gates)
        mass = gates.sum((1, 2))[:, None]
        return line.head(mixture=mixing.mixture, mass=mass, prior_logits=glance["prior_logits"])

    return call


def main(
    out: Annotated[Path, typer.Option(help="The JSON file.")],
    rounds: Annotated[int, typer.Option(min=1, help="How often each size is timed.")] = 200,
) -> None:
    """Make the models, time them, and write what was found."""
    bundles: dict[tuple[int, int, int], Path] = {}
    calls: dict[tuple[str, int], Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for axis, sizes in SIZES.items():
            for size in sizes:
                of = USUAL | {axis: size}
                key = of["clip"], of["experts"], of["classes"]
                if key not in bundles:
                    bundles[key] = bundle_of(*key, Path(folder) / "-".join(map(str, key)))
                runtime = Runtime.load(bundles[key], provider="cpu")
                count = runtime.manifest.patches.grid.count
                pairs = count if axis == "clip" else min(PAIRS, count * of["experts"])
                calls[axis, size] = line(runtime, of["batch"], pairs)
        times: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
        for _ in range(rounds):
            for key, call in calls.items():
                start = perf_counter()
                call()
                times[key].append((perf_counter() - start) * 1e3)
    found = {axis: [{"size": size, "ms": median(times[axis, size])} for size in sizes] for axis, sizes in SIZES.items()}
    with replacing(out) as file:
        file.write(json.dumps(found, indent=1).encode())
    for axis, points in found.items():
        typer.echo(f"{axis:<8} " + "  ".join(f"{point['size']}: {point['ms']:.2f} ms" for point in points))


if __name__ == "__main__":
    typer.run(main)
