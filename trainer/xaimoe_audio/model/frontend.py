"""Log-mel spectrogram by matrix products alone, so that any ONNX provider takes the graph whole.

The DFT of a frame of N = A*B samples is done in two stages (the Cooley-Tukey factorisation: J. W. Cooley and
J. W. Tukey, "An algorithm for the machine calculation of complex Fourier series", 1965). With n = B*n1 + n2 and
k = k1 + A*k2::

    X[k1 + A*k2] = sum_n2 W_N^(n2*(k1 + A*k2)) * sum_n1 x[B*n1 + n2] W_A^(n1*k1)

The inner sum is one matrix product shared by all columns n2, the outer one is a matrix product for each k1. The
input is real, so k1 = 0…A/2 suffice: the other bins are complex conjugates and have the same power.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.model.attributes import BANDS, SignalAttributes, ramp

POWER_FLOOR = 1e-10
"""Mel power below this (-100 dB) counts as silence."""
SILENCE_RAMP = (-100.0, -95.0)
"""Mel power in dB over which a cell rises from the lower limit: silence looks the same in every band and model."""
SPECTROGRAM_LIMIT = 4.0
"""The normalised spectrogram is kept within this many standard deviations."""


class PowerSpectrumProjection(nn.Module):
    """Power spectrum of overlapping frames, projected by fixed filters: [B, N] -> [B, T, filters].

    Args:
        n_fft: frame length in samples, a power of two.
        hop: samples from frame to frame.
        filters: [n_fft // 2 + 1, filters], the weights on the power of each bin.
    """

    window: Tensor
    stage1: Tensor
    stage2: Tensor
    folded: Tensor

    def __init__(self, n_fft: int, hop: int, filters: Tensor) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.row = math.gcd(math.gcd(n_fft, hop), 1 << (n_fft.bit_length() // 2))
        a, b = n_fft // self.row, self.row
        k1, n1 = np.arange(a // 2 + 1)[:, None], np.arange(a)[None, :]
        stage1 = np.exp(-2j * np.pi * n1 * k1 / a)
        n2, k2 = np.arange(b)[:, None], np.arange(b)[None, :]
        bins = k1[:, :, None] + a * k2[None]  # [K1, 1, B]
        stage2 = np.exp(-2j * np.pi * n2[None] * bins / n_fft)  # [K1, B, B]
        # (re + i im)(c + i s): the columns give the real, then the imaginary part of the answer.
        real = np.concatenate([stage2.real, stage2.imag], axis=2)
        imaginary = np.concatenate([-stage2.imag, stage2.real], axis=2)
        window = np.hanning(n_fft + 1)[:-1].reshape(a, b)
        self._constant("window", window)
        self._constant("stage1", np.concatenate([stage1.real, stage1.imag]))  # [2*K1, A]
        self._constant("stage2", np.concatenate([real, imaginary], axis=1))  # [K1, 2*B, 2*B]
        self.register_buffer("folded", _fold(filters, bins[:, 0, :], n_fft), persistent=False)

    def _constant(self, name: str, value: NDArray[np.float64]) -> None:
        self.register_buffer(name, torch.from_numpy(value.astype(np.float32)), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        batch, samples = waveform.shape
        a, b, k = self.n_fft // self.row, self.row, self.stage2.shape[0]
        frames = (samples - self.n_fft) // self.hop + 1
        first = torch.arange(frames, device=waveform.device) * (self.hop // b)
        index = (first[:, None] + torch.arange(a, device=waveform.device)).flatten()
        rows = waveform.reshape(batch, samples // b, b).index_select(1, index)
        x = rows.reshape(batch, frames, a, b) * self.window
        y = self.stage1 @ x  # [B, T, 2*K1, B]: real parts, then imaginary parts
        y = y.reshape(batch, frames, 2, k, b).permute(0, 3, 1, 2, 4).reshape(batch, k, frames, 2 * b)
        z = torch.square(y @ self.stage2)  # [B, K1, T, 2*B]
        power = z[..., :b] + z[..., b:]
        return power.transpose(1, 2).reshape(batch, frames, k * b) @ self.folded


def _fold(filters: Tensor, bins: NDArray[np.int64], n_fft: int) -> Tensor:
    """Filters on the bins as the two stages lay them out, conjugate twins sharing the weight: [K1 * B, filters]."""
    flat = bins.reshape(-1)
    rfft_bin = np.minimum(flat, n_fft - flat)
    copies = np.bincount(rfft_bin, minlength=n_fft // 2 + 1)
    weights = filters.double().numpy()[rfft_bin] / copies[rfft_bin, None]
    return torch.from_numpy(weights.astype(np.float32))


class FrameStage(nn.Module):
    """Waveform [B, N] -> mel power ``frames`` [B, F, n] and ``frame_sums`` [B, R, n].

    A frame's sums are the power in each of ``BANDS`` equal bands from 0 Hz to Nyquist, then the sums of x**2 and
    x**4 over the frame's first hop of samples. Both are all that a stream must keep of a frame.
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        bins = config.n_fft // 2 + 1
        mel = torchaudio.functional.melscale_fbanks(
            bins, config.fmin, config.fmax, config.n_mels, config.sample_rate, norm="slaney", mel_scale="htk"
        )
        band = torch.clamp(torch.arange(bins) * BANDS // (bins - 1), max=BANDS - 1)
        window_power = float(np.sum(np.hanning(config.n_fft + 1) ** 2))
        bands = nn.functional.one_hot(band, BANDS).float() * (2 / (window_power * config.n_fft))
        bands[:2] = 0  # a constant offset of the recorder, which the window spreads over two bins
        mel = mel * (config.sample_rate / (window_power * 2))
        self.hop, self.n_mels = config.hop, config.n_mels
        self.spectrum = PowerSpectrumProjection(config.n_fft, config.hop, torch.cat([mel, bands], dim=1))

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        batch, samples = waveform.shape
        projected = self.spectrum(waveform).transpose(1, 2)
        frames = projected.shape[2]
        square = torch.square(waveform.reshape(batch, samples // self.hop, self.hop)[:, :frames])
        moments = torch.stack([square.sum(-1), torch.square(square).sum(-1)], dim=1)
        return projected[:, : self.n_mels], torch.cat([projected[:, self.n_mels :], moments], dim=1)


class WindowStage(nn.Module):
    """The frames of a whole clip -> ``spectrogram`` [B, 1, F, T] and ``attributes`` [B, A].

    The spectrogram is the mel power in dB, over that of the clip's mean, then less the mean and over the deviation that
    this has in the training split, and kept within ± ``SPECTROGRAM_LIMIT``. The gain of a recorder thus drops out. A
    silent cell is exactly at the lower limit.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.attributes = SignalAttributes(config.sample_rate, config.hop)
        self.register_buffer("mean", torch.zeros(config.n_mels))
        self.register_buffer("deviation", torch.ones(config.n_mels))

    def relative_level(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mel power in dB over the clip's mean power, and how far each cell is sound rather than silence, 0…1."""
        decibels = 10 * torch.log10(torch.clamp(frames, min=POWER_FLOOR))
        level = 10 * torch.log10(torch.clamp(frames.mean((1, 2)), min=POWER_FLOOR))
        return decibels - level[:, None, None], ramp(decibels, *SILENCE_RAMP)

    def forward(self, frames: Tensor, frame_sums: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        level, sounding = self.relative_level(frames)
        normalised = (level - self.mean[:, None]) / self.deviation[:, None]
        over_limit = torch.clamp(normalised, -SPECTROGRAM_LIMIT, SPECTROGRAM_LIMIT) + SPECTROGRAM_LIMIT
        spectrogram = over_limit * sounding - SPECTROGRAM_LIMIT
        return spectrogram.unsqueeze(1), self.attributes(frame_sums, source)


class Frontend(nn.Module):
    """``waveform`` [B, S] and ``source`` [B, 2] -> ``spectrogram`` [B, 1, F, T] and ``attributes`` [B, A]."""

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.frame = FrameStage(config)
        self.window = WindowStage(config)

    def forward(self, waveform: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        frames, frame_sums = self.frame(waveform)
        spectrogram, attributes = self.window(frames, frame_sums, source)
        return spectrogram, attributes
