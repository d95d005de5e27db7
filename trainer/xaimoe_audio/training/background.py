"""Fit the glance's detector of background noise, for which no expert is run.

The detector is a linear classifier on the glance's features of a whole clip, fitted when the training is over: clips of
the training split against synthetic noise. It changes no weight of the model, only whether experts are run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.data.dataset import Data, LabelledRecording, evenly
from xaimoe_audio.engine import audio_spec
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.scenes import ambient_density
from xaimoe_audio.training.assess import batches, pool_recordings, sounding_shares
from xaimoe_audio.training.calibrate import THRESHOLD
from xaimoe_runtime.inference import BATCH
from xaimoe_runtime.schema import TaskKind

Floats = NDArray[np.float32]
Spectrum = Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]
"""Amplitude of a clip of noise at frequencies in Hz."""
NOISE_CLIPS = 256
"""Clips of noise to fit the detector, and as many to choose its threshold."""
MAX_RECORDINGS = 1_600
"""Recordings of the training split that the noise is compared with, each by its first window."""
MAX_EXPONENT = 1.2
"""Largest exponent by which the amplitude of noise falls with the frequency; pink noise has 0.5, brown noise 1."""
MIN_HZ = 20.0
"""Frequency under which the amplitude of coloured noise rises no more."""
CORNER_HZ = (2.0, 50.0)
"""Limits of the frequency under which a recorder's high-pass filter lets the amplitude fall."""
LEVEL_DBFS = (-45.0, -20.0)
RECALL = 0.97
"""Share of the noise of each kind that is to be recognised."""
MAX_ACCURACY_LOSS = 0.01
"""Share of right answers on the validation split that may be lost; less noise is recognised rather than that."""
RAMP = 0.5
"""Difference of the logit over which pairs fade in, so that rounding switches none on or off."""


def coloured(hz: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return the amplitude, at frequencies in Hz, of noise that falls evenly, as white, pink and brown noise do."""
    return np.asarray(np.maximum(hz, MIN_HZ) ** -rng.uniform(0, MAX_EXPONENT))


def of_the_sea(hz: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return the amplitude, at frequencies in Hz, of the sea at random shipping and wind."""
    return np.sqrt(ambient_density(hz, rng.uniform(0, 1), rng.uniform(1, 15)))


SPECTRA: tuple[Spectrum, ...] = (coloured, of_the_sea)


def noise_clips(
    config: FrontendConfig, spectrum: Spectrum, max_hz: float, count: int, rng: np.random.Generator
) -> Floats:
    """Return clips [count, S] of steady noise.

    Args:
        config: of the clips.
        spectrum: gives the amplitude of each clip.
        max_hz: where the band of the noise ends, in Hz.
        count: number of clips.
        rng: of all randomness.
    """
    size = config.clip_samples
    frequency = np.fft.rfftfreq(size, 1 / config.sample_rate)
    clips = np.empty((count, size), np.float32)
    for i in range(count):
        corner = np.exp(rng.uniform(*np.log(CORNER_HZ)))
        gain = spectrum(frequency, rng) * frequency**2 / (frequency**2 + corner**2) * (frequency < max_hz)
        noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * gain, size)
        clips[i] = noise * 10 ** (rng.uniform(*LEVEL_DBFS) / 20) / np.sqrt(np.mean(noise**2))
    return clips


@torch.no_grad()
def fit_background(
    model: MoEAudioModel, items: list[LabelledRecording], val: Data, device: torch.device, seed: int = 0
) -> None:
    """Fit the detector so that ``RECALL`` of the background noise runs no expert.

    On the validation split the share of right answers falls by ``MAX_ACCURACY_LOSS`` at most.

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
    # That of recordings with a lower rate than others is not recognised: it is too much like faint sources in them.
    max_hz = max(item.recording.native_rate for item in items) / 2
    rng = np.random.default_rng(seed)
    count = NOISE_CLIPS // len(SPECTRA)
    noise = [_noise_features(model, spectrum, max_hz, 2 * count, rng, device) for spectrum in SPECTRA]
    recorded = batches(model, evenly(items, MAX_RECORDINGS), device, 1)
    sounds = torch.cat([_batch_features(model, waveform) for _, waveform, _ in recorded]).cpu().numpy()
    weight, bias = _separated(sounds, np.concatenate([part[:count] for part in noise]))
    held_out = [part[count:] @ weight + bias for part in noise]
    threshold = _threshold(held_out, _validate(model, val, device, weight, bias))
    # Pairs are half faded in at the threshold.
    glance.background_weight.copy_(torch.from_numpy(weight / RAMP))
    glance.background_bias.fill_((bias - threshold) / RAMP + 0.5)


def _batch_features(model: MoEAudioModel, waveform: Tensor) -> Tensor:
    """Return the glance's features of clips [B, S], [B, N]; the source does not count in the spectrogram."""
    spectrogram, _ = model.frontend(waveform, waveform.new_zeros(len(waveform), 2))
    return model.glance.background_features(spectrogram)


def _noise_features(
    model: MoEAudioModel, spectrum: Spectrum, max_hz: float, count: int, rng: np.random.Generator, device: torch.device
) -> Floats:
    """Return the glance's features of ``count`` clips of noise, [count, N]; few clips are in memory at a time."""
    parts = []
    for start in range(0, count, BATCH):
        clips = noise_clips(model.config.frontend, spectrum, max_hz, min(BATCH, count - start), rng)
        parts.append(_batch_features(model, torch.from_numpy(clips).to(device)).cpu())
    return np.asarray(torch.cat(parts).numpy())


def _separated(sounds: Floats, noise: Floats) -> tuple[Floats, float]:
    """Return weight [N] and bias of the logit of features [B, N] being more than noise, at even odds."""
    both = np.concatenate([sounds, noise])
    scaler = StandardScaler().fit(both)
    is_sound = np.arange(len(both)) < len(sounds)
    fitted = LogisticRegression(class_weight="balanced", max_iter=2_000).fit(scaler.transform(both), is_sound)
    weight = fitted.coef_[0] / scaler.scale_
    return weight.astype(np.float32), float(fitted.intercept_[0] - weight @ scaler.mean_)


class _Validation(NamedTuple):
    """The validation split as the model classifies it: W windows of N recordings."""

    logits: Floats
    """Of the windows' being more than noise, [W]."""
    with_experts: Floats
    """Scores of the windows, [W, L]."""
    without: Floats
    """Scores of the windows by the glance alone, [W, L]."""
    sounding: Floats
    """Share of each window that is not silent, [W]."""
    owners: NDArray[np.int64]
    """The recording of each window, [W]."""
    targets: Floats
    """[N, L]."""
    task: TaskKind

    def right(self, scores: Floats) -> float:
        """Return the share of recordings with all labels right, given scores of the windows [W, L]."""
        pooled = pool_recordings(scores, self.sounding, self.owners)
        if self.task == "single_label":
            return float((pooled.argmax(1) == self.targets.argmax(1)).mean())
        return float(((pooled > THRESHOLD) == (self.targets > THRESHOLD)).all(1).mean())


def _validate(model: MoEAudioModel, data: Data, device: torch.device, weight: Floats, bias: float) -> _Validation:
    """Return what the model, with and without its experts, and the detector say of the validation split."""
    items, targets = data
    parts, recordings = list[list[Floats]](), list[NDArray[np.int64]]()
    for owners, waveform, source in batches(model, items, device):
        routed = model.route(*model.frontend(waveform, source))
        mixture, mass = model.bank(routed.spectrogram, routed.gates)
        with_experts = model.head(mixture, mass, routed.prior_logits)
        without = model.head(torch.zeros_like(mixture), torch.zeros_like(mass), routed.prior_logits)
        features = model.glance.background_features(routed.spectrogram)
        logits = features @ torch.from_numpy(weight).to(features) + bias
        parts.append([part.cpu().numpy() for part in (logits, with_experts, without)])
        recordings.append(owners.numpy())
    scored = [np.concatenate(column) for column in zip(*parts, strict=True)]
    owner = np.concatenate(recordings)
    votes = sounding_shares(items, audio_spec(model.config))
    return _Validation(scored[0], scored[1], scored[2], votes, owner, targets, model.config.task)


def _threshold(noise: list[Floats], validation: _Validation) -> float:
    """Return the logit up to which a clip is noise.

    That is what ``RECALL`` of the noise of each kind has, or less if that costs too many right answers.

    Args:
        noise: logits of noise, by kind.
        validation: what is right with and without experts.
    """
    before = validation.right(validation.with_experts)
    for share in np.linspace(RECALL, 0, 20):
        threshold = max(float(np.quantile(part, share)) for part in noise)
        is_noise = validation.logits[:, None] < threshold
        after = validation.right(np.where(is_noise, validation.without, validation.with_experts))
        if before - after <= MAX_ACCURACY_LOSS:
            return threshold
    return min(float(part.min()) for part in noise)
