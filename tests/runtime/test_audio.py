"""Recordings in, windows out: what is decoded, how channels are chosen, where clipping is counted, what is refused."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from data import noise, write_wav
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xaimoe_runtime import AudioError, ConfigError, Runtime
from xaimoe_runtime.audio import (
    Block,
    Window,
    array_block,
    clipped,
    parse_channel,
    read_blocks,
    resample,
    select_channel,
    window_count,
    windows,
)
from xaimoe_runtime.schema import AudioSpec

Floats = NDArray[np.float32]
SPEC = AudioSpec(sample_rate=1_000, clip_samples=100, frame_hop=10, window_hop=100)


def block(samples: Floats, native_frames: int | None = None, full: int = 0) -> Block:
    native = native_frames or len(samples)
    return Block(samples[:, None], native, np.arange(native)[:, None] < full)


def cut(samples: Floats, hop: int, size: int = 64) -> list[Window]:
    """The windows of a recording that arrives in blocks of ``size``."""
    blocks = (block(samples[i : i + size]) for i in range(0, len(samples), size))
    return list(windows(blocks, SPEC, 1_000, hop=hop))


def read(path: Path, rate: float, channel: int | str = "mix") -> Floats:
    return np.concatenate([part.samples for part in read_blocks(path, rate, channel)])


def clipping(path: Path, channel: int | str = "mix") -> NDArray[np.float64]:
    """Share of clipped native samples of each channel that was read."""
    parts = list(read_blocks(path, 16_000, channel))
    return np.concatenate([part.clipped for part in parts]).mean(0)


# Clipping ------------------------------------------------------------------------------------------------------------


def test_clipping_is_counted_before_resampling_hides_it(tmp_path: Path) -> None:
    loud = np.clip(noise(96_000, level=0.8), -1, 1)
    path = write_wav(tmp_path / "loud.wav", loud, 48_000)
    assert clipped(loud).mean() == pytest.approx(0.21, abs=0.01)
    assert clipped(resample(loud, 48_000, 4_000)).mean() < 0.01
    for rate in (4_000, 48_000):
        parts = list(read_blocks(path, rate))
        assert np.concatenate([part.clipped for part in parts]).mean() == pytest.approx(clipped(loud).mean())


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_full_scale_counts_as_clipped_whatever_the_sample_format(tmp_path: Path, subtype: str) -> None:
    wave = np.clip(3 * np.sin(np.arange(16_000) * 0.05), -1, 1)
    path = write_wav(tmp_path / "sine.wav", wave.astype(np.float32), subtype=subtype)
    assert clipping(path) == pytest.approx(np.mean(np.abs(wave) == 1), abs=0.02)


def test_a_mixture_is_clipped_where_any_of_its_channels_is(tmp_path: Path) -> None:
    frames = np.zeros((1_000, 2), np.float32)
    frames[:300, 0] = 1
    frames[200:400, 1] = -1
    path = write_wav(tmp_path / "two.wav", frames)
    assert clipping(path) == pytest.approx(0.4)
    assert clipping(path, "each") == pytest.approx([0.3, 0.2])
    assert clipping(path, 1) == pytest.approx(0.2)


def test_each_window_has_its_own_clipping_rate() -> None:
    quiet = np.zeros(100, np.float32)
    heard = [block(quiet, native_frames=200, full=50), block(quiet, native_frames=200), block(quiet, native_frames=200)]
    found = [(w.start_s, w.clipping_rate) for w in windows(heard, SPEC, 2_000, hop=50)]
    assert found == [(0, 0.25), (0.05, 0), (0.1, 0), (0.15, 0), (0.2, 0)]  # the clipped samples are the first 50


def test_a_window_hands_the_graphs_native_rate_and_clipping_rate() -> None:
    (window,) = windows([block(np.zeros(100, np.float32), native_frames=200, full=50)], SPEC, 2_000)
    assert window.source == (2_000, 0.25)


# Channels ------------------------------------------------------------------------------------------------------------


def test_channels_are_mixed_picked_or_kept(tmp_path: Path) -> None:
    frames = noise(24_000).reshape(-1, 3)
    path = write_wav(tmp_path / "three.wav", frames)
    np.testing.assert_allclose(read(path, 16_000), frames.mean(1, keepdims=True), atol=1e-7)
    assert np.array_equal(read(path, 16_000, 2), frames[:, 2:])
    assert np.array_equal(read(path, 16_000, "each"), frames)


def test_a_channel_that_the_file_does_not_have_is_named(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "two.wav", noise(200).reshape(-1, 2))
    with pytest.raises(AudioError, match=r"two\.wav: found 2 channel\(s\), expected channel 2; they count from 0"):
        read(path, 16_000, 2)


def test_a_channel_is_mix_each_or_a_number() -> None:
    assert [parse_channel(text) for text in ("mix", "each", "0", "12")] == ["mix", "each", 0, 12]


@pytest.mark.parametrize("text", ["left", "-1", "1.5", "", "²"])
def test_any_other_channel_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected mix, each or the number of a channel") as caught:
        parse_channel(text)
    assert repr(text) in str(caught.value)


def test_mixing_stays_float32() -> None:
    assert select_channel(np.ones((4, 2), np.float32), "mix", "x").dtype == np.float32


# Windows -------------------------------------------------------------------------------------------------------------


@given(total=st.integers(1, 600), hop=st.integers(1, 25).map(lambda n: 10 * n), size=st.integers(1, 250))
@settings(max_examples=150)
def test_windows_hold_what_was_recorded_where_they_say(total: int, hop: int, size: int) -> None:
    recording = np.arange(1, total + 1, dtype=np.float32)
    found = cut(recording, hop, size)
    for window in found:
        start, end = round(window.start_s * 1_000), round(window.end_s * 1_000)
        assert window.samples.shape == (100,)
        assert end - start == min(total, 100)
        assert np.array_equal(window.samples[: end - start], recording[start:end])
    starts = [round(window.start_s * 1_000) for window in found]
    assert starts[:-1] == [i * hop for i in range(len(starts) - 1)]
    assert len(found) == window_count(total, SPEC, hop)


@given(total=st.integers(1, 600), hop=st.integers(1, 10).map(lambda n: 10 * n), size=st.integers(1, 250))
@settings(max_examples=150)
def test_nothing_of_a_recording_goes_unheard(total: int, hop: int, size: int) -> None:
    found = cut(np.zeros(total, np.float32), hop, size)
    ends = [0, *(round(window.end_s * 1_000) for window in found)]
    assert all(round(window.start_s * 1_000) <= end for window, end in zip(found, ends, strict=False))
    assert ends[-1] == total


def test_the_last_window_ends_with_the_recording() -> None:
    assert [(w.start_s, w.end_s) for w in cut(np.zeros(250, np.float32), 100)] == [(0, 0.1), (0.1, 0.2), (0.15, 0.25)]


def test_no_window_follows_one_that_ends_with_the_recording() -> None:
    assert [w.start_s for w in cut(np.zeros(200, np.float32), 100)] == [0, 0.1]


def test_a_hop_longer_than_a_clip_skips_what_lies_between() -> None:
    assert [(w.start_s, w.end_s) for w in cut(np.zeros(620, np.float32), 250)] == [(0, 0.1), (0.25, 0.35), (0.5, 0.6)]
    assert [w.start_s for w in cut(np.zeros(560, np.float32), 250)] == [0, 0.25, 0.46]


def test_a_short_recording_is_repeated_and_says_where_it_ends() -> None:
    recording = np.arange(1, 41, dtype=np.float32)
    (window,) = cut(recording, 100)
    assert np.array_equal(window.samples, np.r_[recording, recording, recording[:20]])
    assert (window.start_s, window.end_s) == (0, 0.04)


def test_without_a_hop_the_models_own_is_taken() -> None:
    assert [w.start_s for w in windows([block(np.zeros(300, np.float32))], SPEC, 1_000)] == [0, 0.1, 0.2]
    assert window_count(300, SPEC) == 3


@pytest.mark.parametrize("hop", [50, 1_000])
def test_a_long_recording_takes_no_more_memory_than_a_short_one(hop: int) -> None:
    def endless(count: int) -> Iterator[Block]:
        for _ in range(count):
            yield block(np.zeros(1_000, np.float32))

    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in windows(endless(count), SPEC, 1_000, hop=hop):
            pass
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top

    assert peak(500) < peak(10) + 50_000  # 500 blocks hold 2 MB


# Resampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_reading_block_by_block_equals_resampling_at_once(tmp_path: Path, rate: int) -> None:
    frames = noise(2 * (3 * rate + 17)).reshape(-1, 2)
    path = write_wav(tmp_path / "long.wav", frames, rate)
    wanted = soxr.resample(frames, rate, 16_000)
    found = read(path, 16_000, "each")
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_recording_at_the_models_rate_is_not_resampled(tmp_path: Path) -> None:
    samples = noise(32_000)  # whole blocks: the last one read is empty
    assert np.array_equal(read(write_wav(tmp_path / "a.wav", samples), 16_000)[:, 0], samples)


def test_samples_in_memory_are_resampled_and_their_clipping_counted() -> None:
    samples = np.clip(noise(4_800, level=0.8), -1, 1)
    found = array_block(samples, 48_000, 16_000)
    assert (found.samples.shape, found.samples.dtype, found.native_frames) == ((1_600, 1), np.float32, 4_800)
    assert np.array_equal(found.clipped[:, 0], clipped(samples))


# What can be read, and what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["ULAW", "PCM_U8", "PCM_24", "PCM_32", "DOUBLE"])
def test_common_sample_formats_are_read(tmp_path: Path, subtype: str) -> None:
    samples = np.sin(np.arange(8_000) * 0.1).astype(np.float32) / 2
    found = read(write_wav(tmp_path / "a.wav", samples, subtype=subtype), 16_000)[:, 0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, samples, atol=0.02)


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3", "aiff", "w64"])
def test_common_file_formats_are_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.sin(np.arange(16_000) * 0.1) / 2, 16_000)
    assert len(read(path, 16_000)) >= 16_000


def test_eight_channels_are_read(runtime: Runtime, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "eight.wav", noise(8_000).reshape(-1, 8))
    assert [heard.channel for heard in runtime.infer_file(path, channel="each")] == list(range(8))


def test_one_sample_is_repeated(runtime: Runtime, tmp_path: Path) -> None:
    (heard,) = runtime.infer_file(write_wav(tmp_path / "one.wav", noise(1), runtime.audio.sample_rate))
    assert np.isfinite(heard.result.scores).all()


def _nan(path: Path) -> None:
    write_wav(path, np.array([0.1, np.nan, np.nan], np.float32))


def _infinite(path: Path) -> None:
    write_wav(path, np.array([0.1, np.inf], np.float32))


def _without_samples(path: Path) -> None:
    write_wav(path, np.empty(0, np.float32))


def _too_short_to_resample(path: Path) -> None:
    write_wav(path, noise(1), 192_000)


def _text(path: Path) -> None:
    path.write_text("these are not samples\n" * 100)


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _below_every_recorder(path: Path) -> None:
    write_wav(path, noise(100), 50)


def _missing(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (_nan, "found 2 samples that are NaN or infinite, expected finite samples"),
        (_infinite, "found 1 samples that are NaN or infinite, expected finite samples"),
        (_without_samples, "the recording is empty"),
        (_too_short_to_resample, "too few samples"),
        (_text, "not readable as audio .* expected WAV, FLAC, MP3, Ogg or another format of libsndfile"),
        (_nothing, "found an empty file, expected a recording"),
        (_below_every_recorder, "found a sampling rate of 50 Hz, expected 100 to"),
        (_missing, "no such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    runtime: Runtime, tmp_path: Path, make: Callable[[Path], None], what: str
) -> None:
    path = tmp_path / "dive 3.wav"
    make(path)
    with pytest.raises(AudioError, match=what) as caught:
        list(runtime.infer_file(path))
    assert str(path) in str(caught.value)


def test_headerless_samples_are_refused(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(1_000))
    with pytest.raises(AudioError, match=r"a\.raw: not readable as audio"):
        list(runtime.infer_file(path))


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_a_file_whose_name_is_not_text_is_read_or_named(runtime: Runtime, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write_wav(tmp_path / "a.wav", noise(1_000)).rename(path)
    try:
        assert list(runtime.infer_file(path))
    except AudioError as error:
        assert "caf" in str(error)


@pytest.mark.parametrize(
    ("samples", "rate", "what"),
    [
        (np.zeros((2, 2, 2)), 16_000, r"found shape \[2, 2, 2\]"),
        (np.zeros(0), 16_000, r"found shape \[0\]"),
        (np.float32(1), 16_000, r"found shape \[\]"),
        (np.array([0.0, np.nan]), 16_000, "found 1 samples that are NaN"),
        (np.zeros(4, np.int16), 16_000, "found int16, expected floating point .* divide integer samples"),
        (np.zeros(4, complex), 16_000, "found complex128, expected floating point"),
        (np.zeros(4), 0, "sample_rate: found a sampling rate of 0 Hz"),
        (np.zeros(4), float("nan"), "sample_rate: found a sampling rate of nan Hz"),
        (np.zeros(4), "16000", "sample_rate: found a sampling rate of '16000'"),
    ],
)
def test_samples_in_memory_that_cannot_be_used_are_refused(samples: Any, rate: Any, what: str) -> None:
    with pytest.raises(AudioError, match=what):
        array_block(samples, rate, 16_000)
