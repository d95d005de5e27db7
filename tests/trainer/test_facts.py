"""From recordings to facts to a choice: sounds whose place is known, under noise that must not count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data import write_wav
from data.noises import COLOURS, coloured
from numpy.typing import NDArray

from xaimoe_audio.config import Overrides
from xaimoe_audio.policy import Facts, decide
from xaimoe_audio.profiling import profile_dataset

Floats = NDArray[np.float64]
Sound = Callable[[Floats, np.random.Generator], Floats]
"""Times in s -> samples."""


def facts_of(folder: Path, rate: int, seconds: float, sounds: dict[str, Sound], val_noise: float = 0.0) -> Facts:
    rng = np.random.default_rng(0)
    rows = ["filepath,split,label"]
    for label, sound in sounds.items():
        for i in range(8):
            split = "train" if i < 6 else "val"
            samples = sound(np.arange(round(seconds * rate)) / rate, rng)
            samples = samples + val_noise * (split == "val") * rng.standard_normal(len(samples))
            write_wav(folder / f"{label}{i}.wav", samples.astype(np.float32), rate, subtype="FLOAT")
            rows.append(f"{label}{i}.wav,{split},{label}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return Facts.of(profile_dataset(folder, folder / "metadata.csv", "single_label").profile, "accuracy")


def pulses(hz: float, every_s: float, share: float, level: float) -> Sound:
    """Tone pulses over white noise 40 dB under full scale."""

    def sound(time: Floats, rng: np.random.Generator) -> Floats:
        on = (time + rng.uniform(0, every_s)) % every_s < share * every_s
        tone = level * on * np.sin(2 * np.pi * hz * rng.uniform(0.97, 1.03) * time)
        return tone + 0.01 * rng.standard_normal(len(time))

    return sound


def under(noise: Sound, sound: Sound) -> Sound:
    return lambda time, rng: sound(time, rng) + noise(time, rng)


def wind(time: Floats, rng: np.random.Generator) -> Floats:
    """20 dB over the sounds, falling with the square of the frequency."""
    rough = np.cumsum(rng.standard_normal(len(time)))
    rough -= np.linspace(rough[0], rough[-1], len(rough))
    return 0.3 * rough / np.abs(rough).max()


def hum(time: Floats, rng: np.random.Generator) -> Floats:
    return 0.3 * np.sin(2 * np.pi * 50 * time) + 0.1 * np.sin(2 * np.pi * 150 * time)


def choice(facts: Facts, name: str) -> object:
    return decide(facts, Overrides()).made[name]


def test_bats_under_wind_keep_their_band(tmp_path: Path) -> None:
    sounds = {"low": under(wind, pulses(25e3, 0.1, 0.1, 0.1)), "high": under(wind, pulses(45e3, 0.1, 0.1, 0.1))}
    facts = facts_of(tmp_path, 192_000, 0.5, sounds)
    assert facts.centre > 15_000
    assert {name: choice(facts, name) for name in ("sample_rate", "spectrogram", "frame_s")} == {
        "sample_rate": 192_000,
        "spectrogram": "stft",
        "frame_s": 0.016,
    }


def test_whales_are_heard_from_20_hz_with_constant_q(tmp_path: Path) -> None:
    sounds = {"blue": pulses(60, 2.5, 0.5, 0.1), "fin": pulses(90, 2.5, 0.3, 0.1)}
    facts = facts_of(tmp_path, 4_000, 5.0, sounds)
    assert facts.centre < 150
    assert (choice(facts, "spectrogram"), choice(facts, "fmin")) == ("cqt", 20.0)


def test_a_hum_that_all_recordings_share_moves_nothing(tmp_path: Path) -> None:
    sounds = {"knock": under(hum, pulses(1_000, 0.5, 0.2, 0.05)), "beep": under(hum, pulses(2_000, 0.5, 0.2, 0.05))}
    facts = facts_of(tmp_path, 16_000, 2.0, sounds)
    assert facts.centres == pytest.approx({"knock": 1_000, "beep": 2_000}, rel=0.3)
    assert choice(facts, "spectrogram") == "logmel"


@pytest.mark.parametrize("seconds", [0.1, 1.0, 5.0])
def test_of_steady_sounds_the_power_counts(tmp_path: Path, seconds: float) -> None:
    facts = facts_of(tmp_path, 16_000, seconds, {"a": pulses(1_600, 1, 1, 0.2), "b": pulses(3_200, 1, 1, 0.2)})
    assert facts.centres == pytest.approx({"a": 1_600, "b": 3_200}, rel=0.15)


def test_a_noisier_validation_split_asks_for_a_gain_control(tmp_path: Path) -> None:
    sounds = {"knock": pulses(1_000, 0.5, 0.2, 0.1), "beep": pulses(2_000, 0.5, 0.2, 0.1)}
    assert choice(facts_of(tmp_path, 16_000, 2.0, sounds, val_noise=0.05), "spectrogram") == "logmel+pcen"
    assert choice(facts_of(tmp_path, 16_000, 2.0, sounds), "spectrogram") == "logmel"


@pytest.mark.parametrize("colour", COLOURS)
def test_a_gain_control_is_not_taken_where_steady_noise_of_any_spectrum_is_a_class(tmp_path: Path, colour: str) -> None:
    def steady(time: Floats, rng: np.random.Generator) -> Floats:
        return coloured(colour, len(time), 16_000, rng)

    calls: dict[str, Sound] = {f"call{hz}": under(steady, pulses(hz, 0.5, 0.1, 0.5)) for hz in (800, 1_600, 3_200)}
    facts = facts_of(tmp_path, 16_000, 2.0, calls, val_noise=0.15)
    assert facts.steadiest_snr > 0
    assert choice(facts, "spectrogram") == "logmel+pcen"
    facts = facts_of(tmp_path, 16_000, 2.0, calls | {"steady": steady}, val_noise=0.15)
    assert facts.val_snr < facts.snr - 6
    assert -9 < facts.steadiest_snr < -3
    assert choice(facts, "spectrogram") == "logmel"


def test_only_the_training_split_says_what_is_steady(tmp_path: Path) -> None:
    """A class that is drowned by noise in validation alone is not a steady one."""
    sounds = {"knock": pulses(1_000, 0.5, 0.2, 0.1), "beep": pulses(2_000, 0.5, 0.2, 0.1)}
    assert facts_of(tmp_path, 16_000, 2.0, sounds, val_noise=0.3).steadiest_snr > 5


def test_a_dataset_in_which_nothing_is_heard_has_facts_and_a_policy(tmp_path: Path) -> None:
    facts = facts_of(tmp_path, 16_000, 1.0, {"a": lambda time, rng: 0 * time, "b": lambda time, rng: 0 * time})
    assert (facts.centre, facts.centres) == (1_000.0, {})
    assert choice(facts, "spectrogram") == "logmel"


@pytest.mark.parametrize(("rate", "seconds"), [(48_000, 0.5), (96_000, 5.0), (192_000, 2.0)])
def test_steady_tones_high_in_the_band_are_not_mistaken_for_chance_low_in_it(
    tmp_path: Path, rate: int, seconds: float
) -> None:
    sounds = {"a": pulses(0.2 * rate, 1, 1, 0.2), "b": pulses(0.3 * rate, 1, 1, 0.2)}
    facts = facts_of(tmp_path, rate, seconds, sounds)
    assert facts.centres == pytest.approx({"a": 0.2 * rate, "b": 0.3 * rate}, rel=0.15)
    assert decide(facts, Overrides()).made["fmax"] > 0.3 * rate
