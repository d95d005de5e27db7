"""What is measured of one recording, where the answer is known."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from data import noise, write_wav
from data.recordings import RATE, tone

from xaimoe_audio.profiling.bands import BAND_CENTRES
from xaimoe_audio.profiling.measure import measure
from xaimoe_audio.profiling.record import file_profile


def test_a_recording_is_told_by_its_rate_length_and_content(tmp_path: Path) -> None:
    samples = np.stack([tone(2.5, 44_100), np.zeros(110_250, np.float32)], axis=1)
    found = measure(write_wav(tmp_path / "a.wav", samples, 44_100, subtype="PCM_16"))
    assert (found.sample_rate, found.channels, found.encoding) == (44_100, 2, "WAV PCM_16")
    assert found.duration_s == pytest.approx(2.5)
    assert found.peak == pytest.approx(0.05, abs=1e-3)
    assert found.attributes["level"] == pytest.approx(20 * np.log10(0.05 / np.sqrt(2)), abs=0.1)
    assert not found.silent


def test_one_channel_can_be_measured_alone(tmp_path: Path) -> None:
    samples = np.stack([tone(), np.zeros(RATE, np.float32)], axis=1)
    path = write_wav(tmp_path / "a.wav", samples)
    assert measure(path, 0).peak == pytest.approx(0.1, abs=1e-3)
    assert measure(path, 1).silent


def test_third_octaves_hold_the_power_at_its_frequency(tmp_path: Path) -> None:
    levels = np.array(measure(write_wav(tmp_path / "a.wav", tone(3.0))).third_octaves, dtype=float)
    assert BAND_CENTRES[int(np.nanargmax(levels))] == pytest.approx(1_000.0)
    assert np.nanmax(levels) == pytest.approx(10 * np.log10(0.005), abs=0.2)
    assert np.isnan(levels[BAND_CENTRES > RATE / 2]).all()
    assert np.isfinite(levels[(BAND_CENTRES > 60) & (BAND_CENTRES < RATE / 2)]).all()


def test_contrast_is_where_something_comes_and_goes_and_not_where_power_is_steady(tmp_path: Path) -> None:
    """A hum 20 dB over the noise, and pings 20 dB over it a tenth of the time."""
    hum, ping = tone(3.0, hz=125.0, level=0.1), tone(3.0, hz=4_000.0, level=0.1)
    ping *= np.arange(len(ping)) % RATE < RATE // 10
    found = measure(write_wav(tmp_path / "a.wav", noise(3 * RATE, level=0.01) + hum + ping))
    contrast = dict(zip(np.round(BAND_CENTRES), found.contrast, strict=True))
    assert contrast[3_981] > 10
    assert contrast[126] < 0.5
    assert contrast[1_000] < 2
    assert contrast[10_000] is None


def test_white_noise_has_no_contrast(tmp_path: Path) -> None:
    found = measure(write_wav(tmp_path / "a.wav", noise(20 * RATE, seed=5)))
    assert np.nanmean(np.array(found.contrast, dtype=float)) < 0.7


@pytest.mark.parametrize("rate", [100, 2_000, 8_000, 44_100, 192_000, 1_000_000])
@pytest.mark.parametrize("seconds", [0.02, 0.5])
def test_any_rate_and_length_gives_finite_numbers(tmp_path: Path, rate: int, seconds: float) -> None:
    found = measure(write_wav(tmp_path / "a.wav", noise(max(int(seconds * rate), 1)), rate))
    assert all(np.isfinite(value) for value in (*found.attributes.values(), found.noise_floor, found.peak))
    assert all(level is None or np.isfinite(level) for level in (*found.third_octaves, *found.contrast))


def test_the_same_sound_in_another_file_has_the_same_digest(tmp_path: Path) -> None:
    samples = (noise(RATE) * 32_768).astype(np.int16)
    for name in ("a.wav", "b.flac"):
        soundfile.write(tmp_path / name, samples, RATE, subtype="PCM_16")
    assert measure(tmp_path / "a.wav").audio_sha256 == measure(tmp_path / "b.flac").audio_sha256


@pytest.mark.parametrize("deviations", [0.7, 10.0, 31.0])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_constant_offset_of_the_recorder_changes_nothing(tmp_path: Path, rate: int, deviations: float) -> None:
    sound = noise(2 * rate, level=0.003)
    sound[:: rate // 3] = 0.03
    plain = measure(write_wav(tmp_path / "a.wav", sound, rate))
    offset = measure(write_wav(tmp_path / "b.wav", sound + np.float32(0.003 * deviations), rate))
    assert offset.attributes == pytest.approx(plain.attributes, rel=0.01, abs=0.02)
    assert offset.noise_floor == pytest.approx(plain.noise_floor, abs=0.05)
    assert offset.third_octaves[-12] == pytest.approx(plain.third_octaves[-12], abs=0.1)


def test_a_dead_channel_with_an_offset_is_silent(tmp_path: Path) -> None:
    found = measure(write_wav(tmp_path / "a.wav", np.full(2 * RATE, 0.2, np.float32)))
    assert found.silent and found.silent_share == 1


def test_silence_in_a_recording_does_not_count(tmp_path: Path) -> None:
    sound = noise(5 * RATE) + tone(5.0)
    alone = measure(write_wav(tmp_path / "a.wav", sound))
    within = measure(write_wav(tmp_path / "b.wav", np.concatenate([sound, np.zeros(20 * RATE, np.float32)])))
    for name in ("snr", "flatness", "level", "quality"):
        assert within.attributes[name] == pytest.approx(alone.attributes[name], rel=0.05)


def test_clipping_is_counted_over_all_samples(tmp_path: Path) -> None:
    samples = np.zeros(100_000, np.float32)
    samples[:1_000] = 1.0
    assert measure(write_wav(tmp_path / "a.wav", samples)).attributes["clipping_rate"] == pytest.approx(0.01)


@pytest.mark.parametrize("subtype", ["ULAW", "ALAW", "PCM_U8", "PCM_24", "DOUBLE"])
def test_any_encoding_is_measured(tmp_path: Path, subtype: str) -> None:
    found = measure(write_wav(tmp_path / "a.wav", tone(), subtype=subtype))
    assert found.attributes["level"] == pytest.approx(-23, abs=0.5)
    assert found.attributes["clipping_rate"] == 0


def test_a_recording_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "a.wav", noise(RATE, seed=99))
    found = file_profile(path)
    monkeypatch.setattr("xaimoe_audio.profiling.measure.measure", lambda *_: pytest.fail("measured again"))
    copy = tmp_path / "renamed.wav"
    copy.write_bytes(path.read_bytes())
    assert file_profile(copy) == found


def test_a_broken_entry_of_the_cache_is_measured_again(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(RATE, seed=98))
    found = file_profile(path)
    for entry in (Path(os.environ["XAIMOE_CACHE"]) / "profiles").glob("*.json"):
        entry.write_text("{")
    assert file_profile(path) == found


def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path: Path) -> None:
    rate, path = 48_000, tmp_path / "long.wav"
    measure(write_wav(tmp_path / "short.wav", noise(10 * rate), rate))
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16") as file:
        for _ in range(20):
            file.write(noise(30 * rate))  # 10 minutes: 115 MB as float32
    scale = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    assert measure(path).duration_s == 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale - before < 40e6
