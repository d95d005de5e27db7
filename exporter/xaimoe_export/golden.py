"""The golden clip and the answers to it, by which a device proves a bundle."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xaimoe_export.reference import Reference
from xaimoe_runtime import Runtime
from xaimoe_runtime.schema import ROUTINGS, AudioSpec
from xaimoe_runtime.verify import beside_the_line

Floats = NDArray[np.float32]
Answers = dict[str, Floats]
"""By golden name; those of a precision other than ``fp32`` have it before."""
GOLDEN = "golden.npz"
SEED = 20260


def made_up_clip(samples: int, sample_rate: int, seed: int) -> Floats:
    """A synthetic clip [samples]: noise, a rising tone and clicks, something to do for every part of the model."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / sample_rate
    duration = samples / sample_rate
    sweep = np.sin(2 * np.pi * (0.02 * sample_rate * time + 0.2 * sample_rate * time**2 / duration))
    clicks = np.where(rng.random(samples) < 8 / sample_rate, rng.standard_normal(samples), 0)
    noise = 0.02 * rng.standard_normal(samples)
    clip: Floats = (0.2 * sweep * (time > duration / 3) + 0.8 * clicks + noise).astype(np.float32)
    return np.clip(clip, -1, 1)


def made_up_clips(audio: AudioSpec, count: int) -> tuple[Floats, Floats]:
    """Clips [count, S] and their source [count, 2]: the golden one, silence, and others at levels and native rates that
    open and close the router's masks."""
    rng = np.random.default_rng(SEED)
    clips = [made_up_clip(audio.clip_samples, audio.sample_rate, SEED), np.zeros(audio.clip_samples, np.float32)]
    while len(clips) < count:
        clip = made_up_clip(audio.clip_samples, audio.sample_rate, int(rng.integers(2**31)))
        clips.append((clip * 10 ** rng.uniform(-3, 0)).astype(np.float32))
    rates = audio.sample_rate * np.geomspace(0.1, 2, count)
    return np.stack(clips), np.stack([rates, np.linspace(0, 0.3, count)], axis=1).astype(np.float32)


def answers_of_modules(reference: Reference, audio: AudioSpec) -> Answers:
    """Inputs and answers of every graph for the golden clip, by PyTorch."""
    clip = torch.from_numpy(made_up_clip(audio.clip_samples, audio.sample_rate, SEED))[None]
    source = torch.tensor([[float(audio.sample_rate), 0.0]])
    return {name: np.ascontiguousarray(value.numpy()) for name, value in reference.answers(clip, source).items()}


def answers_of_precision(runtime: Runtime, golden: Answers) -> Answers:
    """What the graphs of a precision and its line answer to the same, where that is not what PyTorch answers.

    Rounded weights answer otherwise, and a device that has them must answer as they do, not nearly as PyTorch.
    """
    found: Answers = {}
    for graph in (*runtime.dispatcher.graphs.values(), *beside_the_line(runtime)):
        if graph.spec.precision == runtime.precision:
            outputs = graph(**{tensor.name: golden[graph.spec.golden(tensor.name)] for tensor in graph.spec.inputs})
            found |= {graph.spec.golden(name): value for name, value in outputs.items()}
    for routing in ROUTINGS:
        found[f"scores/{routing}"] = runtime.run(golden["waveform"], golden["source"], routing).scores
    return {
        f"{runtime.precision}/{name}": value for name, value in found.items() if not np.array_equal(value, golden[name])
    }


def archive(golden: Answers) -> bytes:
    """The answers as a compressed NumPy archive, the same for the same answers."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(sorted(golden.items()))
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
