"""What a spectrogram backend is, and the table of those there are.

A backend says how the power of a clip is spread over F bands and T frames, and how that power becomes a level that a
network likes to look at. One scale serves all of them: white noise of mean power p reads p in every band.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from xaimoe_audio.config import FrontendConfig
from xaimoe_runtime.errors import ConfigError

POWER_FLOOR = 1e-13
"""Power below this (-130 dB re full scale) counts as silence."""

BACKENDS: dict[str, type[Backend]] = {}
"""Backends by name, as ``--spectrogram`` takes them."""


class Backend(nn.Module, ABC):
    """Base of all backends: subclass :class:`FrameBackend` or :class:`ClipBackend`, and :func:`register` it."""

    streamable: ClassVar[bool]
    """Whether frames can be computed one by one and shared by overlapping windows."""
    purpose: ClassVar[str]
    """The sounds it suits, for people."""

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.check(config)
        self.config = config

    @classmethod
    def check(cls, config: FrontendConfig) -> None:
        """Raises ConfigError for what the backend cannot do; asked before a model is built or trained."""

    @abstractmethod
    def centres(self) -> Tensor:
        """Centre frequency of each band in Hz, [F], rising."""

    def level(self, power: Tensor) -> Tensor:
        """Power [B, F, T] to what is normalised and shown to the network, [B, F, T]: here dB over the clip's mean
        power, so that the gain of a recorder drops out."""
        return decibels(power) - decibels(power.mean((1, 2)))[:, None, None]


class FrameBackend(Backend):
    """A backend whose bands are weighted sums over a frame's power spectrum."""

    streamable = True

    @abstractmethod
    def filters(self) -> Tensor:
        """Weight of each DFT bin in each band, [n_fft // 2 + 1, F]; the weights of a band sum to 1."""


class ClipBackend(Backend):
    """A backend whose filters reach beyond a frame, so that it must see the whole clip."""

    streamable = False

    @abstractmethod
    def power(self, waveform: Tensor) -> Tensor:
        """Waveform [B, S] to power [B, F, T]; frame t is centred on sample t * hop + win_length / 2."""


def register(name: str) -> Callable[[type[Backend]], type[Backend]]:
    """Class decorator that makes a backend known by ``name``.

    Raises:
        ConfigError: the name is taken.
    """

    def add(backend: type[Backend]) -> type[Backend]:
        if name in BACKENDS:
            raise ConfigError(f"spectrogram backend {name!r} is registered already, by {BACKENDS[name].__name__}")
        BACKENDS[name] = backend
        return backend

    return add


def backend_class(name: str) -> type[Backend]:
    """The backend of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in BACKENDS:
        raise ConfigError(f"spectrogram: found {name!r}, expected {', '.join(BACKENDS)}")
    return BACKENDS[name]


def decibels(power: Tensor) -> Tensor:
    """Power to dB re full scale, from ``POWER_FLOOR`` up."""
    return 10 * torch.log10(torch.clamp(power, min=POWER_FLOOR))


def geometric_centres(config: FrontendConfig) -> Tensor:
    """Frequencies in Hz with a constant ratio that divide fmin…fmax evenly, [F]."""
    steps = (torch.arange(config.bins, dtype=torch.float64) + 0.5) / config.bins
    return config.fmin * (config.fmax / config.fmin) ** steps


def check_lowest(config: FrontendConfig, periods: float) -> None:
    """Raises ConfigError unless the lowest filter, of so many periods of ``fmin``, fits into the clip."""
    if config.fmin <= 0:
        raise ConfigError(
            f"fmin: found {config.fmin:g} Hz, expected more than 0 Hz for spectrogram {config.spectrogram}"
        )
    if periods / config.fmin > config.clip_s:
        raise ConfigError(
            f"fmin: found {config.fmin:g} Hz, at which a filter of spectrogram {config.spectrogram} lasts "
            f"{periods / config.fmin:.2g} s, expected no longer than the clip of {config.clip_s:.2g} s; "
            f"raise fmin to {periods / config.clip_s:.3g} Hz, or clip_s"
        )
