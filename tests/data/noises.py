"""Steady noise of several spectra."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from xaimoe_audio.scenes import ambient_density

Floats = NDArray[np.float64]


def _sea(frequency: Floats) -> Floats:
    return np.sqrt(ambient_density(frequency, shipping=0.5, wind=8.0)) * frequency**2 / (frequency**2 + 400)


COLOURS: dict[str, Callable[[Floats], Floats]] = {
    "white": np.ones_like,
    "pink": lambda frequency: 1 / np.sqrt(np.maximum(frequency, 20)),
    "brown": lambda frequency: 1 / np.maximum(frequency, 100),
    "sea": _sea,
}
"""Amplitude by frequency in Hz."""


def coloured(colour: str, samples: int, rate: int, rng: np.random.Generator) -> Floats:
    """Return noise with a deviation of 0.03.

    Args:
        colour: key of ``COLOURS``.
        samples: how many.
        rate: in Hz.
        rng: draws the noise.
    """
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    found = np.fft.irfft(spectrum * COLOURS[colour](np.fft.rfftfreq(samples, 1 / rate)), samples)
    return 0.03 * found / np.std(found)
