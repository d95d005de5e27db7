"""Augmentation of a batch, drawn from torch's global generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT


def level_jitter(spectrogram: Tensor, most: float) -> Tensor:
    """Each spectrogram of [B, 1, F, T] raised or lowered by up to ``most``, in its own standard deviations."""
    offset = (torch.rand(len(spectrogram), 1, 1, 1, device=spectrogram.device) * 2 - 1) * most
    return torch.clamp(spectrogram + offset, -SPECTROGRAM_LIMIT, SPECTROGRAM_LIMIT)


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
    """Masks random bands and stretches of time with the mean, 0 (D. S. Park et al., "SpecAugment", 2019)."""
    batch, _, bins, frames = spectrogram.shape
    for _ in range(masks):
        for axis, size, share in ((2, bins, freq_share), (3, frames, time_share)):
            width = torch.rand(batch, 1, device=spectrogram.device) * size * share
            start = torch.rand(batch, 1, device=spectrogram.device) * (size - width)
            cells = torch.arange(size, device=spectrogram.device)[None]
            masked = (cells >= start.round()) & (cells < (start + width).round())
            shape = (batch, 1, size, 1) if axis == 2 else (batch, 1, 1, size)
            spectrogram = spectrogram.masked_fill(masked.reshape(shape), 0.0)
    return spectrogram
