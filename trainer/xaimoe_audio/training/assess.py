"""Running a model over a whole split, as a device would, and what is read off the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xaimoe_audio.data.dataset import LabelledRecording, windows_of
from xaimoe_audio.engine import audio_spec
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES
from xaimoe_runtime.console import progress
from xaimoe_runtime.inference import BATCH, run_windows
from xaimoe_runtime.pooling import Pooling
from xaimoe_runtime.result import Engine, Outputs
from xaimoe_runtime.schema import AttributeSpec, AudioSpec, Pool, Routing
from xaimoe_runtime.silence import sounding_share

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Answers:
    """A model's answers for the recordings of a split."""

    scores: Floats
    """[N, L], pooled over the windows of each recording."""
    outputs: Outputs
    """Of all W windows."""
    owners: NDArray[np.intp]
    """[W], the recording of each window."""


def answer(engine: Engine, items: list[LabelledRecording], routing: Routing, how: Pool = "mean") -> Answers:
    """Return an engine's answers for recordings, with a progress bar on stderr; windows and pooling are the runtime's.

    Args:
        engine: the model.
        items: N recordings.
        routing: which pairs run.
        how: how the scores of windows become those of a recording.
    """
    parts: list[Outputs] = []
    owners: list[int] = []
    source = windows_of(items, engine.audio)
    with progress(f"classifying, {routing}", len(items)) as advance:
        while group := list(islice(source, BATCH)):
            parts.append(run_windows(engine, [window for _, window in group], routing))
            for owner, _ in group:
                if not owners or owner != owners[-1]:
                    advance()
                owners.append(owner)
    outputs, owner_of = Outputs.join(parts), np.asarray(owners)
    return Answers(pool_recordings(outputs.scores, outputs.sounding, owner_of, how), outputs, owner_of)


def pool_recordings(scores: Floats, sounding: Floats, owners: NDArray[Any], how: Pool = "mean") -> Floats:
    """Return the scores of N recordings, [N, L], pooled over their W windows by the runtime's own rules.

    A recording with scores that are not finite has such scores, too.

    Args:
        scores: of the windows, [W, L].
        sounding: share of each window that is not silent, [W].
        owners: the recording of each window, [W], rising from 0 to N - 1.
        how: see :class:`xaimoe_runtime.pooling.Pooling`.
    """
    edges = np.flatnonzero(np.diff(owners)) + 1
    pooled = []
    for part, votes in zip(np.split(scores, edges), np.split(sounding, edges), strict=True):
        pooling = Pooling(scores.shape[1], how)
        pooling.add(part, votes, [0.0] * len(part))
        pooled.append(pooling.scores)
    return np.stack(pooled)


def attribute_quantiles(answers: Answers) -> tuple[AttributeSpec, ...]:
    """How each signal attribute is distributed over the windows."""
    low, middle, high = np.quantile(answers.outputs.attributes, [0.05, 0.5, 0.95], axis=0)
    return tuple(
        AttributeSpec(name=name, unit=unit, q05=float(low[i]), q50=float(middle[i]), q95=float(high[i]))
        for i, (name, unit) in enumerate(ATTRIBUTES)
    )


def sounding_shares(items: list[LabelledRecording], spec: AudioSpec) -> Floats:
    """Return the share of each of the W windows of the recordings that is not silent, [W]."""
    shares = [sounding_share(one.samples, spec.frame_hop, one.encoding) for _, one in windows_of(items, spec)]
    return np.array(shares, np.float32)


def batches(
    model: MoEAudioModel, items: list[LabelledRecording], device: torch.device, most: int | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """(recordings' indices, waveform, source) of all windows, or the first ``most`` of each recording, by batches."""
    source = windows_of(items, audio_spec(model.config), most)
    while group := list(islice(source, BATCH)):
        yield (
            torch.tensor([owner for owner, _ in group]),
            torch.from_numpy(np.stack([window.samples for _, window in group])).to(device),
            torch.tensor([window.source for _, window in group], dtype=torch.float32).to(device),
        )
