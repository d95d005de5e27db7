"""Log-mel spectrogram: bands as wide as human hearing has them."""

from __future__ import annotations

import torch
from torch import Tensor

from xaimoe_audio.spectrogram.backend import FrameBackend, register


@register("logmel")
class LogMel(FrameBackend):
    """F triangular bands on the mel scale (S. S. Stevens et al., 1937; the formula of HTK) between fmin and fmax.

    A band so narrow that no line of the spectrum falls into it lies between the two lines beside its centre.
    """

    purpose = "speech, clicks, mixed sounds: the usual choice"

    def centres(self) -> Tensor:
        return self._edges()[1:-1]

    def filters(self) -> Tensor:
        lines = torch.arange(self.config.n_fft // 2 + 1, dtype=torch.float64)[:, None]
        edges = self._edges() * self.config.n_fft / self.config.sample_rate  # in lines
        low, centre, high = edges[:-2], edges[1:-1], edges[2:]
        triangles = torch.clamp(torch.minimum((lines - low) / (centre - low), (high - lines) / (high - centre)), min=0)
        beside = torch.clamp(1 - (lines - centre).abs(), min=0)
        weights = torch.where(triangles.sum(0) > 0, triangles, beside)
        return weights / weights.sum(0)

    def _edges(self) -> Tensor:
        low, high = (2595 * torch.log10(1 + torch.tensor(hz / 700)) for hz in (self.config.fmin, self.config.fmax))
        mel = torch.linspace(float(low), float(high), self.config.bins + 2, dtype=torch.float64)
        return 700 * (10 ** (mel / 2595) - 1)
