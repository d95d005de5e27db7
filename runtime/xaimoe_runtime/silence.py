"""Silence: windows without a signal, and channels that are dead or that cancel in the mix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

SILENCE_DBFS = -90.0
"""Level about the mean, in dB re full scale, up to which a frame hop of samples of 16 bits or less is silent: digital
silence, a constant offset, and the last bit of 16. The signal attributes have the same limit: under it a clip has no
quality, so the router selects no expert."""
SILENCE_POWER = 10 ** (SILENCE_DBFS / 10)
FLOOR_DBFS = -130.0
"""Level at which the model's spectrogram begins: up to it a frame hop is silent whatever the samples' resolution."""
FLOOR_POWER = 10 ** (FLOOR_DBFS / 10)
FLOATING = ("", "FLOAT", "DOUBLE")
"""Floating-point encodings, by libsndfile's name; empty for samples in memory."""
FINE_BITS = {"PCM_24": 24, "PCM_32": 32, "ALAC_20": 20, "ALAC_24": 24, "ALAC_32": 32, "DWVW_24": 24}
"""Bits of the other encodings that resolve lower levels than 16 bits. Lossy encodings are not among them: most of what
they hold had 16 bits before."""
MAX_CANCELLED_DB = 20.0
"""How far a mix may be under that of unrelated channels with the same levels before they count as cancelling."""
PERIOD_S = 10.0
"""Seconds of a stream over which the levels of its channels are compared."""
SPREAD_SAMPLES = 8
"""Samples of a frame hop that are looked at first."""
MAX_NAMED = 8
"""Channels that a warning lists."""


def silence_power(encoding: str) -> float:
    """Return the power about the mean up to which samples of an encoding are silent.

    Samples of 24 bits or in floating point resolve far lower levels than those of 16, so a faint recording in them is
    not silent. The power is at least ``FLOOR_POWER`` and at most ``SILENCE_POWER``.

    Args:
        encoding: libsndfile's name; empty for floating point in memory.
    """
    step_power = 0.0 if encoding in FLOATING else 4.0 ** (1 - FINE_BITS.get(encoding, 16))
    is_fine = encoding in FLOATING or encoding in FINE_BITS
    return max(step_power, FLOOR_POWER) if is_fine else SILENCE_POWER


def sounding_share(samples: Floats, hop: int, encoding: str = "") -> float:
    """Return the share of frame hops of a window that are not silent, 0 to 1; 0 is a silent window.

    A hop is silent if the power of its samples about their mean is at most :func:`silence_power`, so a constant offset
    is silence, too.

    Args:
        samples: the window, [S].
        hop: samples from frame to frame.
        encoding: of the source, by libsndfile's name; empty for floating point in memory.
    """
    size, limit = min(hop, len(samples)), silence_power(encoding)
    hops = samples[: len(samples) // size * size].reshape(-1, size)
    # Between spread² / 2n and spread² / 4 lies the power of n samples: most hops are decided by the spread of a few.
    sounding = np.square(_spread(hops.T[:: max(size // SPREAD_SAMPLES, 1)])) > 2 * size * limit
    quiet = np.flatnonzero(~sounding)
    if len(quiet):
        spread = _spread(hops[quiet].T)
        sounding[quiet] = np.square(spread) > 2 * size * limit
        unclear = quiet[~sounding[quiet] & (np.square(spread) > 4 * limit)]
        sounding[unclear] = hops[unclear].var(axis=1, dtype=np.float64) > limit
    return float(sounding.mean())


def _spread(hops: Floats) -> Doubles:
    """Return the largest less the smallest sample of each hop [n, N], [N]."""
    hops = np.ascontiguousarray(hops)
    return np.asarray(hops.max(axis=0).astype(np.float64) - hops.min(axis=0))


def level_warnings(samples: Floats) -> tuple[str, ...]:
    """Return a sentence if a recording in memory [n] is too faint for a full answer, or for any."""
    spread = float(samples.max()) - float(samples.min())
    if spread**2 > 2 * len(samples) * SILENCE_POWER:  # so is the power, see sounding_share
        return ()
    return _level_warning(float(samples.var(dtype=np.float64)), "")


class ChannelLevels:
    """The power of each native channel of a recording and of what was picked, whatever the sizes of the blocks.

    Args:
        channel: ``mix`` or the number of a channel, as chosen.
        encoding: of the samples, by libsndfile's name; empty for floating point in memory.
    """

    def __init__(self, channel: int | str, encoding: str = "") -> None:
        self.channel, self.encoding = channel, encoding
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
        """Return what is wrong with the channels, or else with their level, a sentence each."""
        return self.channel_warnings() or self.level_warnings()

    def level_warnings(self) -> tuple[str, ...]:
        """Return a sentence if even the loudest channel is too faint for a full answer, or for any."""
        return _level_warning(float(self.powers.max()), self.encoding)

    def channel_warnings(self) -> tuple[str, ...]:
        """Return what is wrong with the channels, a sentence each."""
        picked, channels, limit = float(self.powers[0]), self.powers[1:], silence_power(self.encoding)
        sounding = channels > SILENCE_POWER  # an open input of 24 bits has noise of its own
        if not len(channels):
            dead = self._several and picked <= limit
            return (f"channel {self.channel} is silent; choose another with --channel",) if dead else ()
        if not sounding.any():
            return ()
        unrelated = float(channels.mean()) / len(channels)
        under_db = 10 * math.log10(unrelated / picked) if picked > 0 else math.inf
        sentences = []
        if picked <= limit or under_db > MAX_CANCELLED_DB:
            level = "is silent" if picked <= limit else f"is {under_db:.0f} dB weaker than unrelated ones"
            sentences.append(
                f"the channels cancel: the mix of {len(channels)} {level}, as if one were reversed; choose one with "
                "--channel"
            )
        if not sounding.all():
            silent, others = (np.flatnonzero(which).tolist() for which in (~sounding, sounding))
            sentences.append(f"{_listed(silent)} silent, {_listed(others)} not; choose one with --channel")
        return tuple(sentences)


class ChannelMonitor:
    """Reports channels of a stream that are silent or cancel, once each time that it begins, and once that a source of
    fine resolution is faint: one of 16 bits is silent then, as many are between two sounds.

    Args:
        channel: ``mix`` or the number of a channel; channels are compared in a mix of several only.
        rate: native rate, in Hz.
        period_s: seconds over which levels are compared.
        encoding: of the samples, by libsndfile's name; empty for floating point in memory.
    """

    def __init__(self, channel: int | str, rate: float, period_s: float = PERIOD_S, encoding: str = "") -> None:
        self._channel, self._period, self._encoding = channel, max(round(period_s * rate), 1), encoding
        self._is_fine = silence_power(encoding) < SILENCE_POWER
        self._levels = ChannelLevels(channel, encoding)
        self._mixes = False
        self._reported: tuple[str, ...] | None = None  # before the first period is over
        self._level_reported = False

    def add(self, frames: Floats, picked: Floats) -> tuple[str, ...]:
        """Return what has become wrong with native samples: all channels [n, C], and what was picked of them [n, 1]."""
        self._mixes = self._channel == "mix" and frames.shape[1] > 1
        if not self._mixes and (self._level_reported or not self._is_fine):
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
        levels, before = self._levels, self._reported or ()
        self._levels = ChannelLevels(self._channel, self._encoding)
        self._reported = levels.channel_warnings() if self._mixes else ()
        new = tuple(sentence for sentence in self._reported if sentence not in before)
        if self._is_fine and not self._level_reported and (level := levels.level_warnings()):
            self._level_reported = True
            new += level
        return new


def _level_warning(power: float, encoding: str) -> tuple[str, ...]:
    """Return a warning for samples that are not constant, and too faint for a full answer or for any."""
    if not 0 < power <= SILENCE_POWER:
        return ()
    limit, level = silence_power(encoding), f"the level is {10 * math.log10(power):.0f} dBFS"
    if power > limit:
        return (
            f"{level}: under {SILENCE_DBFS:.0f} the router selects no expert, and under {FLOOR_DBFS:.0f} the model "
            "sees silence; raise the gain (full scale is 1)",
        )
    why = f"the model sees nothing under {FLOOR_DBFS:.0f}"
    if limit > FLOOR_POWER:
        why = f"samples of this encoding resolve nothing under {10 * math.log10(limit):.0f}"
    return (f"{level} and counts as silence: {why}; raise the gain (full scale is 1)",)


def _listed(numbers: Sequence[int]) -> str:
    """Return ``channel 1 is`` or ``channels 1, 2 are``; of many, the first and how many more."""
    if len(numbers) == 1:
        return f"channel {numbers[0]} is"
    more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
    return f"channels {', '.join(map(str, numbers[:MAX_NAMED]))}{more} are"
