"""Samples against the clock, simulated: losses, wrong rates, crystals, jitter, bursts and pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from xaimoe_runtime.streams.gaps import RATE_REPORT_S, RateError, SourceClock

RATE, BLOCK_S = 16_000, 0.1


@dataclass
class Course:
    """What a clock made of a source."""

    clock: SourceClock
    errors: list[tuple[float, RateError]] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    behind_s: list[float] = field(default_factory=list)
    """Time of arrival minus time by the records, block by block."""


def arrivals(seconds: float, step_s: float = BLOCK_S, drift: float = 0.0) -> Iterator[float]:
    """When blocks come of a recorder whose clock is fast by a share."""
    for i in range(1, int(seconds / step_s * (1 + drift)) + 1):
        yield i * step_s / (1 + drift)


def follow(times: Iterator[float], block_s: float = BLOCK_S, rate: int = RATE) -> Course:
    """Feed a clock blocks that come at these times, from an arbitrary beginning on."""
    course = Course(SourceClock(rate, live=True))
    clock, begin, last = course.clock, 12_345.0, -1.0
    for time in times:
        arrived = begin + time
        if paused := clock.skip_pause(arrived, block_s, was_dead=False):
            course.pauses.append(paused)
        clock.receive(round(block_s * rate), arrived)
        if error := clock.take_rate_error():
            course.errors.append((time, error))
        end = clock.time_of(clock.position_s)
        assert end >= last, "times go back"
        last = end
        course.behind_s.append(time - end)
    return course


def test_times_of_a_perfect_source_are_those_of_its_samples() -> None:
    course = follow(arrivals(300))
    assert np.abs(course.behind_s).max() < 1e-6
    assert course.clock.lost_s == 0 and course.errors == [] and course.pauses == []
    assert course.clock.received_s == pytest.approx(300, abs=0.2)


@pytest.mark.parametrize("ppm", [50, -50, 500, -500, 3_000, -3_000])
def test_the_error_of_a_crystal_is_followed_and_is_no_error(ppm: int) -> None:
    course = follow(arrivals(3 * 3_600, 1.0, ppm * 1e-6), 1.0)
    assert np.abs(course.behind_s).max() < 0.15
    assert course.errors == [] and course.clock.lost_s == 0


@pytest.mark.parametrize("ratio", [0.8, 0.9, 0.99, 1.01, 1.5, 3.0])
def test_a_rate_that_is_not_as_stated_is_an_error_after_half_a_minute(ratio: float) -> None:
    course = follow(arrivals(31, drift=ratio - 1))
    ((time, error),) = course.errors
    assert 28 < time < 31
    assert error.ratio == pytest.approx(ratio, abs=0.002)
    # What follows: times go with the clock, to a tenth of a second or a block's share of the error.
    long = follow(arrivals(600, drift=ratio - 1))
    settled = np.array(long.behind_s[len(long.behind_s) // 2 :])
    assert np.ptp(settled) < 0.25
    assert abs(settled.mean()) < 0.15 * max(ratio, 1.0) ** 2
    assert [time for time, _ in long.errors][1] - time >= RATE_REPORT_S - 1


@pytest.mark.parametrize("ratio", [0.99, 0.8, 0.5])
def test_what_a_source_gives_too_little_is_lost(ratio: float) -> None:
    course = follow(arrivals(600, drift=ratio - 1))
    assert course.clock.lost_s == pytest.approx(600 * (1 - ratio), rel=0.02, abs=0.3)
    assert course.clock.lost_s + course.clock.received_s == pytest.approx(600, abs=0.6)


@pytest.mark.parametrize("loss", [0.05, 0.2])
def test_a_loss_at_random_is_counted_and_times_follow_the_clock_for_an_hour(loss: float) -> None:
    draw = np.random.default_rng(0)
    course = follow(time for time in arrivals(3_600) if draw.random() >= loss)
    lost = 3_600 - course.clock.received_s
    assert course.clock.lost_s == pytest.approx(lost, abs=1.5)
    assert abs(course.behind_s[-1]) < 0.6 and np.mean(course.behind_s) < 0.5
    assert 28 < course.errors[0][0] < 31


def test_the_message_names_the_rate_that_fits() -> None:
    text = str(RateError(48_000, 18.375, 20.0))
    assert "found 18.38 s of samples in 20.00 s, 0.919 times what 48000 Hz give" in text
    assert "the rate is about 44100 Hz" in text
    assert "about 48000 Hz" in str(RateError(16_000, 60.0, 20.0))
    assert "about 15840 Hz" in str(RateError(16_000, 19.8, 20.0))


@pytest.mark.parametrize(("block_s", "jitter_s"), [(0.02, 0.005), (0.1, 0.3), (1.0, 0.3)])
def test_jitter_is_no_error(block_s: float, jitter_s: float) -> None:
    draw = np.random.default_rng(1)

    def late() -> Iterator[float]:
        clock = 0.0
        for time in arrivals(1_800, block_s):
            clock = max(clock, time + abs(draw.normal(0, jitter_s)))
            yield clock

    course = follow(late(), block_s)
    assert course.errors == [] and course.pauses == []
    assert course.clock.lost_s < 0.3
    assert min(course.behind_s) > -0.2


@pytest.mark.parametrize("burst_s", [0.5, 2.0, 4.0])
def test_bursts_are_no_error(burst_s: float) -> None:
    """A program writes some seconds at once, and nothing for as long."""
    course = follow(np.ceil(time / burst_s - 1e-9) * burst_s for time in arrivals(900))
    assert course.errors == [] and course.pauses == [] and course.clock.lost_s == 0


def test_what_waited_for_the_start_is_not_late() -> None:
    """Three seconds were in the pipe as the stream began."""
    course = follow(max(time - 3.0, 0.01) for time in arrivals(120))
    assert course.clock.time_of(course.clock.position_s) == pytest.approx(120, abs=0.2)
    assert course.errors == [] and course.clock.lost_s == 0


def paused(seconds: float, at: list[float]) -> Callable[[float], float]:
    return lambda time: time + seconds * sum(time > begin for begin in at)


def test_a_pause_of_a_minute_is_a_gap_of_a_minute() -> None:
    course = follow(map(paused(60.0, [100.0, 400.0]), arrivals(600)))
    assert course.pauses == [pytest.approx(60), pytest.approx(60)]
    assert course.clock.lost_s == pytest.approx(120)
    assert np.abs(course.behind_s).max() < 0.01 and course.errors == []


def test_pauses_too_short_for_a_gap_add_up_no_less() -> None:
    """Each of 1.5 s is a loss that is noticed by the clock, and reported by the rate."""
    times = [i * 400.0 for i in range(1, 7)]
    course = follow(map(paused(1.5, times), arrivals(2_800)))
    assert course.pauses == []
    assert course.clock.lost_s == pytest.approx(9, abs=0.2)
    assert abs(course.behind_s[-1]) < 0.15
    assert len(course.errors) == 6


def test_a_recorder_that_is_slow_and_pauses_is_not_counted_twice() -> None:
    course = follow(map(paused(10.0, [300.0]), arrivals(600, drift=-300e-6)))
    assert course.clock.lost_s == pytest.approx(10, abs=0.3)
    assert course.errors == [] and abs(course.behind_s[-1]) < 0.2


def test_a_connection_that_is_jammed_and_catches_up_has_lost_nothing() -> None:
    course = follow(max(time, 65.0) if time > 60 else time for time in arrivals(300))
    assert len(course.pauses) == 1
    assert course.clock.lost_s < 0.2
    assert abs(course.behind_s[-1]) < 0.2


def test_samples_that_are_known_to_be_missing_are_no_error_of_the_rate() -> None:
    clock, begin = SourceClock(RATE, live=True), 50.0
    for i, time in enumerate(arrivals(300)):
        if i % 5 == 4:
            clock.skip(BLOCK_S)
            continue
        assert clock.skip_pause(begin + time, BLOCK_S, was_dead=False) == 0
        clock.receive(round(RATE * BLOCK_S), begin + time)
        assert clock.take_rate_error() is None
    assert clock.lost_s == pytest.approx(60, abs=0.2)
    assert clock.received_s == pytest.approx(240, abs=0.2)
    assert clock.time_of(clock.position_s) == pytest.approx(300, abs=0.2)
    assert clock.lost_between(100.0, 101.0) == pytest.approx(0.2)


def test_times_between_corrections_are_interpolated() -> None:
    clock = follow(arrivals(120, drift=-0.2)).clock
    positions = np.linspace(0, clock.position_s, 5_000)
    times = np.array([clock.time_of(position) for position in positions])
    assert (np.diff(times) > 0).all()
    assert clock.time_of(0.0) == 0.0
    half = clock.position_s / 2
    assert clock.time_of(half) == pytest.approx(half / 0.8, abs=0.3)


def test_a_source_that_can_wait_has_the_times_of_its_samples() -> None:
    clock = SourceClock(RATE, live=False)
    for i in range(100):
        clock.receive(RATE, 7.0 * i)
    assert clock.time_of(55.5) == 55.5 and clock.lost_s == 0 and clock.take_rate_error() is None


def test_what_is_remembered_is_bounded() -> None:
    clock = follow(arrivals(4_000, drift=-0.3)).clock
    for _ in range(20_000):
        clock.receive(RATE // 10, 1e6 + clock.position_s)
        clock.skip(0.1)
    assert len(clock._knots) < 3_000 and len(clock._gaps) < 10_000 and len(clock._history) < 100
