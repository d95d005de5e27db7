"""Streams of silence, of novel sounds and of broken channels: no class, no event, and a word about it."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from data import noise, write_wav
from data.engines import CLIP, RATE, LevelEngine, LevelRuntime
from data.listening import Made, blocks, heard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xaimoe_runtime import Listener, Listening, Runtime
from xaimoe_runtime.files import FileClassifier
from xaimoe_runtime.records import ResultRecord, WindowRecord
from xaimoe_runtime.result import UNKNOWN
from xaimoe_runtime.schema import EventSettings
from xaimoe_runtime.streams.listener import CHANNEL_TROUBLE
from xaimoe_runtime.streams.pcm import SUBTYPES, Encoding, decode
from xaimoe_runtime.streams.stream import Stream

Floats = NDArray[np.float32]
SHIP = EventSettings(on={"ship": 0.5, "call": 0.5})


def zeros(clips: float) -> Floats:
    return np.zeros(round(clips * CLIP), np.float32)


def loud(clips: float) -> Floats:
    return noise(round(clips * CLIP), level=0.5)


def listener_of(samples: Floats, **options: Any) -> Listener:
    frames = samples if samples.ndim == 2 else samples[:, None]
    return Listener(cast(Runtime, LevelRuntime()), Made(blocks(frames, 37), RATE), Listening(events=SHIP, **options))


def stream_of(**options: Any) -> Stream:
    return Stream(cast(Runtime, LevelRuntime()), **options)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_silence_opens_no_event(value: float) -> None:
    windows, events, errors, summary = heard(listener_of(zeros(4) + np.float32(value)))
    assert [(window.silent, window.labels) for window in windows] == [(True, (UNKNOWN,))] * 4
    assert (events, errors) == ([], [])
    assert (summary.silent_windows, summary.events) == (4, 0)


def test_silence_ends_an_event() -> None:
    _, events, _, _ = heard(listener_of(np.concatenate([loud(2), zeros(2), loud(1)])))
    assert [(event.label, event.state, round(event.end_s, 3)) for event in events] == [
        ("call", "onset", 0.4),
        ("call", "offset", 0.8),
        ("call", "onset", 2.0),
        ("call", "offset", 2.0),
    ]


def test_events_have_novelty_and_drift_of_the_window_of_their_peak() -> None:
    engine = LevelEngine()
    levels = [0.4, 0.5, 0.35]
    samples = np.concatenate([noise(CLIP, level=level) for level in levels])
    windows, (onset, offset), _, _ = heard(listener_of(samples))
    assert engine.usual[0].q95 == 1
    assert (onset.novelty, onset.drift) == (windows[0].novelty, windows[0].drift)
    assert (offset.novelty, offset.peak) == (windows[1].novelty, windows[1].scores["call"])
    assert offset.novelty < onset.novelty


def test_drift_of_an_event() -> None:
    _, (onset, _), _, _ = heard(listener_of(noise(CLIP, level=30)))
    assert onset.drift == ("level",) and onset.novelty == 1.0


@pytest.mark.parametrize(("max_novelty", "labels"), [(0.3, ["call"]), (0.05, [])])
def test_no_event_opens_above_the_novelty_allowed(max_novelty: float, labels: list[str]) -> None:
    windows, events, _, _ = heard(listener_of(loud(3), max_novelty=max_novelty))
    assert {window.novelty > 0.05 for window in windows} == {True}
    assert [event.label for event in events if event.state == "onset"] == labels
    assert {window.labels for window in windows} == {("call",) if labels else (UNKNOWN,)}
    assert all(window.scores["call"] > 0.5 for window in windows), "the scores stay"


@settings(max_examples=25, deadline=None)
@given(
    rate=st.sampled_from([RATE, 2_400, 700]),
    parts=st.lists(st.tuples(st.booleans(), st.integers(1, 2 * CLIP)), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, 0.1]),
    size=st.integers(1, 500),
)
def test_a_stream_has_the_silence_of_a_file(
    rate: int,
    parts: list[tuple[bool, int]],
    offset: float,
    size: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    samples = np.concatenate([(loud if sounds else zeros)(n / CLIP) for sounds, n in parts]) + np.float32(offset)
    path = write_wav(tmp_path_factory.getbasetemp() / "stream.wav", samples, rate)
    records = list(FileClassifier(LevelEngine(), windows=True).records([path]))
    of_file = [r for r in records if isinstance(r, WindowRecord) and not isinstance(r, ResultRecord)]
    stream = stream_of(sample_rate=rate)
    found = [window for i in range(0, len(samples), size) for window in stream.push(samples[i : i + size])]
    found += stream.finish()
    assert [window.result.silent for window in found] == [record.silent for record in of_file]
    assert [window.result.labels for window in found] == [record.labels for record in of_file]
    for window, record in zip(found, of_file, strict=True):
        np.testing.assert_allclose(window.result.scores, list(record.scores.values()), atol=1e-4)


# Channels ------------------------------------------------------------------------------------------------------------


def test_a_mix_that_cancels_is_reported_once() -> None:
    x = loud(12)
    windows, events, errors, _ = heard(listener_of(np.stack([x, -x], axis=1), dead_s=1.0))
    assert {window.silent for window in windows} == {True} and not events
    (error,) = errors
    assert error.error == CHANNEL_TROUBLE
    assert error.message.startswith("made: the channels cancel: the mix of 2 is silent")


def test_a_channel_that_dies_again_is_reported_again() -> None:
    other = np.concatenate([loud(5), zeros(5), loud(5), zeros(5)])
    _, _, errors, _ = heard(listener_of(np.stack([loud(20), other], axis=1), dead_s=CLIP / RATE))
    assert [error.message for error in errors] == [
        "made: channel 1 is silent, channel 0 is not; choose one with --channel"
    ] * 2


def test_a_short_stream_is_judged_at_its_end() -> None:
    _, _, errors, _ = heard(listener_of(np.stack([loud(1), zeros(1)], axis=1)))
    assert [error.error for error in errors] == [CHANNEL_TROUBLE]


def test_pushed_channels_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    x, stream = loud(3), stream_of()
    with caplog.at_level(logging.WARNING, "xaimoe_runtime"):
        stream.push(np.stack([x, -x], axis=1))
        assert not caplog.messages, "before the first period is over"
        stream.finish()
    (message,) = caplog.messages
    assert "the channels cancel" in message and not stream.warnings


# Faint sources ------------------------------------------------------------------------------------------------------


def coded(samples: Floats, encoding: Encoding) -> bytes:
    """Raw samples."""
    subtype, _ = SUBTYPES[encoding]
    file = io.BytesIO()
    endian = "BIG" if encoding.endswith("be") else "LITTLE"
    soundfile.write(file, samples, RATE, format="RAW", subtype=subtype, endian=endian)
    return file.getvalue()


@pytest.mark.parametrize("encoding", ["s16", "s16be", "s24", "s24be", "s32", "f32", "f32be", "f64"])
@pytest.mark.parametrize("gain_db", [0, -60, -80, -100, -120])
def test_faint_raw_samples_are_silent_as_those_of_a_file(tmp_path: Path, encoding: Encoding, gain_db: float) -> None:
    samples = noise(2 * CLIP, level=0.1) * np.float32(10 ** (gain_db / 20))
    subtype = SUBTYPES[encoding][0]
    stream = stream_of(encoding=subtype)
    found = stream.push(decode(coded(samples, encoding), encoding, 1)) + stream.finish()
    path = write_wav(tmp_path / "a.wav", samples, RATE, subtype=subtype)
    *records, _, _ = FileClassifier(LevelEngine(), windows=True).records([path])
    assert [window.result.silent for window in found] == [record.silent for record in records]  # type: ignore[union-attr]
    assert {window.result.silent for window in found} == {gain_db < (-60 if encoding.startswith("s16") else -100)}


def test_pushed_arrays_have_the_resolution_of_floats(caplog: pytest.LogCaptureFixture) -> None:
    stream = stream_of()
    with caplog.at_level(logging.WARNING, "xaimoe_runtime"):
        found = stream.push(noise(3 * CLIP) * np.float32(1e-4)) + stream.finish()
    assert {window.result.silent for window in found} == {False}
    (message,) = caplog.messages
    assert message.startswith("stream: the level is -100 dBFS: under -90 the router selects no expert")


class Fine(Made):
    """A source of 24 bits."""

    encoding = "PCM_24"


@pytest.mark.parametrize("channels", [1, 2])
def test_a_source_that_is_faint_is_reported_once(channels: int) -> None:
    faint = noise(4 * CLIP) * np.float32(1e-6)
    samples = np.concatenate([faint, loud(4), 2 * faint, loud(4), faint])
    source = Fine(blocks(np.stack([samples] * channels, axis=1), 37), RATE)
    windows, _, errors, _ = heard(Listener(cast(Runtime, LevelRuntime()), source, Listening(dead_s=CLIP / RATE)))
    assert [window.silent for window in windows[::4]] == [True, False, True, False, True]
    (error,) = errors
    assert error.error == CHANNEL_TROUBLE
    assert error.message.startswith("made: the level is -140 dBFS and counts as silence: the model sees nothing under")


def test_silence_between_sounds_of_16_bits_is_no_trouble() -> None:
    faint = np.round(noise(4 * CLIP) * 6) * np.float32(2**-16)

    class Coarse(Made):
        encoding = "PCM_16"

    source = Coarse(blocks(np.concatenate([faint, loud(4), faint])[:, None], 37), RATE)
    windows, _, errors, _ = heard(Listener(cast(Runtime, LevelRuntime()), source, Listening(dead_s=CLIP / RATE)))
    assert [window.silent for window in windows[::4]] == [True, False, True]
    assert errors == []


# A hop longer than a clip --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clips", "skipped"), [(1, 0.0), (2.5, 1.5), (3.5, 1.5), (6.5, 3.5), (10, 6.0)])
def test_what_a_long_hop_skips_is_counted(clips: float, skipped: float, tmp_path: Path) -> None:
    hop_s = 3 * CLIP / RATE
    windows, _, _, summary = heard(listener_of(loud(clips), hop_s=hop_s))
    assert summary.skipped_s == pytest.approx(skipped * CLIP / RATE)
    assert summary.audio_s == pytest.approx((clips - skipped) * CLIP / RATE)
    path = write_wav(tmp_path / "a.wav", loud(clips), RATE)
    result, of_file = FileClassifier(LevelEngine(), hop_s=hop_s).records([path])
    assert isinstance(result, ResultRecord) and result.windows == len(windows)
    assert of_file.skipped_s == result.skipped_s == summary.skipped_s  # type: ignore[union-attr]
    assert of_file.audio_s == summary.audio_s  # type: ignore[union-attr]


def test_a_long_hop_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "xaimoe_runtime"):
        listener_of(loud(1), hop_s=0.4)
        assert not caplog.messages
        listener_of(loud(1), hop_s=0.6)
    assert caplog.messages == [
        "made: hop: found 0.6 s, longer than the model's clip of 0.4 s; 0.2 s after each window are skipped, and "
        "counted as skipped_s"
    ]
