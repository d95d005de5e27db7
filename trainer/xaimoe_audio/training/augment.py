"""Augmentation of a batch: of its frames' powers, then of its spectrograms; drawn from torch's global generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.spectrogram.attributes import BANDS
from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT, Frontend
from xaimoe_audio.training.clips import Clips
from xaimoe_runtime.schema import TaskKind

LEAST_POWER = 1e-12
NOISE_SNR = (5.0, 30.0)
"""Of added noise, in dB under the clip."""
NOISES = 32
STEEPEST_NOISE = 30.0
"""Slope of added noise from 0 Hz to Nyquist, up or down, in dB at most."""
NARROWEST = 0.25
"""Least share of its rate at which a recording is made to seem recorded."""
KNOTS = 5
"""Places in frequency between which a random equaliser's curve is straight."""


def mix_between_classes(clips: Clips, share: float, task: TaskKind, hop: int, centres: Tensor) -> Clips:
    """Return the clips, a share of them mixed with another one (Y. Tokozume et al., "Between-class learning", 2018).

    The two are brought to the same power first, so that r is a clip's share of the mixture's amplitude. For one class a
    clip, its target is r and the other's 1 - r. For several, r stays within 0.25…0.75 and both clips' classes
    are present. A silent clip, which no gain brings to another's power, is left alone. Powers are added, which is what
    mixed sounds do on average. Of the two sources, the higher native rate and the higher clipping rate are kept.

    Args:
        clips: the batch.
        share: of the clips that are mixed, 0…1.
        task: whether a clip has one class or several.
        hop: samples from frame to frame.
        centres: [F], centre frequencies of the spectrogram's bands in Hz, rising.

    Returns:
        A batch of the same size.
    """
    batch, device = len(clips.power), clips.power.device
    other = torch.randperm(batch, device=device)
    power = mean_power(clips, centres)
    sounds = power > LEAST_POWER
    ratio = torch.rand(batch, 1, device=device).clamp(1e-3, 1 - 1e-3)
    if task == "multi_label":
        ratio = 0.25 + ratio / 2
    chosen = torch.rand(batch, 1, device=device) < share
    ratio = torch.where(chosen & sounds & sounds[other], ratio, 1.0)
    amplitude = 1 / (1 + torch.sqrt(power / power[other]) * (1 - ratio) / ratio)
    norm = torch.square(amplitude) + torch.square(1 - amplitude)
    mine, others = torch.square(amplitude) / norm, torch.square(1 - amplitude) / norm
    mixed = added(clips, mine, taken(clips, other), others, hop)
    there = (ratio < 1).float()
    targets = torch.maximum(clips.targets, clips.targets[other] * there)
    if task == "single_label":
        targets = ratio * clips.targets + (1 - ratio) * clips.targets[other]
    return mixed._replace(
        source=torch.maximum(clips.source, clips.source[other] * there),
        targets=targets,
        taught=ratio * clips.taught + (1 - ratio) * clips.taught[other],
    )


def noise_clips(frontend: Frontend, config: FrontendConfig, seed: int = 0) -> Clips:
    """Return ``NOISES`` clips of stationary noise with spectral slopes from falling to rising, by ``STEEPEST_NOISE`` at
    most; the same ones for each seed.

    Args:
        frontend: computes the frames.
        config: of the frontend.
        seed: of the noise.

    Returns:
        Clips without targets; the powers are those of samples with a deviation of about 1.
    """
    waveform = torch.randn(NOISES, config.clip_samples, generator=torch.Generator().manual_seed(seed))
    spectrum = torch.fft.rfft(waveform)
    slope = torch.linspace(-STEEPEST_NOISE, STEEPEST_NOISE, NOISES)[:, None]
    spectrum = spectrum * 10 ** (slope * torch.linspace(0, 1, spectrum.shape[1]) / 20)
    device = frontend.window.mean.device
    noise = torch.fft.irfft(spectrum, n=config.clip_samples).to(device)
    parts = [frontend.frame(one[None]) for one in noise]
    power, sums = (torch.cat(column) for column in zip(*parts, strict=True))
    nothing = torch.zeros(NOISES, 0, device=device)
    return Clips(power, sums, torch.zeros(NOISES, 2, device=device), nothing, nothing)


def add_noise(clips: Clips, noise: Clips, share: float, hop: int, centres: Tensor) -> Clips:
    """Return the clips, a share of them with a noise whose power is ``NOISE_SNR`` dB lower; silent ones stay silent.

    Args:
        clips: the batch.
        noise: as :func:`noise_clips` returns them.
        share: of the clips that noise is added to, 0…1.
        hop: samples from frame to frame.
        centres: [F], centre frequencies of the spectrogram's bands in Hz, rising.

    Returns:
        A batch of the same size.
    """
    batch, device = len(clips.power), clips.power.device
    chosen = taken(noise, torch.randint(len(noise.power), (batch,), device=device))
    turn = int(torch.randint(chosen.power.shape[2], ()))
    chosen = chosen._replace(power=chosen.power.roll(turn, 2), sums=chosen.sums.roll(turn, 2))
    low, high = NOISE_SNR
    snr = low + torch.rand(batch, 1, device=device) * (high - low)
    power = mean_power(clips, centres)
    factor = power / mean_power(chosen, centres) * 10 ** (-snr / 10)
    factor = torch.where((torch.rand(batch, 1, device=device) < share) & (power > LEAST_POWER), factor, 0.0)
    return added(clips, torch.ones_like(factor), chosen, factor, hop)


def band_limit(clips: Clips, centres: Tensor, rate: int, share: float) -> Clips:
    """Return the clips, a share of them as if recorded at a lower rate: nothing is left above half of it, and the
    source states that rate.

    Args:
        clips: at ``rate`` Hz.
        centres: [F], centre frequencies of the spectrogram's bands in Hz, rising.
        rate: of the model, in Hz.
        share: of the clips that are limited, 0…1.

    Returns:
        A batch of the same size.
    """
    batch, device = len(clips.power), clips.power.device
    native = rate * (NARROWEST + torch.rand(batch, 1, device=device) * (1 - NARROWEST))
    native = torch.where(torch.rand(batch, 1, device=device) < share, native, math.inf)
    kept = (centres < native / 2).to(clips.power.dtype)
    edges = torch.arange(BANDS, device=device) * rate / 2 / BANDS
    kept_sums = torch.cat([edges < native / 2, native.new_ones(batch, clips.sums.shape[1] - BANDS)], dim=1)
    source = torch.cat([torch.minimum(native, clips.source[:, :1]), clips.source[:, 1:]], dim=1)
    return clips._replace(power=clips.power * kept[:, :, None], sums=clips.sums * kept_sums[:, :, None], source=source)


def taken(clips: Clips, index: Tensor) -> Clips:
    """The clips of an index."""
    return Clips(*(part[index] for part in clips))


def mean_power(clips: Clips, centres: Tensor) -> Tensor:
    """Return the mean power density of each clip within the spectrogram's bands.

    Sound outside of the bands, a recorder's offset and swell under ``fmin`` above all, would make a clip count as loud
    that is soft within them.

    Args:
        clips: the batch.
        centres: [F], centre frequencies of the bands in Hz, rising; a band counts by its width, half the distance of
            its neighbours.

    Returns:
        [B, 1], in the unit of ``Clips.power``; at least ``LEAST_POWER``.
    """
    (width,) = torch.gradient(centres)
    density = clips.power.mean(2) @ (width / width.sum())
    return torch.clamp(density[:, None], min=LEAST_POWER)


def added(clips: Clips, factor: Tensor, others: Clips, other_factor: Tensor, hop: int) -> Clips:
    """Return the sum of two batches of independent sounds, each multiplied by a factor.

    Args:
        clips: the batch whose source and targets are kept.
        factor: of its power, [B, 1].
        others: a batch of the same size.
        other_factor: of their power, [B, 1].
        hop: samples from frame to frame.
    """
    a, b = factor[:, :, None], other_factor[:, :, None]
    bands = a * clips.sums[:, :BANDS] + b * others.sums[:, :BANDS]
    square, other_square = a * clips.sums[:, BANDS : BANDS + 1], b * others.sums[:, BANDS : BANDS + 1]
    # (x + y)**4 on average, x and y independent: x**4 + 6 x**2 y**2 + y**4; the sums are over a hop of samples.
    fourth = a * a * clips.sums[:, BANDS + 1 :] + b * b * others.sums[:, BANDS + 1 :]
    fourth = fourth + 6 * square * other_square / hop
    return clips._replace(
        power=a * clips.power + b * others.power, sums=torch.cat([bands, square + other_square, fourth], dim=1)
    )


def level_jitter(spectrogram: Tensor, most: float) -> Tensor:
    """Return each spectrogram raised or lowered by a random level.

    Args:
        spectrogram: [B, 1, F, T], normalised.
        most: the largest change, in its standard deviations.
    """
    offset = (torch.rand(len(spectrogram), 1, 1, 1, device=spectrogram.device) * 2 - 1) * most
    return _raised(spectrogram, offset)


def equalise(spectrogram: Tensor, most: float) -> Tensor:
    """Return each spectrogram raised in some bands and lowered in others, as if recorded with other equipment or from
    elsewhere (after H. Nam et al., "FilterAugment", 2022).

    Args:
        spectrogram: [B, 1, F, T], normalised.
        most: the largest change, in its standard deviations.
    """
    knots = (torch.rand(len(spectrogram), 1, KNOTS, device=spectrogram.device) * 2 - 1) * most
    curve = nn.functional.interpolate(knots, size=spectrogram.shape[2], mode="linear", align_corners=True)
    return _raised(spectrogram, curve[..., None])


def _raised(spectrogram: Tensor, by: Tensor) -> Tensor:
    """Return a spectrogram raised within its limits; cells at the lower one, which are silence to the model, stay.

    Args:
        spectrogram: [B, 1, F, T], normalised.
        by: in its standard deviations, [B, 1, F or 1, 1].
    """
    raised = torch.clamp(spectrogram + by, -SPECTROGRAM_LIMIT, SPECTROGRAM_LIMIT)
    return torch.where(spectrogram > -SPECTROGRAM_LIMIT, raised, spectrogram)


def stretch(spectrogram: Tensor, most: float) -> Tensor:
    """Each spectrogram of [B, 1, F, T] stretched in time and in frequency, each by up to ``most`` as a logarithm.

    What a stretched one lacks at its edges is filled with the edge; what is too much falls off at either side. Cells
    are copied, not interpolated: that would smooth the texture by which noises differ.
    """
    batch, device = len(spectrogram), spectrogram.device
    time, frequency = torch.exp((torch.rand(2, batch, device=device) * 2 - 1) * most)
    place = torch.zeros(batch, 2, 3, device=device)
    place[:, 0, 0], place[:, 1, 1] = time, frequency
    place[:, 0, 2] = (torch.rand(batch, device=device) * 2 - 1) * torch.clamp(1 - time, min=-0.1)
    grid = nn.functional.affine_grid(place, list(spectrogram.shape), align_corners=False)
    return nn.functional.grid_sample(spectrogram, grid, mode="nearest", padding_mode="border", align_corners=False)


def time_shift(spectrogram: Tensor, share: float) -> Tensor:
    """Each spectrogram of [B, 1, F, T] turned around in time by up to ``share`` of its length, either way."""
    frames = spectrogram.shape[3]
    most = round(share * frames)
    shift = torch.randint(-most, most + 1, (len(spectrogram), 1), device=spectrogram.device)
    index = (torch.arange(frames, device=spectrogram.device) + shift) % frames
    return spectrogram.gather(3, index[:, None, None].expand_as(spectrogram))


def frequency_shift(spectrogram: Tensor, share: float) -> Tensor:
    """Each spectrogram of [B, 1, F, T] moved up or down by up to ``share`` of its height; the edge row is repeated."""
    bins = spectrogram.shape[2]
    most = round(share * bins)
    shift = torch.randint(-most, most + 1, (len(spectrogram), 1), device=spectrogram.device)
    index = torch.clamp(torch.arange(bins, device=spectrogram.device) + shift, 0, bins - 1)
    return spectrogram.gather(2, index[:, None, :, None].expand_as(spectrogram))


def spec_augment(spectrogram: Tensor, masks: int, freq_share: float = 1 / 6, time_share: float = 1 / 8) -> Tensor:
    """Mask random bands and stretches of time with the mean, 0 (D. S. Park et al., "SpecAugment", 2019).

    Cells at the lower limit stay there: the mean would be an event. Masks of silence everywhere cost the glance 0.075
    of its accuracy on the sonar scenes (0.631 to 0.556), and the whole model nothing.

    Args:
        spectrogram: [B, 1, F, T], normalised.
        masks: how many there are in frequency, and as many in time.
        freq_share: the largest height of a mask, as a share of F.
        time_share: the largest width of a mask, as a share of T.
    """
    silent = spectrogram == -SPECTROGRAM_LIMIT
    batch, _, bins, frames = spectrogram.shape
    for _ in range(masks):
        for axis, size, share in ((2, bins, freq_share), (3, frames, time_share)):
            width = torch.rand(batch, 1, device=spectrogram.device) * size * share
            start = torch.rand(batch, 1, device=spectrogram.device) * (size - width)
            cells = torch.arange(size, device=spectrogram.device)[None]
            masked = (cells >= start.round()) & (cells < (start + width).round())
            shape = (batch, 1, size, 1) if axis == 2 else (batch, 1, 1, size)
            spectrogram = spectrogram.masked_fill(masked.reshape(shape) & ~silent, 0.0)
    return spectrogram
