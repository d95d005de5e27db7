"""Fast continuous wavelet transform with the Morlet wavelet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.spectrogram.backend import ClipBackend, check_lowest, geometric_centres, register
from xaimoe_audio.spectrogram.multirate import Filter, MultirateFilterbank

OMEGA0 = 6.0
"""Radians of the carrier in one standard deviation of the envelope."""
REACH = 4.0
"""Standard deviations of the envelope at which a wavelet is cut off."""
SKIRT = 1 + 3.7 / OMEGA0
"""Upper end of a wavelet's band, -60 dB, over its centre frequency."""


@register("fcwt")
class FCWT(ClipBackend):
    """F Morlet wavelets with centres in constant ratio: short at high frequencies, long at low ones.

    The transform of L. P. A. Arts and E. L. van den Broek, "The fast continuous wavelet transformation (fCWT) for
    real-time, high-quality, noise-resistant time-frequency analysis", 2022, computed by filters at several rates
    instead of FFTs of the whole clip.
    """

    purpose = "short events with a clear onset: clicks, snaps, knocks, pings, chirps"

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__(config)
        self.bank = MultirateFilterbank(config, [_filter(hz) for hz in self.centres().tolist()])

    @classmethod
    def check(cls, config: FrontendConfig) -> None:
        check_lowest(config, 2 * REACH * OMEGA0 / (2 * np.pi))

    def centres(self) -> Tensor:
        return geometric_centres(self.config)

    def power(self, waveform: Tensor) -> Tensor:
        found: Tensor = self.bank(waveform)
        return found


def _filter(hz: float) -> Filter:
    deviation = OMEGA0 / (2 * np.pi * hz)  # of the envelope, in s

    def response(time: NDArray[np.float64]) -> NDArray[np.complex128]:
        carried: NDArray[np.complex128] = np.exp(-((time / deviation) ** 2) / 2 + 2j * np.pi * hz * time)
        return carried

    return Filter(hz, top_hz=SKIRT * hz, reach_s=REACH * deviation, spacing_s=deviation, response=response)
