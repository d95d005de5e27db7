"""Listening where something is missing: pauses of a source, and graphs that fail."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from data.listening import Made, blocks, four_clips, heard, sorted_out
from numpy.typing import NDArray

from xaimoe_runtime import BundleError, Listener, Listening, Runtime
from xaimoe_runtime.records import ErrorRecord, Record
from xaimoe_runtime.streams import listener
from xaimoe_runtime.streams.sources import Trouble

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def audio(runtime: Runtime, scenes: Path) -> Floats:
    return four_clips(runtime, scenes)


def test_a_pause_of_a_live_source_is_a_gap(runtime: Runtime, audio: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "PAUSE_S", 0.4)
    rate, size = runtime.audio.sample_rate, runtime.audio.clip_samples
    part = audio[: 2 * size]
    source = Made([part[:size], part[size:], len(part) / rate + 1.0, *blocks(part, size)], rate, live=True)
    windows, _, errors, _ = heard(Listener(runtime, source, Listening(hop_s=0.5, backlog=100)))
    (error,) = errors
    assert error.error == "SourceTrouble" and "nothing came for 1." in error.message
    ends = len(part) / rate
    assert all(w.end_s <= ends + 1e-3 or w.start_s >= ends + 0.9 for w in windows)
    begun = min(w.start_s for w in windows if w.start_s > ends)
    assert begun == pytest.approx(ends + 1.0, abs=0.4)  # times go on after the pause


def came(one: Listener, arrived: float, seconds: float = 0.1) -> list[type[Record]]:
    """The records that a block brings which a live source gave then, before it is taken in."""
    return [type(record) for record in one._skip_pause(arrived, seconds)]


@pytest.fixture
def live(runtime: Runtime, audio: Floats) -> Listener:
    """A live source's listener, which has heard something."""
    found = Listener(runtime, Made([audio], runtime.audio.sample_rate, live=True), Listening(windows=False))
    found.streams[0].take(audio[:100])
    return found


def test_a_recorder_whose_clock_is_slow_has_no_gaps(live: Listener) -> None:
    """Each block comes a hundredth of a second later than the one before says: the sum means nothing."""
    now = 100.0
    for _ in range(1000):
        now += 0.11
        assert came(live, now) == []
    assert live._offset_s == 0
    assert came(live, now + 2.5)[:1] == [ErrorRecord]
    assert live._offset_s > 2


def test_one_that_writes_in_bursts_has_none_either(live: Listener) -> None:
    for burst in range(50):
        for _ in range(40):  # 4 s at once
            assert came(live, 100.0 + 4 * burst) == []
    assert live._offset_s == 0
    assert came(live, 100.0 + 4 * 49 + 20.0)[:1] == [ErrorRecord]


def test_a_source_that_was_dead_is_begun_anew_once_and_times_never_go_back(live: Listener) -> None:
    for _ in range(30):
        assert came(live, 100.0) == []  # ahead by seconds
    live.dead = "missing"
    before = live._offset_s
    came(live, 101.0)
    assert live.dead == "" and live._offset_s >= before
    assert came(live, 101.0) == []


def test_samples_lost_before_any_came_are_no_pause(live: Listener) -> None:
    list(live._take(Trouble("lost", gap=True, lost=5 * live.source.rate)))
    before = live._offset_s
    came(live, 1e6)
    assert live._offset_s == before


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
