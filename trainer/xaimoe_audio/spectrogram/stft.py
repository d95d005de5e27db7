"""Short-time Fourier transform: bands of equal width."""

from __future__ import annotations

import torch
from torch import Tensor

from xaimoe_audio.spectrogram.backend import FrameBackend, register


@register("stft")
class STFT(FrameBackend):
    """F bands of equal width between fmin and fmax, each the mean over its part of the power spectrum."""

    purpose = "ultrasound, and combs of lines with equal spacing"

    def centres(self) -> Tensor:
        edges = self._edges()
        return (edges[:-1] + edges[1:]) / 2

    def filters(self) -> Tensor:
        line_hz = self.config.sample_rate / self.config.n_fft
        lines = torch.arange(self.config.n_fft // 2 + 1, dtype=torch.float64)[:, None] * line_hz
        edges = self._edges()
        # A line stands for the line_hz around it; a band takes the part that lies within its edges.
        upper, lower = torch.minimum(lines + line_hz / 2, edges[1:]), torch.maximum(lines - line_hz / 2, edges[:-1])
        weights = torch.clamp(upper - lower, min=0)
        return weights / weights.sum(0, keepdim=True)

    def _edges(self) -> Tensor:
        return torch.linspace(self.config.fmin, self.config.fmax, self.config.bins + 1, dtype=torch.float64)
