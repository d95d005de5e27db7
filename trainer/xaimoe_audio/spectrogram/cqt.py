"""Constant-Q transform: bands of equal musical width, each as narrow as their number asks for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.spectrogram.backend import ClipBackend, check_lowest, geometric_centres, register
from xaimoe_audio.spectrogram.framing import constant_q
from xaimoe_audio.spectrogram.multirate import Filter, MultirateFilterbank


@register("cqt")
class CQT(ClipBackend):
    """F bands with centres in constant ratio and Q = 1 / (ratio - 1) periods under a Hann window.

    J. C. Brown, "Calculation of a constant Q spectral transform", 1991.
    """

    purpose = "low sounds and tones over many octaves: whale calls, blade-rate lines, music"

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__(config)
        centres = self.centres().tolist()
        quality = constant_q(config.fmin, config.fmax, config.bins)
        self.bank = MultirateFilterbank(config, [_filter(hz, quality) for hz in centres])

    @classmethod
    def check(cls, config: FrontendConfig) -> None:
        check_lowest(config, constant_q(config.fmin, config.fmax, config.bins) if config.fmin > 0 else 0.0)

    def centres(self) -> Tensor:
        return geometric_centres(self.config)

    def power(self, waveform: Tensor) -> Tensor:
        found: Tensor = self.bank(waveform)
        return found


def _filter(hz: float, quality: float) -> Filter:
    length = quality / hz

    def response(time: NDArray[np.float64]) -> NDArray[np.complex128]:
        window = 0.5 + 0.5 * np.cos(2 * np.pi * time / length)
        carried: NDArray[np.complex128] = window * np.exp(2j * np.pi * hz * time)
        return carried

    return Filter(hz, top_hz=hz + 2 / length, reach_s=length / 2, spacing_s=length / 8, response=response)
