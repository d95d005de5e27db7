"""Silence: windows without a signal, and channels that are dead or that cancel in the mix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SILENCE_DBFS = -90.0
"""Level about the mean, in dB re full scale, up to which a frame hop is silent: digital silence, a constant offset, and
the last bit of 16. The signal attributes have the same limit: under it a clip has no quality."""
SILENCE_POWER = 10 ** (SILENCE_DBFS / 10)
MAX_CANCELLED_DB = 20.0
"""How far a mix may be under that of unrelated channels with the same levels before they count as cancelling."""
PERIOD_S = 10.0
"""Seconds of a stream over which the levels of its channels are compared."""
MAX_NAMED = 8
"""Channels that a warning lists."""


def sounding_share(samples: Floats, hop: int) -> float:
    """Return the share of frame hops of a window that are not silent, 0 to 1; 0 is a silent window.

    A hop is silent if the power of its samples about their mean is at most ``SILENCE_POWER``, so a constant offset is
    silence, too.

    Args:
        samples: the window, [S].
        hop: samples from frame to frame.
    """
    size = min(hop, len(samples))
    hops = samples[: len(samples) // size * size].reshape(-1, size)
    spread = hops.max(axis=1).astype(np.float64) - hops.min(axis=1)
    # Between spread² / 2n and spread² / 4 lies the power of n samples: most hops are decided without their mean.
    sounding = np.square(spread) > 2 * size * SILENCE_POWER
    unclear = ~sounding & (np.square(spread) > 4 * SILENCE_POWER)
    if unclear.any():
        sounding[unclear] = hops[unclear].var(axis=1, dtype=np.float64) > SILENCE_POWER
    return float(sounding.mean())


class ChannelLevels:
    """The power of each native channel of a recording and of what was picked, whatever the sizes of the blocks.

    Args:
        channel: ``mix`` or the number of a channel, as chosen.
    """

    def __init__(self, channel: int | str) -> None:
        self.channel = channel
        self.frames = 0
        """Native frames so far."""
        self._start: Doubles | None = None  # first sample of each column: sums about it stay exact under an offset
        self._sum = self._squares = np.zeros(0)
        self._several = False

    def add(self, frames: Floats, picked: Floats) -> None:
        """Add native samples: all channels [n, C], and what was picked of them [n, 1]."""
        if not len(frames):
            return
        self._several = frames.shape[1] > 1
        mixes = self.channel == "mix" and self._several
        columns = [picked[:, 0], *(frames.T if mixes else ())]
        if self._start is None:
            self._start = np.array([column[0] for column in columns], np.float64)
            self._sum, self._squares = np.zeros(len(columns)), np.zeros(len(columns))
        for i, column in enumerate(columns):  # one at a time: a block of many channels is large in float64
            centred = column.astype(np.float64) - self._start[i]
            self._sum[i] += centred.sum()
            self._squares[i] += centred @ centred
        self.frames += len(frames)

    @property
    def powers(self) -> Doubles:
        """Power about the mean: of what was picked, then of each channel of a mix of several."""
        if not self.frames:
            return np.zeros(1)
        return np.maximum(self._squares - np.square(self._sum) / self.frames, 0) / self.frames

    def warnings(self) -> tuple[str, ...]:
        """Return what is wrong with the channels, a sentence each."""
        picked, channels = float(self.powers[0]), self.powers[1:]
        sounding = channels > SILENCE_POWER
        if not len(channels):
            dead = self._several and picked <= SILENCE_POWER
            return (f"channel {self.channel} is silent; choose another with --channel",) if dead else _faint(picked)
        if not sounding.any():
            return _faint(float(channels.max()))
        unrelated = float(channels.mean()) / len(channels)
        under_db = 10 * math.log10(unrelated / picked) if picked > 0 else math.inf
        sentences = []
        if picked <= SILENCE_POWER or under_db > MAX_CANCELLED_DB:
            level = "is silent" if picked <= SILENCE_POWER else f"is {under_db:.0f} dB weaker than unrelated ones"
            sentences.append(
                f"the channels cancel: the mix of {len(channels)} {level}, as if one were reversed; choose one with "
                "--channel"
            )
        if not sounding.all():
            silent, others = (np.flatnonzero(which).tolist() for which in (~sounding, sounding))
            sentences.append(f"{_listed(silent)} silent, {_listed(others)} not; choose one with --channel")
        return tuple(sentences)


class ChannelMonitor:
    """Reports channels of a stream that are silent or cancel, once each time that it begins.

    Args:
        channel: ``mix`` or the number of a channel; only a mix of several channels is monitored.
        rate: native rate, in Hz.
        period_s: seconds over which levels are compared.
    """

    def __init__(self, channel: int | str, rate: float, period_s: float = PERIOD_S) -> None:
        self._channel, self._period = channel, max(round(period_s * rate), 1)
        self._levels = ChannelLevels(channel)
        self._reported: tuple[str, ...] | None = None  # before the first period is over

    def add(self, frames: Floats, picked: Floats) -> tuple[str, ...]:
        """Return what has become wrong with native samples: all channels [n, C], and their mix [n, 1]."""
        if self._channel != "mix" or frames.shape[1] == 1:
            return ()
        new: tuple[str, ...] = ()
        for start in range(0, len(frames), self._period):
            self._levels.add(frames[start : start + self._period], picked[start : start + self._period])
            new += self._report() if self._levels.frames >= self._period else ()
        return new

    def finish(self) -> tuple[str, ...]:
        """Return the same of a stream that ends before its first period is over."""
        return self._report() if self._reported is None and self._levels.frames else ()

    def _report(self) -> tuple[str, ...]:
        before, self._reported = self._reported or (), self._levels.warnings()
        self._levels = ChannelLevels(self._channel)
        return tuple(sentence for sentence in self._reported if sentence not in before)


def _faint(power: float) -> tuple[str, ...]:
    """Return a warning for samples that are neither constant nor loud enough to sound."""
    if not 0 < power <= SILENCE_POWER:
        return ()
    return (
        f"the level is {10 * math.log10(power):.0f} dBFS and counts as silence, which begins at {SILENCE_DBFS:.0f}; "
        "if this is a recording, raise its gain (full scale is 1)",
    )


def _listed(numbers: Sequence[int]) -> str:
    """Return ``channel 1 is`` or ``channels 1, 2 are``; of many, the first and how many more."""
    if len(numbers) == 1:
        return f"channel {numbers[0]} is"
    more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
    return f"channels {', '.join(map(str, numbers[:MAX_NAMED]))}{more} are"
