"""What every source of endless audio has in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.audio import check_rate
from xaimoe_runtime.errors import ConfigError

Floats = NDArray[np.float32]

BLOCK_S = 0.1
"""Seconds that are read at a time."""
POLL_S = 0.25
"""Seconds that a source waits for data before it looks whether it is to stop."""
REPORT_S = 10.0
"""Seconds from one report of lost or foreign data to the next."""


@dataclass(frozen=True)
class Trouble:
    """Something that went wrong, after which the source goes on."""

    message: str
    gap: bool = False
    """Whether samples are missing at this point."""
    lost: int = 0
    """How many, if that is known."""


@dataclass(frozen=True)
class Missing:
    """Frames that were lost at this point; a :class:`Trouble` says so from time to time."""

    frames: int


Item = Floats | Trouble | Missing
"""What a source gives."""


class Source(Protocol):
    """Audio that comes block by block."""

    name: str
    rate: int
    """Hz"""
    channels: int
    encoding: str
    """libsndfile's name of how samples were coded; empty for floating point."""
    live: bool
    """Whether it cannot wait: what is not taken in time is lost."""

    def read(self) -> Iterator[Item]:
        """Blocks [n, channels] as they come, until the source ends or is closed.

        Raises:
            AudioError: the source is broken.
        """
        ...

    def close(self) -> None:
        """Makes :meth:`read` end soon, from another thread."""
        ...


def check_raw(rate: int, channels: int, name: str) -> None:
    """Check the format of raw samples.

    Raises:
        AudioError: a rate that no recorder has.
        ConfigError: less than one channel.
    """
    check_rate(rate, name)
    if channels < 1:
        raise ConfigError(f"{name}: found {channels} channels, expected 1 or more")
