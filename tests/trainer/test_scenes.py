"""Sonar scenes: seeded, physically plausible, and without a shortcut from the recording conditions to the label."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from xaimoe_audio.scenes import CLASSES, SAMPLE_RATES, SNR_DB, make_scene, write_dataset
from xaimoe_runtime import ConfigError


def sound(label: str, seed: int, rate: int = 16_000, duration_s: float = 3.0) -> NDArray[np.float64]:
    return make_scene(label, np.random.default_rng(seed), duration_s, rate).samples.astype(float)


def kurtosis(x: NDArray[np.float64]) -> float:
    return float(np.mean(x**4) / np.mean(x**2) ** 2)


def spectrum(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power in each of 1024 bins, averaged over the clip."""
    frames = np.lib.stride_tricks.sliding_window_view(x, 2048)[::1024] * np.hanning(2048)
    return np.asarray((np.abs(np.fft.rfft(frames)) ** 2).mean(0))


@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("rate", SAMPLE_RATES)
def test_every_class_exists_at_every_rate(label: str, rate: int) -> None:
    scene = make_scene(label, np.random.default_rng(1), 1.0, rate)
    assert scene.samples.dtype == np.float32
    assert scene.samples.shape == (rate,)
    assert np.isfinite(scene.samples).all()
    assert 1e-3 < np.abs(scene.samples).max() <= 1.0


def test_one_seed_gives_one_scene() -> None:
    assert np.array_equal(sound("ship", 5), sound("ship", 5))
    assert not np.array_equal(sound("ship", 5), sound("ship", 6))


@pytest.mark.parametrize("seed", range(5))
def test_rate_and_signal_to_noise_ratio_say_nothing_of_the_class(seed: int) -> None:
    scenes = [make_scene(label, np.random.default_rng(seed), 0.2) for label in CLASSES]
    assert len({scene.sample_rate for scene in scenes}) == 1
    ratios = {scene.snr_db for scene in scenes if scene.label != "ambient"}
    assert len(ratios) == 1
    assert SNR_DB[0] <= ratios.pop() <= SNR_DB[1]


def test_clicks_are_more_impulsive_than_rain() -> None:
    clicks = np.median([kurtosis(sound("click_train", seed)) for seed in range(15)])
    rain = np.median([kurtosis(sound("rain", seed)) for seed in range(15)])
    assert clicks > 2 * rain


def test_pings_are_narrower_than_the_sea() -> None:
    def peakedness(label: str) -> float:
        """Best bin against its surroundings, so that the slope of sea noise does not count."""
        found = []
        for seed in range(15):
            power = np.log(spectrum(sound(label, seed))[8:])
            found.append((power - np.convolve(power, np.ones(65) / 65, "same"))[40:-40].max())
        return float(np.median(found))

    assert peakedness("ping") > peakedness("ambient") + 0.5


def test_a_ship_is_modulated_by_its_blades() -> None:
    def modulation(label: str) -> float:
        """Strongest line of the envelope between 2 and 30 Hz, against the median line."""
        found = []
        for seed in range(15):
            envelope = np.square(sound(label, seed)).reshape(-1, 80).mean(1)  # 200 Hz
            lines = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(envelope))))[6:90]
            found.append(lines.max() / np.median(lines))
        return float(np.median(found))

    assert modulation("ship") > 1.3 * modulation("ambient")


def test_sea_noise_falls_with_frequency() -> None:
    power = spectrum(sound("ambient", 3))
    assert power[20:60].mean() > 2 * power[400:900].mean()


def test_dataset_has_a_table_and_decodable_files(tmp_path: Path) -> None:
    calls: list[int] = []
    table = write_dataset(tmp_path, clips_per_class=5, duration_s=0.2, seed=1, advance=lambda: calls.append(1))
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(calls) == 5 * len(CLASSES)
    assert Counter(row["split"] for row in rows) == {"train": 24, "val": 8, "test": 8}
    assert len({row["group"] for row in rows}) == len(rows)
    assert {soundfile.info(tmp_path / row["filepath"]).samplerate for row in rows} <= set(SAMPLE_RATES)


def test_a_larger_dataset_starts_with_the_smaller_one(tmp_path: Path) -> None:
    for name, clips in (("small", 3), ("large", 5)):
        write_dataset(tmp_path / name, clips_per_class=clips, duration_s=0.1, seed=4)
    for path in (tmp_path / "small" / "audio").iterdir():
        assert path.read_bytes() == (tmp_path / "large" / "audio" / path.name).read_bytes()


def test_a_table_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"metadata\.csv: exists already"):
        write_dataset(tmp_path, clips_per_class=3, duration_s=0.1)
    assert (tmp_path / "metadata.csv").read_text() == "mine"


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="submarine"):
        make_scene("submarine", rng)
    with pytest.raises(ConfigError, match="duration is 0 s"):
        make_scene("ship", rng, 0)
    with pytest.raises(ConfigError, match="expected at least 3"):
        write_dataset(tmp_path, clips_per_class=2)
