"""The signal attributes: what each one says of sounds whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
from data import noise, write_wav
from data.configs import frontend_config
from data.noises import COLOURS, coloured
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xaimoe_audio.config import ATTRIBUTES_VERSION, FrontendConfig
from xaimoe_audio.profiling.measure import measure
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES, INDEX, NOISE_BLOCK, quiet_power
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
        attributes_version=ATTRIBUTES_VERSION,
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
    assert attributes(SOUNDS["burst"])["snr"] > white + 20
    assert attributes(SOUNDS["tone"])["snr"] < white  # what never changes is taken for noise


def test_snr_grows_with_the_tone() -> None:
    found = [attributes(gain * burst() + noise(CLIP, level=0.05))["snr"] for gain in (0.0, 0.3, 1.0, 3.0)]
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

    assert wanted - 3 < recorded(rate, sound)["snr"] < wanted + 4


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


# A constant offset of the recorder -----------------------------------------------------------------------------------

OFFSETS = [0.7, -5.0, 31.0]
"""In standard deviations, as in recordings of hydrophones."""


@pytest.mark.parametrize("deviations", OFFSETS)
@pytest.mark.parametrize("name", ["noise", "burst", "clicks", "low band"])
def test_a_constant_offset_changes_no_attribute(name: str, deviations: float) -> None:
    sound = 0.03 * SOUNDS[name] / np.std(SOUNDS[name])
    plain, offset = attributes(sound), attributes(sound + deviations * 0.03)
    for attribute, size in RANGES.items():
        assert offset[attribute] == pytest.approx(plain[attribute], abs=1e-3 * size), attribute


def test_a_drift_of_the_offset_changes_neither_level_nor_transient_rate() -> None:
    sound = noise(CLIP, level=0.01)
    plain, drifting = attributes(sound), attributes(sound + 0.2 * np.sin(2 * np.pi * 0.8 * TIME))
    assert drifting["level"] == pytest.approx(plain["level"], abs=0.2)
    assert drifting["transient_rate"] == pytest.approx(plain["transient_rate"], abs=0.02)


@pytest.mark.parametrize("offset", [1e-3, 0.5, 0.9, -1.0])
def test_a_dead_channel_with_an_offset_is_silent(offset: float) -> None:
    dead, silent = attributes(np.full(CLIP, offset)), attributes(SOUNDS["silence"])
    assert dead == silent
    assert (dead["level"], dead["quality"]) == (-120.0, 0.0)


def test_moments_are_about_the_mean_and_not_about_zero() -> None:
    """A square wave has the kurtosis 1 about its mean, wherever that is."""
    square = 0.1 * np.sign(np.sin(2 * np.pi * 437 * TIME)) + 0.4
    found = attributes(square)
    assert found["level"] == pytest.approx(-20.0, abs=0.05)
    assert found["transient_rate"] == pytest.approx(np.log10(1 / 3), abs=0.01)


# Steady noise of any spectrum ----------------------------------------------------------------------------------------


LONG = frontend_config(frames=250)
"""For clips of 5 s: in 1 s the lowest frequencies have not come round often enough to be steady."""
LONG_TIME = np.arange(LONG.clip_samples) / RATE


def of_long(samples: Floats) -> dict[str, float]:
    _, found = Frontend(LONG)(torch.from_numpy(samples.astype(np.float32))[None], torch.tensor([[RATE, 0.0]]))
    return dict(zip((name for name, _ in ATTRIBUTES), found[0].tolist(), strict=True))


def noise_of(colour: str, seed: int) -> Floats:
    """Noise of 5 s with a deviation of 0.03."""
    return coloured(colour, LONG.clip_samples, RATE, np.random.default_rng(seed))


@pytest.mark.parametrize("colour", COLOURS)
def test_steady_noise_of_any_spectrum_has_a_low_snr_and_a_low_quality(colour: str) -> None:
    """The quietest quarter has most of the power: what is over it is 4 to 7 dB lower. It is half trusted."""
    found = [of_long(noise_of(colour, seed)) for seed in range(12)]
    assert -7 < np.mean([one["snr"] for one in found]) < -4
    assert 0.3 < np.mean([one["quality"] for one in found]) < 0.6


@pytest.mark.parametrize("colour", COLOURS)
def test_a_burst_stands_out_of_noise_of_any_spectrum(colour: str) -> None:
    """In a fifth of the clip, four times the noise's power: as much sound as noise."""
    bursts = 0.03 * 8**0.5 * np.sin(2 * np.pi * 1_000 * LONG_TIME) * (LONG_TIME % 1 < 0.2)
    found = [of_long(noise_of(colour, seed) + bursts) for seed in range(4)]
    assert -2 < np.mean([one["snr"] for one in found]) < 3
    assert np.mean([one["quality"] for one in found]) > 0.8


def test_a_steady_hum_is_no_worse_than_steady_noise() -> None:
    hum = attributes(SOUNDS["tone"])
    assert hum["snr"] < -9
    assert hum["quality"] == pytest.approx(1 / (1 + np.exp(1.5 / 2.2)), abs=1e-4)


def test_the_quality_is_a_half_at_5_db_less_sound_than_noise() -> None:
    for gain in (0.01, 0.02, 0.04, 0.08):
        found = attributes(noise(CLIP, level=0.02) + gain * burst())
        assert found["quality"] == pytest.approx(1 / (1 + np.exp(-(max(found["snr"], -6.5) + 5) / 2.2)), abs=1e-4)


def test_the_floor_is_the_mean_of_the_quietest_quarter_of_blocks() -> None:
    power = torch.arange(1.0, 9.0).repeat_interleave(NOISE_BLOCK)[None, None]
    assert quiet_power(power).item() == pytest.approx(1.5)
    assert quiet_power(power.flip(2)).item() == pytest.approx(1.5)


def test_gain_raises_the_level_by_as_many_decibels_and_nothing_else() -> None:
    soft, loud = attributes(0.1 * SOUNDS["burst"]), attributes(SOUNDS["burst"])
    assert loud.pop("level") - soft.pop("level") == pytest.approx(20.0, abs=0.01)
    assert loud == pytest.approx(soft, abs=1e-3)


# The first definition, of checkpoints written before there was another -----------------------------------------------


def test_models_of_version_1_keep_their_definition() -> None:
    """The values are those of the release that had no other: red noise with an offset of 0.2."""
    config = frontend_config(attributes_version=1)
    red = np.cumsum(np.random.default_rng(0).standard_normal(config.clip_samples))
    red -= np.linspace(red[0], red[-1], len(red))
    waveform = torch.from_numpy((0.05 * red / red.std()).astype(np.float32) + np.float32(0.2))[None]
    spectrogram, found = Frontend(config)(waveform, torch.tensor([[16_000.0, 0.0]]))
    expected = [17.13295, 0.02246, -0.39238, 0.0, 0.0, 8_000.0, -13.66383, 0.97162]
    assert found[0].tolist() == pytest.approx(expected, rel=1e-3)
    assert float(spectrogram.double().sum()) == pytest.approx(-9229.734, rel=1e-4)
    now = Frontend(frontend_config())(waveform, torch.tensor([[16_000.0, 0.0]]))[1][0]
    assert now[INDEX["snr"]] < 0 and now[INDEX["quality"]] < 0.5


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
