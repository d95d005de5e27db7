"""Listening: records, events, overload, dead sources and sources that break."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from data import bursts, write_wav
from data.listening import Made, blocks, four_clips, heard, sorted_out
from numpy.typing import NDArray

from xaimoe_runtime import AudioError, ConfigError, EventSettings, Listener, Listening, Runtime
from xaimoe_runtime.published import json_schemas
from xaimoe_runtime.records import EventRecord, Record, SummaryRecord
from xaimoe_runtime.streams.sources import FileSource, Trouble

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def audio(runtime: Runtime, scenes: Path) -> Floats:
    return four_clips(runtime, scenes)


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
    stereo = np.concatenate([audio, bursts(len(audio), level=0.01)[:, None]], axis=1)
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
    slow(runtime, 0.3, monkeypatch)
    rate = runtime.audio.sample_rate
    source = Made(blocks(audio, rate // 20), rate, live=True, pace_s=0.05)
    every = (len(audio) - runtime.audio.clip_samples) // (rate // 10)
    windows, _, errors, summary = heard(Listener(runtime, source, Listening(hop_s=0.1, backlog=2)))
    assert {e.error for e in errors} == {"Overload"}
    assert summary.dropped > 0 and summary.windows + summary.dropped >= every
    starts = [w.start_s for w in windows]
    assert starts == sorted(starts)
    assert windows[-1].end_s == pytest.approx(len(audio) / rate, abs=0.3)
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


@pytest.mark.parametrize(
    "options", [{"buffer_s": 0}, {"dead_s": -1}, {"summary_s": 0}, {"backlog": 0}, {"dead_s": float("nan")}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Listening(**options)  # type: ignore[arg-type]
