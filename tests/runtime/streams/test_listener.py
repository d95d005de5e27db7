"""Listening: records, events, overload, dead sources and sources that break."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from data import noise, write_wav
from numpy.typing import NDArray

from xaimoe_runtime import AudioError, BundleError, ConfigError, EventSettings, Listener, Listening, Runtime
from xaimoe_runtime.inference import file_windows
from xaimoe_runtime.published import json_schemas
from xaimoe_runtime.records import ErrorRecord, EventRecord, Record, SummaryRecord, WindowRecord
from xaimoe_runtime.streams import listener
from xaimoe_runtime.streams.sources import FileSource, Trouble

Floats = NDArray[np.float32]


class Made:
    """A source of given items, ``pace_s`` seconds apart; a number is a pause of so many seconds. It is ``live`` or can
    wait, and ``ends`` by itself or not."""

    name, encoding, channels = "made", "", 1

    def __init__(
        self,
        items: list[Floats | Trouble | Exception | float],
        rate: int,
        live: bool = False,
        pace_s: float = 0.0,
        ends: bool = True,
    ) -> None:
        self.items, self.rate, self.live, self.pace_s, self.ends = items, rate, live, pace_s, ends
        self.closed = threading.Event()
        blocks = [item for item in items if isinstance(item, np.ndarray)]
        self.channels = blocks[0].shape[1] if blocks else 1

    def read(self) -> Iterator[Floats | Trouble]:
        for item in self.items:
            self.closed.wait(self.pace_s)
            if self.closed.is_set():
                return
            if isinstance(item, Exception):
                raise item
            if isinstance(item, float):
                self.closed.wait(item)
            else:
                yield item
        if not self.ends:
            self.closed.wait()

    def close(self) -> None:
        self.closed.set()


@pytest.fixture(scope="module")
def audio(runtime: Runtime, scenes: Path) -> Floats:
    """Four clips of scenes, [n, 1]."""
    parts = []
    for path in sorted((scenes / "audio").glob("*.*"))[::5]:
        parts += [window.samples for _, window in file_windows(path, runtime.audio)]
    return np.concatenate(parts)[: 4 * runtime.audio.clip_samples, None]


def blocks(samples: Floats, size: int) -> list[Floats | Trouble | Exception | float]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def heard(listener: Listener) -> tuple[list[WindowRecord], list[EventRecord], list[ErrorRecord], SummaryRecord]:
    return sorted_out(list(listener.records()))


def sorted_out(
    records: list[Record],
) -> tuple[list[WindowRecord], list[EventRecord], list[ErrorRecord], SummaryRecord]:
    *others, summary = records
    assert isinstance(summary, SummaryRecord)
    windows = [r for r in others if isinstance(r, WindowRecord)]
    events = [r for r in others if isinstance(r, EventRecord)]
    return windows, events, [r for r in others if isinstance(r, ErrorRecord)], summary


# Records -------------------------------------------------------------------------------------------------------------


def test_a_file_is_heard_as_infer_file_hears_it(runtime: Runtime, audio: Floats, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", audio, runtime.audio.sample_rate)
    windows, _, errors, summary = heard(Listener(runtime, FileSource(path), Listening(hop_s=0.4)))
    wanted = list(runtime.infer_file(path, 0.4))
    assert [(w.start_s, w.end_s) for w in windows] == [
        (pytest.approx(w.start_s, abs=1e-6), pytest.approx(w.end_s, abs=1e-6)) for w in wanted
    ]
    for record, window in zip(windows, wanted, strict=True):
        assert record.source == str(path)
        assert list(record.scores.values()) == pytest.approx(window.result.scores.tolist(), abs=1e-4)
        assert record.pairs == window.result.trace.pairs[0]
    assert errors == []
    assert (summary.windows, summary.dropped, summary.lost_s) == (len(wanted), 0, 0)
    assert summary.audio_s == pytest.approx(len(audio) / runtime.audio.sample_rate, abs=1e-3)


def test_every_record_follows_the_published_schema(runtime: Runtime, audio: Floats) -> None:
    rate = runtime.audio.sample_rate
    items = [*blocks(audio, 3000), Trouble("odd"), np.full((10, 1), np.nan, np.float32)]
    how = Listening(hop_s=0.5, events=EventSettings(on=dict.fromkeys(runtime.labels, 0.2)))
    records = list(Listener(runtime, Made(items, rate, live=True), how).records())
    schema = msgspec.json.decode(json_schemas()["records.schema.json"])
    kinds = set()
    for record in records:
        content = msgspec.json.decode(msgspec.json.encode(record))
        jsonschema.validate(content, schema)
        kinds.add(content["kind"])
        assert "path" not in content and content["source"]
        if content["kind"] != "summary":
            assert content["time"].endswith("+00:00")
    assert kinds == {"window", "event", "error", "summary"}


def test_what_is_not_live_has_no_time_of_day(runtime: Runtime, audio: Floats) -> None:
    windows, _, _, _ = heard(Listener(runtime, Made(blocks(audio, 5000), runtime.audio.sample_rate)))
    content = msgspec.json.decode(msgspec.json.encode(windows[0]))
    assert "time" not in content and "latency_ms" not in content


def test_each_channel_is_a_stream_of_its_own(runtime: Runtime, audio: Floats) -> None:
    stereo = np.concatenate([audio, noise(len(audio), level=0.01)[:, None]], axis=1)
    rate = runtime.audio.sample_rate
    windows, events, _, summary = heard(Listener(runtime, Made(blocks(stereo, 4000), rate), Listening(channel="each")))
    assert {w.channel for w in windows} == {0, 1}
    assert {e.channel for e in events} <= {0, 1}
    left = [w for w in windows if w.channel == 0]
    alone, _, _, _ = heard(Listener(runtime, Made(blocks(audio, 4000), rate)))
    for one, other in zip(left, alone, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
    assert summary.windows == len(windows) == 2 * len(alone)
    with pytest.raises(AudioError, match="expected channel 2"):
        Listener(runtime, Made(blocks(stereo, 4000), rate), Listening(channel="2"))


def test_events_alone(runtime: Runtime, audio: Floats) -> None:
    rate = runtime.audio.sample_rate
    low = EventSettings(on=dict.fromkeys(runtime.labels, 0.15))
    windows, events, _, summary = heard(
        Listener(runtime, Made(blocks(audio, 4000), rate), Listening(windows=False, events=low))
    )
    assert windows == []
    onsets, offsets = ([e for e in events if e.state == state] for state in ("onset", "offset"))
    assert summary.events == len(onsets) == len(offsets) > 0
    assert all(e.start_s < e.end_s and 0.15 * 0.8 <= e.peak <= 1 for e in events)


def test_the_runtime_gives_events_and_logs_trouble(
    runtime: Runtime, audio: Floats, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    low = EventSettings(on=dict.fromkeys(runtime.labels, 0.15))
    items = [*blocks(audio, 4000), Trouble("something odd")]
    with caplog.at_level(logging.WARNING, "xaimoe_runtime"):
        found = list(runtime.stream(Made(items, runtime.audio.sample_rate), events=low, hop_s=0.5))
    assert found and all(isinstance(event, EventRecord) for event in found)
    assert "something odd" in caplog.text
    path = write_wav(tmp_path / "a.wav", audio, runtime.audio.sample_rate)
    again = list(runtime.stream(path, events=low, hop_s=0.5))
    assert [(e.label, e.state, e.start_s) for e in again] == [(e.label, e.state, e.start_s) for e in found]
    with pytest.raises(ConfigError, match=r"hop.*hop_s, routing"):
        runtime.stream(path, hop=1)


# Trouble -------------------------------------------------------------------------------------------------------------


def test_samples_that_are_not_finite_are_taken_for_silence(runtime: Runtime, audio: Floats) -> None:
    rate, holed, silent = runtime.audio.sample_rate, audio.copy(), audio.copy()
    holed[5000:5100], silent[5000:5100] = np.inf, 0
    windows, _, errors, summary = heard(Listener(runtime, Made(blocks(holed, 1000), rate)))
    (error,) = errors
    assert "100 samples that are NaN or infinite" in error.message and summary.errors == 1
    wanted, _, _, _ = heard(Listener(runtime, Made(blocks(silent, 1000), rate)))
    for one, other in zip(windows, wanted, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-6)


def test_no_window_and_no_event_spans_a_gap(runtime: Runtime, audio: Floats) -> None:
    rate, size = runtime.audio.sample_rate, runtime.audio.clip_samples
    first, second = audio[: 2 * size - 100], audio[2 * size : 3 * size]
    items = [*blocks(first, 1000), Trouble("unplugged", gap=True), *blocks(second, 1000)]
    low = EventSettings(on=dict.fromkeys(runtime.labels, 0.01))
    windows, events, errors, summary = heard(Listener(runtime, Made(items, rate), Listening(hop_s=0.5, events=low)))
    border = len(first) / rate
    assert all(w.end_s <= border + 1e-6 or w.start_s >= border - 1e-6 for w in windows)
    assert all(e.end_s <= border + 1e-6 or e.start_s >= border - 1e-6 for e in events)
    assert any(w.start_s >= border - 1e-6 for w in windows)
    assert [e.error for e in errors] == ["SourceTrouble"] and errors[0].message == "made: unplugged"
    assert any(w.end_s == pytest.approx(border, abs=1e-5) for w in windows)  # to the last sample before the gap
    assert summary.audio_s == pytest.approx((len(first) + len(second)) / rate, abs=1e-3)


def test_lost_samples_count_in_the_times_after_them(runtime: Runtime, audio: Floats) -> None:
    rate, size = runtime.audio.sample_rate, runtime.audio.clip_samples
    items = [*blocks(audio[:size], 1000), Trouble("lost", gap=True, lost=5 * rate), *blocks(audio[:size], 1000)]
    windows, _, _, _ = heard(Listener(runtime, Made(items, rate)))
    assert [w.start_s for w in windows] == pytest.approx([0, 5 + size / rate], abs=1e-4)
    assert windows[1].scores == pytest.approx(windows[0].scores, abs=1e-6)


def test_sound_between_gaps_is_heard_however_short(runtime: Runtime, audio: Floats) -> None:
    rate, half = runtime.audio.sample_rate, runtime.audio.clip_samples // 2
    pieces = [
        part for i in range(4) for part in (Trouble("gap", gap=True), *blocks(audio[i * half : (i + 1) * half], 500))
    ]
    windows, _, _, summary = heard(Listener(runtime, Made(pieces, rate), Listening(channel="mix")))
    assert len(windows) == summary.windows == 4


def test_a_dead_channel_is_found_beside_one_that_sounds(runtime: Runtime, audio: Floats) -> None:
    rate = runtime.audio.sample_rate
    stereo = np.concatenate([np.zeros_like(audio), audio], axis=1)
    for channel, dead in (("0", True), ("1", False), ("mix", False), ("each", True)):
        source = Made(blocks(stereo, rate // 10), rate, live=True)
        _, _, errors, _ = heard(Listener(runtime, source, Listening(channel=channel, dead_s=1.0)))
        assert any(e.error == "DeadSource" for e in errors) == dead


def test_a_source_that_breaks_is_heard_to_the_break(runtime: Runtime, audio: Floats) -> None:
    rate = runtime.audio.sample_rate
    listener = Listener(runtime, Made([*blocks(audio, 1000), AudioError("made: broken after 2 s")], rate))
    found: list[Record] = []
    with pytest.raises(AudioError, match="broken after 2 s"):
        found.extend(listener.records())
    windows, _, _, summary = sorted_out(found)
    assert len(windows) == summary.windows == 4


def slow(runtime: Runtime, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every answer take so long."""
    head = runtime.dispatcher.head

    def late(**inputs: Floats) -> dict[str, Floats]:
        time.sleep(seconds)
        return head(**inputs)

    monkeypatch.setattr(runtime.dispatcher, "head", late)


def test_overload_gives_up_the_oldest_windows_and_says_so(
    runtime: Runtime, audio: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(runtime, 0.1, monkeypatch)
    rate = runtime.audio.sample_rate
    source = Made(blocks(audio, 800), rate, live=True, pace_s=0.005)
    every = (len(audio) - runtime.audio.clip_samples) // (rate // 10)
    windows, _, errors, summary = heard(Listener(runtime, source, Listening(hop_s=0.1, backlog=2)))
    assert {e.error for e in errors} == {"Overload"}
    assert summary.dropped > 0 and summary.windows + summary.dropped >= every
    starts = [w.start_s for w in windows]
    assert starts == sorted(starts)
    assert windows[-1].end_s == pytest.approx(len(audio) / rate, abs=0.1)
    waited = [w.latency_ms for w in windows[:-1]]
    assert all(isinstance(ms, float) and ms < 1_500 for ms in waited)  # and not ever more


def test_what_comes_in_bursts_is_answered_all_the_same(runtime: Runtime, audio: Floats) -> None:
    """Twenty windows come at once; that they are more than may wait tells nothing of the time there is."""
    rate = runtime.audio.sample_rate
    source = Made(blocks(audio, rate), rate, live=True, pace_s=0.3)
    windows, _, errors, summary = heard(Listener(runtime, source, Listening(hop_s=0.05, backlog=15)))
    assert (errors, summary.dropped) == ([], 0)
    assert len(windows) >= (len(audio) - runtime.audio.clip_samples) // (rate // 20)


def test_a_budget_is_late_from_the_arrival_and_says_so(
    runtime: Runtime, audio: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(runtime, 0.05, monkeypatch)
    source = Made(blocks(audio, 800), runtime.audio.sample_rate, live=True)
    windows, _, _, summary = heard(Listener(runtime, source, Listening(hop_s=0.1, backlog=50, budget_ms=80)))
    assert summary.late == sum(w.late for w in windows) > len(windows) / 2
    # Late before it began: nothing but the floor is run.
    assert all(w.pairs == 0 for w in windows if isinstance(w.latency_ms, float) and w.latency_ms > 160)


def test_a_source_that_can_wait_loses_nothing(runtime: Runtime, audio: Floats, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(runtime, 0.01, monkeypatch)
    source = Made(blocks(audio, 200), runtime.audio.sample_rate)
    windows, _, errors, summary = heard(Listener(runtime, source, Listening(hop_s=0.2, backlog=1, buffer_s=0.1)))
    assert errors == [] and summary.dropped == 0 and summary.lost_s == 0
    assert len(windows) >= (len(audio) - runtime.audio.clip_samples) // (runtime.audio.sample_rate // 5)


def test_samples_that_found_no_room_are_counted(
    runtime: Runtime, audio: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(runtime, 0.3, monkeypatch)
    source = Made(blocks(audio, 400), runtime.audio.sample_rate, live=True, pace_s=0.002)
    _, _, errors, summary = heard(Listener(runtime, source, Listening(hop_s=0.2, buffer_s=0.1)))
    assert summary.lost_s > 0
    assert any("were lost, the buffer is full" in e.message for e in errors)


@pytest.mark.parametrize(
    ("value", "message"), [(None, "nothing came"), (0.0, "only one value came"), (0.000244, "only one value came")]
)
def test_a_dead_source_is_reported_once(runtime: Runtime, audio: Floats, value: float | None, message: str) -> None:
    rate = runtime.audio.sample_rate
    dead = [] if value is None else blocks(np.full((rate, 1), value, np.float32), rate // 20)
    items = [*blocks(audio[: rate // 2], rate // 20), *dead]
    source = Made(items, rate, live=True, pace_s=0.01, ends=False)
    listener = Listener(runtime, source, Listening(dead_s=0.4))
    threading.Timer(1.6, listener.stop).start()
    _, _, errors, summary = heard(listener)
    found = [e.message for e in errors]
    assert any(message in text and "0.4 s" in text for text in found)
    assert len(found) == len(set(found)) == summary.errors
    assert all(e.error == "DeadSource" for e in errors)


def test_a_source_that_comes_back_is_not_dead_any_more(runtime: Runtime, audio: Floats) -> None:
    rate = runtime.audio.sample_rate
    silence = np.zeros((rate, 1), np.float32)
    items = [*blocks(silence, rate // 10), *blocks(audio, rate // 10)]
    listener = Listener(runtime, Made(items, rate, live=True, pace_s=0.005), Listening(dead_s=0.5))
    states = [listener.dead for _ in listener.records()]
    assert "silent" in states
    assert listener.dead == ""


def test_it_can_be_stopped_and_answers_what_it_has(runtime: Runtime, audio: Floats) -> None:
    source = Made(blocks(audio, 1000), runtime.audio.sample_rate, live=True, ends=False)
    turns = []
    listener = Listener(runtime, source, alive=lambda: turns.append(1))
    threading.Timer(0.8, listener.stop).start()
    start = time.monotonic()
    windows, _, _, summary = heard(listener)
    assert time.monotonic() - start < 5
    assert len(windows) == summary.windows == 4
    assert len(turns) >= 2


def test_summaries_come_every_so_often(runtime: Runtime, audio: Floats) -> None:
    source = Made(blocks(audio, 1000), runtime.audio.sample_rate, live=True, pace_s=0.02)
    records = list(Listener(runtime, source, Listening(summary_s=0.2)).records())
    summaries = [r for r in records if isinstance(r, SummaryRecord)]
    assert len(summaries) >= 3
    counts = [s.windows for s in summaries]
    assert counts == sorted(counts) and counts[-1] == 4


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


@pytest.mark.parametrize(
    "options", [{"buffer_s": 0}, {"dead_s": -1}, {"summary_s": 0}, {"backlog": 0}, {"dead_s": float("nan")}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Listening(**options)  # type: ignore[arg-type]
