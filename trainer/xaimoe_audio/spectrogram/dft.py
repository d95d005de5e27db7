"""Power spectra by matrix products alone, so that any ONNX provider takes the graph whole.

The DFT of a frame of N = A*B samples is done in two stages (the Cooley-Tukey factorisation: J. W. Cooley and
J. W. Tukey, "An algorithm for the machine calculation of complex Fourier series", 1965). With n = B*n1 + n2 and
k = k1 + A*k2::

    X[k1 + A*k2] = sum_n2 W_N^(n2*(k1 + A*k2)) * sum_n1 x[B*n1 + n2] W_A^(n1*k1)

The inner sum is a matrix product for each n2, which its part of the window is multiplied into; the outer one is one for
each k1. The input is real, so k1 = 0…A/2 suffice: the other bins are complex conjugates and have the same power.
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
    """Power spectrum of overlapping frames, projected by fixed filters: [batch, N] -> [batch, filters, T].

    Frame t is of the samples t*hop … t*hop + win_length, under a periodic Hann window. Zeros fill it up to ``n_fft``;
    where they stand does not change the power, so they are never computed with.

    Args:
        n_fft: length of the DFT.
        win_length: samples a frame sees, at most ``n_fft``.
        hop: samples from frame to frame. The three's greatest common divisor sets the speed: 8 or more is fast.
        filters: [n_fft // 2 + 1, filters], the weights on the power of each bin.
    """

    stage1: Tensor
    stage2: Tensor
    folded: Tensor

    def __init__(self, n_fft: int, win_length: int, hop: int, filters: Tensor) -> None:
        super().__init__()
        self.win_length, self.hop = win_length, hop
        self.row = math.gcd(n_fft, hop, win_length, _balanced_row(n_fft))
        a, b = n_fft // self.row, self.row
        k1, n1 = np.arange(a // 2 + 1)[:, None], np.arange(win_length // b)[None, :]
        inner = np.exp(-2j * np.pi * n1 * k1 / a)
        window = hann(win_length).reshape(-1, 1, b)
        stage1 = window.T * np.concatenate([inner.real, inner.imag])  # [B, 2*K1, win_length / B]
        n2, k2 = np.arange(b)[:, None], np.arange(b)[None, :]
        bins = k1[:, :, None] + a * k2[None]  # [K1, 1, B]
        outer = np.exp(-2j * np.pi * n2[None] * bins / n_fft).swapaxes(1, 2)  # [K1, B of k2, B of n2]
        # (re + i im)(c + i s): the rows give the real, then the imaginary part of the answer.
        real = np.stack([outer.real, -outer.imag], axis=3).reshape(-1, b, 2 * b)
        imaginary = np.stack([outer.imag, outer.real], axis=3).reshape(-1, b, 2 * b)
        self._constant("stage1", stage1)
        self._constant("stage2", np.concatenate([real, imaginary], axis=1))  # [K1, 2*B, 2*B]
        self._constant("folded", _fold(filters, bins[:, 0, :], n_fft))

    def _constant(self, name: str, value: NDArray[np.float64]) -> None:
        self.register_buffer(name, torch.from_numpy(value.astype(np.float32)), persistent=False)

    def columns(self, waveform: Tensor) -> Tensor:
        """Return the frames of a waveform [batch, N] before the window, each a column: [batch, win_length, T]."""
        frames = (waveform.shape[1] - self.win_length) // self.hop + 1
        return frame_columns(waveform, self.win_length, self.hop, frames)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.project(self.columns(waveform))

    def project(self, x: Tensor) -> Tensor:
        """Return the projected power spectrum [batch, filters, T] of frames [batch, win_length, T]."""
        batch, _, frames = x.shape
        b, k = self.row, self.stage2.shape[0]
        y = self.stage1 @ x.reshape(batch, -1, b, frames).transpose(1, 2)  # [batch, B, 2*K1, T]
        y = y.reshape(batch, b, 2, k, frames).permute(0, 3, 1, 2, 4).reshape(batch, k, 2 * b, frames)
        z = self.stage2 @ y  # [batch, K1, 2*B, T]: of each bin the real part, then the imaginary one
        z = z * z
        power = z[:, :, :b] + z[:, :, b:]
        return self.folded @ power.reshape(batch, k * b, frames)


def _balanced_row(n_fft: int) -> int:
    """Length of a row for which both stages have about as much to do: a power of two, up to sqrt(n_fft / 2)."""
    return 1 << (((n_fft // 2).bit_length() - 1) // 2)


def frame_columns(waveform: Tensor, win_length: int, hop: int, frames: int) -> Tensor:
    """Overlapping frames of a waveform [batch, N], each a column: [batch, win_length, frames].

    Cut into hops and turned round, so that what is copied are runs of neighbouring frames, not samples.
    """
    steps = -(-win_length // hop)
    blocks = frames + steps - 1
    filled = nn.functional.pad(waveform, (0, blocks * hop - waveform.shape[1]))
    hops = filled.reshape(waveform.shape[0], blocks, hop).transpose(1, 2)
    return torch.cat([hops[:, : win_length - i * hop, i : i + frames] for i in range(steps)], dim=1)


def _fold(filters: Tensor, bins: NDArray[np.int64], n_fft: int) -> NDArray[np.float64]:
    """Filters on the bins as the two stages lay them out, conjugate twins sharing the weight: [filters, K1 * B]."""
    flat = bins.reshape(-1)
    rfft_bin = np.minimum(flat, n_fft - flat)
    copies = np.bincount(rfft_bin, minlength=n_fft // 2 + 1)
    weights: NDArray[np.float64] = (filters.double().numpy()[rfft_bin] / copies[rfft_bin, None]).T
    return weights
