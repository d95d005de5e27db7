"""When the samples of a source were recorded, and how many of them are missing.

The samples of a live source come at their rate, so their count and the clock agree. Where they do not, samples were
lost, the source paused, or its rate is not the stated one. How long a sample was on its way varies, and only upwards:
what counts is the shortest delay of the last seconds (as in the delay filters of NTP and of jitter buffers).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

MAX_PAUSE_S = 2.0
"""Seconds that samples may be late; after a longer pause some are missing."""
MAX_AHEAD_S = 5.0
"""Seconds that a source may be ahead, and pause for afterwards: it may write in bursts."""
MAX_TIME_ERROR_S = 0.1
"""Seconds that times may differ from the clock before they are corrected."""
MAX_RATE_ERROR = 0.005
"""Share by which the rate of a source may differ from the stated one: crystals differ by up to 0.0002, sound cards that
are resampled by their driver by some more."""
RATE_S = 30.0
"""Seconds over which the rate is measured."""
DELAY_S = 10.0
"""Seconds over which the shortest delay is taken."""
BIN_S = 0.5
"""Seconds of which only the shortest delay is kept."""
START_S = 0.5
"""Seconds in which what waited for the start of the stream comes in, whose delay says nothing."""
MIN_TREND_S = 6.0
"""Seconds of history from which a trend of the delay is computed."""
RATE_REPORT_S = 300.0
"""Seconds from one report of a wrong rate to the next."""
MAX_SLEW = 0.9
"""Share by which times may advance more slowly than samples do; they never go back."""
KEEP_S = 900.0
"""Seconds for which corrections and gaps are remembered; windows are answered sooner."""
STANDARD_RATES = [int(1e3 * khz) for khz in (8, 11.025, 12, 16, 22.05, 24, 32, 44.1, 48, 64, 88.2, 96, 128, 176.4, 192)]
STANDARD_RATES += [250_000, 256_000, 352_800, 384_000, 500_000]
"""Hz"""


@dataclass(frozen=True)
class RateError:
    """A source whose samples are more or fewer than its rate says."""

    stated: int
    """Hz"""
    samples_s: float
    """Seconds of samples that came, by the stated rate."""
    elapsed_s: float
    """Seconds in which they came."""

    @property
    def ratio(self) -> float:
        """Samples that came for each that the rate says."""
        return self.samples_s / self.elapsed_s

    def __str__(self) -> str:
        rate = self.stated * self.ratio
        near = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
        is_near = near != self.stated and abs(near - rate) <= 2 * MAX_RATE_ERROR * rate
        cause = "samples are lost on the way" if self.ratio < 1 else "samples come twice, or of two senders"
        return (
            f"found {self.samples_s:.2f} s of samples in {self.elapsed_s:.2f} s, {self.ratio:.3g} times what "
            f"{self.stated} Hz give; {cause}, or the rate is about {near if is_near else round(rate)} Hz; "
            "times follow the clock"
        )


class SourceClock:
    """Map positions in a source to seconds since its first sample, and count what is missing.

    A position is in seconds, by the stated rate, of all samples so far, and of all that are known to be missing. For a
    source that can wait, it is the time as well. For a live one, times follow the clock.

    Args:
        rate: Hz, as stated.
        live: whether samples come as they are recorded.
    """

    def __init__(self, rate: int, live: bool) -> None:
        self.rate, self.live = rate, live
        self.position_s = 0.0
        """Of the end of what came."""
        self.received_s = 0.0
        """Seconds of samples that came."""
        self._known_lost_s = 0.0
        self._estimated_lost_s = 0.0  # by the clock
        self._gaps: list[tuple[float, float]] = []  # positions from and to which samples are missing
        self._until: float | None = None  # when what came last was recorded, as far as the rule of pauses knows
        self._started: float | None = None
        self._reference = 0.0  # the delay that belongs to a correction of 0
        self._correction_s, self._target_s = 0.0, 0.0  # time minus position: as it is, and as it shall become
        self._knots: list[tuple[float, float]] = []  # (position, correction), linear in between
        self._history: deque[tuple[float, float]] = deque()  # (arrival, delay): the shortest delay of each bin
        self._bin: tuple[float, float] | None = None
        self._bin_end = 0.0
        self._corrected = 0.0  # when times were corrected last
        self._settled = 0.0  # when the length of the last gap is known for sure
        self._reported = -float("inf")
        self._rate_error: RateError | None = None

    @property
    def lost_s(self) -> float:
        """Seconds of samples that never came: lost on the way, for want of room, or during pauses."""
        return max(self._known_lost_s + self._estimated_lost_s, 0.0)

    def receive(self, samples: int, arrived: float) -> None:
        """Take samples in.

        Args:
            samples: how many came.
            arrived: when, in seconds of a steady clock.
        """
        begin = self.position_s
        self.position_s += samples / self.rate
        self.received_s += samples / self.rate
        if not self.live:
            return
        delay = arrived - self.position_s
        if self._started is None:
            self._started = self._corrected = arrived
            self._reference = delay
        if arrived - self._started <= START_S:
            self._reference = min(self._reference, delay)
        elif delay - self._reference < self._target_s - MAX_TIME_ERROR_S:
            # These samples came sooner than they were thought to be recorded.
            self._correct(delay - self._reference, arrived)
        self._slew(begin)
        if self._bin is not None and arrived >= self._bin_end:
            self._history.append(self._bin)
            self._bin = None
            self._evaluate(arrived)
        if self._bin is None:
            self._bin_end = arrived + BIN_S
        if self._bin is None or delay < self._bin[1]:
            self._bin = arrived, delay

    def skip(self, seconds: float) -> None:
        """Count samples that are known to be missing at this position."""
        if seconds <= 0:
            return
        self._gaps.append((self.position_s, self.position_s + seconds))
        self.position_s += seconds
        self._known_lost_s += seconds
        self._until = None if self._until is None else self._until + seconds
        self._prune()

    def skip_pause(self, arrived: float, seconds: float, was_dead: bool) -> float:
        """Return the seconds that are missing before samples, after a pause; 0 if nothing is.

        It is the sum of what came that counts: a block may come early, in a burst, or late, when the machine had other
        work. By ``MAX_AHEAD_S`` at most a source stays ahead; half of ``MAX_PAUSE_S`` is forgiven one that is late.

        Args:
            arrived: when the samples came.
            seconds: how many they are.
            was_dead: whether nothing came for so long that any delay is a pause.
        """
        begun = arrived - seconds
        until = begun if self._until is None else self._until
        paused = max(begun - until, 0.0)
        if paused > MAX_PAUSE_S or (was_dead and paused > 0):
            self.skip(paused)
            until += paused
            self.lose_track(arrived)
        else:
            paused = 0.0
        self._until = min(max(until + seconds, arrived - MAX_PAUSE_S / 2), arrived + MAX_AHEAD_S)
        return paused

    def lose_track(self, now: float) -> None:
        """Begin to measure anew: samples are missing here, and it is not known exactly how many."""
        self._history.clear()
        self._bin = None
        self._settled = now + DELAY_S

    def take_rate_error(self) -> RateError | None:
        """Return the error of a rate that is not as stated, once in a while."""
        error, self._rate_error = self._rate_error, None
        return error

    def time_of(self, position_s: float) -> float:
        """Return the seconds from the first sample to the one at a position."""
        index = bisect_right(self._knots, position_s, key=lambda knot: knot[0])
        if index == 0:
            return position_s + (self._knots[0][1] if self._knots else self._correction_s)
        begin, correction = self._knots[index - 1]
        if index < len(self._knots):
            end, later = self._knots[index]
            correction += (later - correction) * (position_s - begin) / (end - begin)
        return position_s + correction

    def lost_between(self, begin_s: float, end_s: float) -> float:
        """Return the seconds that are known to be missing between two positions."""
        return sum(max(min(end, end_s) - max(begin, begin_s), 0.0) for begin, end in self._gaps)

    def _evaluate(self, now: float) -> None:
        """Compare samples with the clock."""
        while len(self._history) > 1 and now - self._history[0][0] > RATE_S:
            self._history.popleft()
        # While samples are being lost the delay grows; an earlier one is carried forward to now.
        growth = max(self._trend(now), 0.0)
        recent = [entry for entry in self._history if now - entry[0] <= DELAY_S] or [self._history[-1]]
        shortest = min(delay + growth * (now - at) for at, delay in recent)
        if shortest - self._reference > self._target_s + MAX_TIME_ERROR_S:
            self._correct(shortest - self._reference, now)

    def _trend(self, now: float) -> float:
        """Return the seconds by which the delay grows in one, from the first to the last third of the history."""
        first = self._history[0][0]
        third = (now - first) / 3
        old = sorted((delay, at) for at, delay in self._history if at <= first + third)
        new = sorted((delay, at) for at, delay in self._history if at >= now - third)
        if 3 * third < MIN_TREND_S or not new:
            return 0.0
        elapsed, change = new[0][1] - old[0][1], new[0][0] - old[0][0]
        trend = change / elapsed
        is_whole = now - first >= RATE_S - 2 * BIN_S and now - self._reported >= RATE_REPORT_S
        if is_whole and abs(change) > MAX_RATE_ERROR * elapsed:
            # Where delays vary much, so do the shortest of them.
            steady = [sorted(delay - trend * at for delay, at in third) for third in (old, new)]
            spread = max(delays[len(delays) // 2] - delays[0] for delays in steady)
            if abs(change) > MAX_RATE_ERROR * elapsed + 2 * spread:
                self._reported = now
                self._rate_error = RateError(self.rate, elapsed - change, elapsed)
        return trend

    def _correct(self, target_s: float, now: float) -> None:
        """Let times move by what the clock says, and count it as lost if it is more than a crystal's error."""
        change = target_s - self._target_s
        if now < self._settled:  # the last gap was longer or shorter than it seemed
            self._estimated_lost_s += change
        elif abs(change) > MAX_RATE_ERROR * min(now - self._corrected, RATE_S):
            self._estimated_lost_s = max(self._estimated_lost_s + change, min(self._estimated_lost_s, 0.0))
        self._target_s, self._corrected = target_s, now
        if change > 0 and self._until is not None:
            self._until = max(self._until, self.position_s + self._reference + target_s)

    def _slew(self, begin_s: float) -> None:
        """Move times towards the clock, within the samples from a position to the end."""
        if self._correction_s == self._target_s:
            return
        least = self._correction_s - MAX_SLEW * (self.position_s - begin_s)
        if not self._knots or self._knots[-1][0] < begin_s:
            self._knots.append((begin_s, self._correction_s))
        self._correction_s = max(self._target_s, least)
        self._knots.append((self.position_s, self._correction_s))
        self._prune()

    def _prune(self) -> None:
        """Forget what no window will ask for."""
        oldest = self.position_s - KEEP_S
        if len(self._gaps) > 1000 and self._gaps[500][1] < oldest:
            del self._gaps[:500]
        if len(self._knots) > 1000 and self._knots[500][0] < oldest:
            del self._knots[:500]
