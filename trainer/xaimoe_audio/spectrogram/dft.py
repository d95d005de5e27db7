"""Power spectra by matrix products alone, so that any ONNX provider takes the graph whole.

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
from numpy.typing import NDArray
from torch import Tensor, nn


def hann(length: int) -> NDArray[np.float64]:
    """The periodic Hann window."""
    window: NDArray[np.float64] = np.hanning(length + 1)[:-1]
    return window


class PowerSpectrumProjection(nn.Module):
    """Power spectrum of overlapping frames, projected by fixed filters: [B, N] -> [B, T, filters].

    Frame t is of the samples t*hop … t*hop + win_length, under a periodic Hann window. Zeros fill it up to ``n_fft``;
    where they stand does not change the power, so they are never computed with.

    Args:
        n_fft: length of the DFT, a power of two.
        win_length: samples a frame sees, at most ``n_fft``.
        hop: samples from frame to frame. The three's greatest common divisor sets the speed: 32 or more is fast.
        filters: [n_fft // 2 + 1, filters], the weights on the power of each bin.
    """

    window: Tensor
    stage1: Tensor
    stage2: Tensor
    folded: Tensor

    def __init__(self, n_fft: int, win_length: int, hop: int, filters: Tensor) -> None:
        super().__init__()
        self.win_length, self.hop = win_length, hop
        self.row = math.gcd(n_fft, hop, win_length, 1 << (n_fft.bit_length() // 2))
        a, b = n_fft // self.row, self.row
        k1, n1 = np.arange(a // 2 + 1)[:, None], np.arange(win_length // b)[None, :]
        stage1 = np.exp(-2j * np.pi * n1 * k1 / a)
        n2, k2 = np.arange(b)[:, None], np.arange(b)[None, :]
        bins = k1[:, :, None] + a * k2[None]  # [K1, 1, B]
        stage2 = np.exp(-2j * np.pi * n2[None] * bins / n_fft)  # [K1, B, B]
        # (re + i im)(c + i s): the columns give the real, then the imaginary part of the answer.
        real = np.concatenate([stage2.real, stage2.imag], axis=2)
        imaginary = np.concatenate([-stage2.imag, stage2.real], axis=2)
        self._constant("window", hann(win_length).reshape(-1, b))
        self._constant("stage1", np.concatenate([stage1.real, stage1.imag]))  # [2*K1, win_length / B]
        self._constant("stage2", np.concatenate([real, imaginary], axis=1))  # [K1, 2*B, 2*B]
        self.register_buffer("folded", _fold(filters, bins[:, 0, :], n_fft), persistent=False)

    def _constant(self, name: str, value: NDArray[np.float64]) -> None:
        self.register_buffer(name, torch.from_numpy(value.astype(np.float32)), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        batch, samples = waveform.shape
        a, b, k = self.win_length // self.row, self.row, self.stage2.shape[0]
        frames = (samples - self.win_length) // self.hop + 1
        x = frame_rows(waveform, b, a, self.hop // b, frames).reshape(batch, frames, a, b) * self.window
        y = self.stage1 @ x  # [B, T, 2*K1, B]: real parts, then imaginary parts
        y = y.reshape(batch, frames, 2, k, b).permute(0, 3, 1, 2, 4).reshape(batch, k, frames, 2 * b)
        z = torch.square(y @ self.stage2)  # [B, K1, T, 2*B]
        power = z[..., :b] + z[..., b:]
        return power.transpose(1, 2).reshape(batch, frames, k * b) @ self.folded


def frame_rows(waveform: Tensor, row: int, count: int, step: int, frames: int) -> Tensor:
    """Overlapping frames of a waveform [B, N]: ``count`` rows of ``row`` samples each, every ``step`` rows.

    Whole rows are copied, which is many times faster than a gather of samples. [B, frames, count * row]
    """
    batch, samples = waveform.shape
    first = torch.arange(frames, device=waveform.device) * step
    index = (first[:, None] + torch.arange(count, device=waveform.device)).flatten()
    rows = waveform.reshape(batch, samples // row, row).index_select(1, index)
    return rows.reshape(batch, frames, count * row)


def _fold(filters: Tensor, bins: NDArray[np.int64], n_fft: int) -> Tensor:
    """Filters on the bins as the two stages lay them out, conjugate twins sharing the weight: [K1 * B, filters]."""
    flat = bins.reshape(-1)
    rfft_bin = np.minimum(flat, n_fft - flat)
    copies = np.bincount(rfft_bin, minlength=n_fft // 2 + 1)
    weights = filters.double().numpy()[rfft_bin] / copies[rfft_bin, None]
    return torch.from_numpy(weights.astype(np.float32))
