"""Log-mel spectrogram: bands as wide as human hearing has them."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor

from xaimoe_audio.spectrogram.backend import FrameBackend, register


@register("logmel")
class LogMel(FrameBackend):
    """F triangular bands on the mel scale (S. S. Stevens et al., 1937; the formula of HTK) between fmin and fmax."""

    purpose = "speech, and sounds of which nothing special is known"

    def centres(self) -> Tensor:
        low, high = (2595 * torch.log10(1 + torch.tensor(hz / 700)) for hz in (self.config.fmin, self.config.fmax))
        mel = torch.linspace(float(low), float(high), self.config.bins + 2, dtype=torch.float64)[1:-1]
        return 700 * (10 ** (mel / 2595) - 1)

    def filters(self) -> Tensor:
        config = self.config
        lines = config.n_fft // 2 + 1
        mel = torchaudio.functional.melscale_fbanks(
            lines, config.fmin, config.fmax, config.bins, config.sample_rate, norm="slaney", mel_scale="htk"
        )
        filters: Tensor = mel * (config.sample_rate / config.n_fft)
        return filters
