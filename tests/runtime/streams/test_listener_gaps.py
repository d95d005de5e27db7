"""Listening where something is missing: pauses of a source, and graphs that fail."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from data import bursts
from data.listening import Made, blocks, four_clips, heard, sorted_out
from numpy.typing import NDArray

from xaimoe_runtime import BundleError, Listener, Listening, Runtime, budget
from xaimoe_runtime.records import ErrorRecord, EventRecord, Record, SummaryRecord, WindowRecord
from xaimoe_runtime.streams import gaps, listener, stream
from xaimoe_runtime.streams.reader import Block
from xaimoe_runtime.streams.sources import Missing, Trouble

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def audio(runtime: Runtime, scenes: Path) -> Floats:
    return four_clips(runtime, scenes)


def test_a_pause_of_a_live_source_is_a_gap(hand_runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gaps, "MAX_PAUSE_S", 0.4)
    rate, size = hand_runtime.audio.sample_rate, hand_runtime.audio.clip_samples
    part = bursts(2 * size, level=0.3)[:, None]
    source = Made([part[:size], part[size:], len(part) / rate + 1.0, *blocks(part, size)], rate, live=True)
    windows, _, errors, summary = heard(Listener(hand_runtime, source, Listening(hop_s=0.1, backlog=100)))
    (error,) = errors
    assert error.error == "SourceTrouble" and "nothing came for 1." in error.message
    ends = len(part) / rate
    assert all(w.end_s <= ends + 1e-3 or w.start_s >= ends + 0.9 for w in windows)
    begun = min(w.start_s for w in windows if w.start_s > ends)
    assert begun == pytest.approx(ends + 1.0, abs=0.4)  # times go on after the pause
    assert summary.lost_s == pytest.approx(1.0, abs=0.4)
    assert summary.audio_s == pytest.approx(2 * ends, abs=1e-3)


# On a simulated clock ------------------------------------------------------------------------------------------------


class Simulated:
    """A live source's listener on a clock that only the test moves on."""

    def __init__(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, **options: object) -> None:
        self.now = 500.0
        for module in (listener, stream, budget):
            monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        self.rate = runtime.audio.sample_rate
        self.listener = Listener(runtime, Made([], self.rate, live=True), Listening(**options))  # type: ignore[arg-type]
        self.records: list[Record] = []
        self.draw = np.random.default_rng(0)

    def give(self, item: Floats | Trouble | Missing, after_s: float) -> None:
        """Let time pass, and then something come."""
        self.now += after_s
        taken = Block(item, self.now) if isinstance(item, np.ndarray) else item
        self.records += self.listener._take(taken)
        while self.listener._waiting:
            self.records += self.listener._answer_next()
        self.records += self.listener._look()

    def bursts(self, seconds: float) -> Floats:
        return self.draw.normal(0, 0.1, (round(seconds * self.rate), 1)).astype(np.float32)

    def end(self) -> tuple[list[WindowRecord], list[EventRecord], list[ErrorRecord], SummaryRecord]:
        self.records += self.listener._end()
        return sorted_out([*self.records, self.listener.summary()])


@pytest.fixture
def simulated(hand_runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Simulated:
    return Simulated(hand_runtime, monkeypatch, hop_s=0.384)


@pytest.mark.parametrize("ratio", [0.8, 0.99, 3.0])
def test_a_wrong_rate_is_reported_and_windows_follow_the_clock(simulated: Simulated, ratio: float) -> None:
    for _ in range(round(60 * ratio / 0.1)):
        simulated.give(simulated.bursts(0.1), 0.1 / ratio)
    windows, _, errors, summary = simulated.end()
    (error,) = errors
    assert error.error == "SourceRate" and f"{ratio:.3g} times what 1000 Hz give" in error.message
    assert windows[-1].end_s == pytest.approx(60, abs=1.5)
    assert all(w.start_s < w.end_s for w in windows)
    assert [w.start_s for w in windows] == sorted(w.start_s for w in windows)
    assert summary.audio_s == pytest.approx(60 * ratio, abs=0.1)
    assert summary.lost_s == pytest.approx(max(60 * (1 - ratio), 0), abs=0.5)


def test_the_clock_of_a_crystal_is_followed_without_a_word(simulated: Simulated) -> None:
    for _ in range(1_200):
        simulated.give(simulated.bursts(0.5), 0.5 * (1 + 300e-6))
    windows, _, errors, summary = simulated.end()
    assert errors == [] and summary.lost_s == 0
    assert windows[-1].end_s == pytest.approx(simulated.now - 500, abs=1.2)


def test_short_losses_are_filled_and_windows_say_how_much(simulated: Simulated) -> None:
    for i in range(200):
        if i % 10 == 9:
            simulated.give(Missing(20), 0.02)
        else:
            simulated.give(simulated.bursts(0.02), 0.02)
    windows, _, errors, summary = simulated.end()
    assert errors == []
    assert [w.start_s for w in windows[:-1]] == pytest.approx([0.384 * i for i in range(len(windows) - 1)], abs=1e-6)
    size = windows[0].end_s - windows[0].start_s
    assert size == pytest.approx(0.384, abs=1e-6)
    assert all(isinstance(w.lost_s, float) and 0.02 <= w.lost_s <= 0.04 for w in windows)
    assert sum(w.lost_s for w in windows[:-1]) == pytest.approx(0.38, abs=0.021)  # type: ignore[misc]
    assert summary.lost_s == pytest.approx(0.4, abs=1e-6)
    assert summary.audio_s == pytest.approx(3.6, abs=1e-6)


def test_long_losses_are_gaps_that_no_window_spans(simulated: Simulated) -> None:
    for _ in range(20):
        simulated.give(simulated.bursts(0.1), 0.1)
    simulated.give(Missing(1_500), 1.5)
    for _ in range(20):
        simulated.give(simulated.bursts(0.1), 0.1)
    windows, _, errors, summary = simulated.end()
    assert all(w.end_s <= 2 + 1e-6 or w.start_s >= 3.5 - 1e-6 for w in windows)
    assert min(w.start_s for w in windows if w.start_s > 2) == pytest.approx(3.5)
    assert all(w.lost_s == 0 for w in windows)
    assert (errors, summary.lost_s) == ([], pytest.approx(1.5))


def test_losses_before_the_first_sample_are_no_window(simulated: Simulated) -> None:
    simulated.give(Missing(20), 0.1)
    simulated.give(simulated.bursts(0.5), 0.5)
    windows, *_ = simulated.end()
    assert windows[0].start_s == pytest.approx(0.02) and windows[0].lost_s == 0


def test_a_flood_of_nan_is_one_record_a_second(simulated: Simulated) -> None:
    for _ in range(250):
        block = simulated.bursts(0.02)
        block[:7] = np.nan
        simulated.give(block, 0.02)
    _, _, errors, summary = simulated.end()
    assert 5 <= len(errors) <= 6
    counts = [int(error.message.split("found ")[1].split()[0]) for error in errors]
    assert sum(counts) == 7 * 250 and counts[0] == 7
    assert summary.errors == len(errors)


def test_a_flood_of_scores_that_are_not_finite_is_one_record_a_second(
    hand_runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = hand_runtime.dispatcher.head
    monkeypatch.setattr(
        hand_runtime.dispatcher, "head", lambda **inputs: {n: v * np.nan for n, v in head(**inputs).items()}
    )
    simulated = Simulated(hand_runtime, monkeypatch, hop_s=0.032)
    for _ in range(100):
        simulated.give(simulated.bursts(0.032), 0.032)
    windows, _, errors, _ = simulated.end()
    assert windows == []
    assert 3 <= len(errors) <= 5
    counts = [int(error.message.rsplit("(", 2)[1].split()[0]) for error in errors]
    assert sum(counts) >= 85


def test_a_source_that_was_dead_is_begun_anew_once_and_times_never_go_back(simulated: Simulated) -> None:
    for _ in range(30):
        simulated.give(simulated.bursts(0.1), 0.0)  # ahead by seconds
    simulated.listener.dead = "missing"
    before = simulated.listener._clock.position_s
    simulated.give(simulated.bursts(0.1), 1.0)
    assert simulated.listener.dead == "" and simulated.listener._offset_s >= before
    count = len(simulated.records)
    simulated.give(simulated.bursts(0.1), 0.0)
    assert not any(isinstance(record, ErrorRecord) for record in simulated.records[count:])


def test_samples_lost_before_any_came_are_no_pause(simulated: Simulated) -> None:
    simulated.give(Trouble("lost", gap=True, lost=5 * simulated.rate), 0.0)
    simulated.give(simulated.bursts(0.5), 1e4)
    windows, *_ = simulated.end()
    assert windows[0].start_s == pytest.approx(5)


# Graphs that fail ----------------------------------------------------------------------------------------------------


def failing(runtime: Runtime, turns: Iterable[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the head fail at these turns, as ONNX Runtime does when it is refused memory."""
    head, count = runtime.dispatcher.head, itertools.count()

    def fails(**inputs: Floats) -> dict[str, Floats]:
        if next(count) in turns:
            raise RuntimeError("bad_alloc")
        return head(**inputs)

    monkeypatch.setattr(runtime.dispatcher, "head", fails)


def test_a_window_that_the_graphs_fail_at_has_an_error_and_the_others_are_answered(
    runtime: Runtime, audio: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(runtime, {2, 3}, monkeypatch)
    how = Listening(hop_s=0.2)
    windows, _, errors, summary = heard(Listener(runtime, Made(blocks(audio, 1000), runtime.audio.sample_rate), how))
    assert [(e.error, e.message) for e in errors] == [("RuntimeError", "made: RuntimeError: bad_alloc")] * 2
    assert len(windows) == summary.windows > 10


def test_graphs_that_fail_again_and_again_end_it_so_that_it_is_begun_anew(
    runtime: Runtime, audio: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(runtime, range(4, 1000), monkeypatch)
    source = Made(blocks(audio, 1000), runtime.audio.sample_rate)
    found: list[Record] = []
    with pytest.raises(BundleError, match="failed at 10 windows in succession"):
        found.extend(Listener(runtime, source, Listening(hop_s=0.1)).records())
    windows, _, errors, summary = sorted_out(found)
    assert len(windows) == 4 and len(errors) >= 10 and summary.errors == len(errors)
