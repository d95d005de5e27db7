"""The signal attributes: what each one says of sounds whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES
from xaimoe_audio.spectrogram.frontend import Frontend

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
