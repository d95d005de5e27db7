"""What costs nothing: the glance learns to recognise plain background noise, which needs no expert.

The detector is a linear classifier on what the glance makes of a clip, fitted when the training is over: recordings of
the training split against synthetic noise. It changes no weight of the model.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.data.dataset import Data, LabelledRecording, evenly
from xaimoe_audio.model.glance import summarised
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.scenes import ambient_density
from xaimoe_audio.training.assess import batches
from xaimoe_audio.training.losses import pooled
from xaimoe_runtime.inference import BATCH
from xaimoe_runtime.schema import TaskKind

Floats = NDArray[np.float32]
NOISES = 192
"""Clips of noise, one half to fit the detector and the other to choose its threshold."""
RECORDINGS = 400
"""Most recordings of the training split that count as more than noise, each with its first window."""
STEEPEST = 1.2
"""Largest exponent by which the amplitude of noise falls with the frequency; pink noise has 0.5, brown noise 1."""
LOWEST_HZ = 20.0
"""Frequency under which the amplitude of noise rises no more."""
LEVEL_DB = (-45.0, -20.0)
FOUND = 0.95
"""Share of the noise that is to be recognised."""
MOST_LOST = 0.01
"""Share of right answers on the validation split that may be lost by it; less noise is recognised rather than that."""
WIDTH = 0.5
"""Of the detector's logit, over which pairs fade in: no step where a threshold is crossed."""


def background_noise(config: FrontendConfig, rates: list[int], count: int, seed: int) -> Floats:
    """Return clips [count, S] of steady noise, in turn with a spectrum that falls evenly, and with that of the sea.

    Args:
        config: of the clips.
        rates: native rates in Hz of recordings; each noise ends at half of one of them.
        count: number of clips.
        seed: of all randomness.
    """
    rng = np.random.default_rng(seed)
    frequency = np.fft.rfftfreq(config.clip_samples, 1 / config.sample_rate)
    clips = np.empty((count, config.clip_samples), np.float32)
    for i in range(count):
        if i % 2:
            amplitude = np.sqrt(ambient_density(frequency, rng.uniform(0, 1), rng.uniform(1, 15)))
        else:
            amplitude = np.maximum(frequency, LOWEST_HZ) ** -rng.uniform(0, STEEPEST)
        amplitude = amplitude * frequency**2 / (frequency**2 + LOWEST_HZ**2) * (frequency < rng.choice(rates) / 2)
        noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(config.clip_samples)) * amplitude, config.clip_samples)
        clips[i] = noise * 10 ** (rng.uniform(*LEVEL_DB) / 20) / np.sqrt(np.mean(noise**2))
    return clips


@torch.no_grad()
def fit_background(
    model: MoEAudioModel, items: list[LabelledRecording], val: Data, device: torch.device, seed: int = 0
) -> None:
    """Fit the detector of background noise, so that ``FOUND`` of it asks no expert.

    On the validation split the share of right answers may fall by ``MOST_LOST`` at most.

    Args:
        model: with a head that is calibrated; its glance is altered in place.
        items: recordings of the training split.
        val: those of the validation split, and their targets.
        device: of the model.
        seed: of the noise.
    """
    glance = model.glance
    if not glance.detects_background:
        return
    model.eval()
    glance.background_weight.zero_()
    glance.background_bias.fill_(1.0)
    rates = [int(item.recording.native_rate) for item in items]
    noise = background_noise(model.config.frontend, rates, NOISES, seed)
    known, unseen = (torch.cat(list(_summaries(model, part, device))).cpu().numpy() for part in np.split(noise, 2))
    heard = batches(model, evenly(items, RECORDINGS), device, 1)
    sounds = torch.cat([_summary(model, waveform) for _, waveform, _ in heard]).cpu().numpy()
    weight, bias = _separated(sounds, known)
    threshold = _threshold(unseen @ weight + bias, *_answers(model, val, device, weight, bias), model.config.task)
    # In the middle of the ramp from 0 to 1.
    glance.background_weight.copy_(torch.from_numpy(weight / WIDTH))
    glance.background_bias.fill_(float((bias - threshold) / WIDTH + 0.5))


def _summary(model: MoEAudioModel, waveform: Tensor) -> Tensor:
    """What the glance makes of clips [B, S], [B, deep]; the source does not count in the spectrogram."""
    source = waveform.new_zeros(len(waveform), 2)
    return summarised(model.glance.body(model.frontend(waveform, source)[0]))


def _summaries(model: MoEAudioModel, clips: Floats, device: torch.device) -> Iterator[Tensor]:
    for start in range(0, len(clips), BATCH):
        yield _summary(model, torch.from_numpy(clips[start : start + BATCH]).to(device))


def _separated(sounds: Floats, noise: Floats) -> tuple[Floats, float]:
    """Weight [deep] and bias of the logit of summaries [N, deep] being more than noise, for equal odds."""
    both = np.concatenate([sounds, noise])
    mean, deviation = both.mean(0), np.maximum(both.std(0), 1e-6)
    truth = np.arange(len(both)) < len(sounds)
    fitted = LogisticRegression(class_weight="balanced", max_iter=2_000).fit((both - mean) / deviation, truth)
    weight = fitted.coef_[0] / deviation
    return np.asarray(weight, np.float32), float(fitted.intercept_[0] - weight @ mean)


def _answers(
    model: MoEAudioModel, val: Data, device: torch.device, weight: Floats, bias: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of the validation windows: logits [W], scores with experts and without [W, L], recordings [W]; targets [N, L]."""
    items, targets = val
    parts = []
    for owners, waveform, source in batches(model, items, device):
        routed = model.route(*model.frontend(waveform, source))
        mixture, mass = model.bank(routed.spectrogram, routed.gates)
        nothing = torch.zeros_like(mixture), torch.zeros_like(mass)
        summary = summarised(model.glance.body(routed.spectrogram))
        scores = model.head(mixture, mass, routed.prior_logits), model.head(*nothing, routed.prior_logits)
        logits = summary @ torch.from_numpy(weight).to(summary) + bias
        parts.append((logits.cpu(), *(part.cpu() for part in scores), owners))
    logits, with_experts, without, owner = (torch.cat(column) for column in zip(*parts, strict=True))
    return logits, with_experts, without, owner, torch.from_numpy(targets)


def _threshold(
    noise: Floats, logits: Tensor, with_experts: Tensor, without: Tensor, owner: Tensor, targets: Tensor, task: TaskKind
) -> float:
    """The logit up to which a clip is noise: what ``FOUND`` of the noise has, or less if that costs right answers."""
    before = _right(pooled(with_experts, owner), targets, task)
    for share in np.linspace(FOUND, 0, 20):
        threshold = float(np.quantile(noise, share))
        scores = torch.where(logits[:, None] < threshold, without, with_experts)
        if before - _right(pooled(scores, owner), targets, task) <= MOST_LOST:
            return threshold
    return float(noise.min())


def _right(scores: Tensor, targets: Tensor, task: TaskKind) -> float:
    """Share of recordings with all labels right: scores and targets [N, L]."""
    if task == "single_label":
        return float((scores.argmax(1) == targets.argmax(1)).float().mean())
    return float(((scores > 0.5) == (targets > 0.5)).all(1).float().mean())
