"""The signal attributes: what each one says of sounds whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from data import noise, write_wav
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.profiling.measure import measure
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES
from xaimoe_audio.spectrogram.frontend import Frontend
from xaimoe_runtime.audio import read_blocks, windows
from xaimoe_runtime.schema import AudioSpec

RATE, CLIP = 16_000, 16_640
FRONTEND = Frontend(
    FrontendConfig(
        sample_rate=RATE,
        clip_samples=CLIP,
        spectrogram="logmel",
        n_fft=1024,
        win_length=1024,
        hop=160,
        bins=48,
        fmin=50.0,
        fmax=8_000.0,
    )
)
TIME = np.arange(CLIP) / RATE
RANGES = {
    "snr": 80.0,
    "flatness": 1.0,
    "transient_rate": 3.5,
    "clipping_rate": 1.0,
    "fmin_eff": 8_000.0,
    "fmax_eff": 8_000.0,
    "level": 140.0,
    "quality": 1.0,
}

Floats = NDArray[np.float64] | NDArray[np.float32]


def attributes(samples: Floats, native_rate: float = RATE, clipping: float = 0.0) -> dict[str, float]:
    source = torch.tensor([[native_rate, clipping]], dtype=torch.float32)
    _, found = FRONTEND(torch.from_numpy(np.asarray(samples, np.float32))[None], source)
    return dict(zip((name for name, _ in ATTRIBUTES), found[0].tolist(), strict=True))


def band_noise(low: float, high: float, seed: int = 0) -> Floats:
    spectrum = np.fft.rfft(noise(CLIP, seed).astype(np.float64))
    frequency = np.fft.rfftfreq(CLIP, 1 / RATE)
    return np.fft.irfft(np.where((frequency >= low) & (frequency <= high), spectrum, 0), CLIP)


def tone(hz: float = 1_000.0) -> Floats:
    return 0.3 * np.sin(2 * np.pi * hz * TIME)


def burst() -> Floats:
    return tone() * ((TIME > 0.4) & (TIME < 0.6))


def clicks() -> Floats:
    samples = np.zeros(CLIP)
    samples[800::1600] = 0.8
    return samples


FAINT = noise(CLIP, seed=1, level=1e-3)
SOUNDS: dict[str, Floats] = {
    "silence": np.zeros(CLIP),
    "noise": noise(CLIP),
    "tone": tone() + FAINT,
    "burst": burst() + FAINT,
    "clicks": clicks() + FAINT,
    "low band": band_noise(100, 2_000),
    "constant": np.full(CLIP, 0.5),
    "denormal": np.full(CLIP, 1e-30),
    "too loud": noise(CLIP, level=1e3),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_attributes_are_finite_and_in_range(name: str) -> None:
    found = attributes(SOUNDS[name])
    assert all(np.isfinite(value) for value in found.values())
    assert -20 <= found["snr"] <= 60
    assert 0 <= found["flatness"] <= 1
    assert -0.5 <= found["transient_rate"] <= 3
    assert 0 <= found["quality"] <= 1
    assert 0 <= found["fmin_eff"] <= found["fmax_eff"] <= RATE / 2
    assert -120 <= found["level"] <= 20


def test_clipping_passes_through_as_the_loader_counted_it() -> None:
    assert attributes(SOUNDS["noise"], clipping=0.125)["clipping_rate"] == 0.125


@pytest.mark.parametrize("high", [1_000, 2_000, 4_500])
def test_fmax_eff_is_where_band_limited_noise_ends(high: float) -> None:
    assert attributes(band_noise(200, high))["fmax_eff"] == pytest.approx(high, abs=2 * 250)


@pytest.mark.parametrize("low", [1_000, 3_000])
def test_fmin_eff_is_where_band_limited_noise_begins(low: float) -> None:
    assert attributes(band_noise(low, 6_000))["fmin_eff"] == pytest.approx(low, abs=2 * 250)


@pytest.mark.parametrize("native", [2_000, 4_000, 11_025, 48_000])
@pytest.mark.parametrize("name", SOUNDS)
def test_fmax_eff_is_never_above_half_the_native_rate(name: str, native: float) -> None:
    found = attributes(SOUNDS[name], native_rate=native)
    assert found["fmin_eff"] <= found["fmax_eff"] <= native / 2


def test_level_is_the_mean_power_re_full_scale() -> None:
    assert attributes(noise(CLIP, level=0.1))["level"] == pytest.approx(-20, abs=0.2)
    assert attributes(tone())["level"] == pytest.approx(20 * np.log10(0.3 / np.sqrt(2)), abs=0.1)
    assert attributes(SOUNDS["silence"])["level"] == pytest.approx(-120, abs=0.01)


def test_white_noise_has_a_low_snr_and_what_stands_out_of_it_a_high_one() -> None:
    white = attributes(SOUNDS["noise"])["snr"]
    assert white < 0
    assert attributes(SOUNDS["tone"])["snr"] > white + 20
    assert attributes(SOUNDS["burst"])["snr"] > white + 20


def test_snr_grows_with_the_tone() -> None:
    found = [attributes(gain * tone() + noise(CLIP, level=0.05))["snr"] for gain in (0.0, 0.3, 1.0, 3.0)]
    assert found == sorted(found)


def test_snr_and_flatness_do_not_depend_on_gain() -> None:
    loud, soft = attributes(SOUNDS["burst"]), attributes(0.1 * SOUNDS["burst"])
    assert loud["snr"] == pytest.approx(soft["snr"], abs=0.1)
    assert loud["flatness"] == pytest.approx(soft["flatness"], abs=1e-3)


def test_noise_is_flat_and_a_tone_is_not() -> None:
    assert attributes(SOUNDS["noise"])["flatness"] > 0.9
    assert attributes(SOUNDS["tone"])["flatness"] < 0.1


def test_quality_falls_from_clean_to_noisy_to_clipped_or_silent() -> None:
    clean, noisy = attributes(SOUNDS["burst"])["quality"], attributes(SOUNDS["noise"])["quality"]
    clipped = attributes(SOUNDS["burst"], clipping=0.3)["quality"]
    silent = attributes(SOUNDS["silence"])["quality"]
    assert clean > 0.9 > noisy > clipped == silent == 0


def test_clicks_are_transient_and_noise_is_not() -> None:
    assert attributes(SOUNDS["clicks"])["transient_rate"] > 1
    assert attributes(SOUNDS["noise"])["transient_rate"] == pytest.approx(0, abs=0.1)
    assert attributes(SOUNDS["tone"])["transient_rate"] < 0


# Known answers, at the model's rate and after resampling to it -------------------------------------------------------

LONG_S = 1.2
RECORDED = [8_000, 16_000, 44_100, 96_000]


def recorded(rate: int, sound: Callable[[Floats], Floats]) -> dict[str, float]:
    """The attributes at the model's rate of a sound that was recorded at ``rate`` Hz."""
    samples = sound(np.arange(round(LONG_S * rate)) / rate)
    if rate != RATE:
        samples = soxr.resample(samples, rate, RATE)
    return attributes(samples[:CLIP], rate, float(np.mean(np.abs(samples) >= 1)))


def white(time: Floats, seed: int = 0) -> Floats:
    """Noise of mean power 1 in the 8 kHz that the model hears, or in as much of them as the recording has."""
    rate = (len(time) - 1) / time[-1]
    return np.random.default_rng(seed).standard_normal(len(time)) * max(rate / RATE, 1) ** 0.5


@pytest.mark.parametrize("rate", RECORDED)
@pytest.mark.parametrize("wanted", [0.0, 10.0, 20.0, 30.0])
def test_snr_is_that_of_a_tone_that_comes_and_goes_in_noise(rate: int, wanted: float) -> None:
    def sound(time: Floats) -> Floats:
        on = (time % 0.6) < 0.3
        return 0.01 * (white(time) + 2 * 10 ** (wanted / 20) * on * np.sin(2 * np.pi * 1_100 * time))

    assert wanted - 1 < recorded(rate, sound)["snr"] < wanted + 4


@pytest.mark.parametrize("rate", RECORDED)
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_flatness_of_a_stepped_spectrum(rate: int, share: float) -> None:
    """A share of the band at power 1 and the rest 20 dB lower: the means are known."""

    def sound(time: Floats) -> Floats:
        spectrum = np.fft.rfft(0.1 * white(time))
        frequency = np.fft.rfftfreq(len(time), time[1])
        return np.fft.irfft(spectrum * np.where(frequency < share * min(rate, RATE) / 2, 1, 0.1), len(time))

    wanted = 0.01 ** (1 - share) / (share + (1 - share) * 0.01)
    assert recorded(rate, sound)["flatness"] == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize("rate", RECORDED)
@pytest.mark.parametrize(("low", "high"), [(1_000, 3_000), (500, 2_000)])
def test_the_effective_band_is_that_of_the_recording(rate: int, low: float, high: float) -> None:
    def sound(time: Floats) -> Floats:
        spectrum, frequency = np.fft.rfft(0.1 * white(time)), np.fft.rfftfreq(len(time), time[1])
        return np.fft.irfft(np.where((frequency >= low) & (frequency <= high), spectrum, 0), len(time))

    found = recorded(rate, sound)
    assert found["fmin_eff"] == pytest.approx(low, abs=2 * RATE / 64)
    assert found["fmax_eff"] == pytest.approx(high, abs=2 * RATE / 64)


@pytest.mark.parametrize("rate", RECORDED)
def test_level_is_that_of_the_recording(rate: int) -> None:
    found = recorded(rate, lambda time: 0.2 * np.sin(2 * np.pi * 700 * time))
    assert found["level"] == pytest.approx(20 * np.log10(0.2 / 2**0.5), abs=0.1)


@pytest.mark.parametrize("rate", RECORDED)
def test_transient_rate_of_a_tone_and_of_noise(rate: int) -> None:
    """Kurtosis 1.5 and 3."""
    assert recorded(rate, lambda t: 0.2 * np.sin(2 * np.pi * 700 * t))["transient_rate"] == pytest.approx(
        np.log10(0.5), abs=0.02
    )
    assert recorded(rate, lambda t: 0.05 * white(t))["transient_rate"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("rate", RECORDED)
@pytest.mark.parametrize("every_s", [0.025, 0.1])
def test_transient_rate_of_a_click_train(rate: int, every_s: float) -> None:
    """Single samples, n apart, have the kurtosis n. Resampled they are sinc pulses, whose fourth power has 2/3 of the
    integral of their square; the distances vary a little, so that the pulses fall anywhere between two samples."""

    def sound(time: Floats) -> Floats:
        every = every_s * (1 + 0.2 * np.random.default_rng(0).uniform(-1, 1, round(LONG_S / every_s)))
        samples = np.zeros(len(time))
        samples[np.round(np.cumsum(every)[:-2] * rate).astype(int)] = 0.9
        return samples[: round(CLIP / RATE * rate)]

    pulse = 1.0 if rate == RATE else 2 / 3 * min(rate, RATE) / RATE
    wanted = np.log10(every_s * RATE * pulse / 3)
    assert recorded(rate, sound)["transient_rate"] == pytest.approx(wanted, abs=0.12)


@pytest.mark.parametrize("rate", RECORDED)
@pytest.mark.parametrize("gain", [1.2, 2.0])
def test_clipping_rate_is_that_of_the_native_samples_whatever_the_models_rate(
    rate: int, gain: float, tmp_path: Path
) -> None:
    """A sine of amplitude g is over full scale for 2/pi * acos(1/g) of the time."""
    time = np.arange(round(LONG_S * rate)) / rate
    path = write_wav(tmp_path / "a.wav", np.clip(gain * np.sin(2 * np.pi * 441.3 * time), -1, 1), rate)
    spec = AudioSpec(sample_rate=RATE, clip_samples=CLIP, frame_hop=160, window_hop=CLIP)
    window = next(iter(windows(read_blocks(path, RATE), spec, rate, name="a")))
    found = attributes(window.samples, *window.source)
    assert found["clipping_rate"] == pytest.approx(2 / np.pi * np.arccos(1 / gain), abs=0.01)
    assert measure(path).attributes["clipping_rate"] == pytest.approx(found["clipping_rate"], abs=0.01)


@settings(max_examples=40, deadline=None)
@given(
    first=st.sampled_from(sorted(SOUNDS)),
    second=st.sampled_from(sorted(SOUNDS)),
    place=st.floats(0.01, 0.99),
    native=st.sampled_from([4_000.0, 16_000.0]),
    clipping=st.floats(0, 0.3),
)
def test_a_small_change_of_the_clip_is_a_small_change_of_every_attribute(
    first: str, second: str, place: float, native: float, clipping: float
) -> None:
    """No threshold may flip anything: both sides of a change of 1e-5 lie within 0.1 % of an attribute's range."""

    def mixed(share: float) -> dict[str, float]:
        return attributes((1 - share) * SOUNDS[first] + share * SOUNDS[second], native, clipping + share * 1e-3)

    before, after = mixed(place), mixed(place + 1e-5)
    for name, size in RANGES.items():
        assert abs(after[name] - before[name]) < 1e-3 * size, name
