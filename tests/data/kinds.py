"""Sounds of one kind each, made for one family of experts; two classes a kind, so that there is something to learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from data import write_wav

Samples = NDArray[np.float64]
RATE = 16_000
DURATION_S = 1.0
TIME = np.arange(int(RATE * DURATION_S)) / RATE


def band_noise(rng: np.random.Generator, low: float, high: float) -> Samples:
    """Noise between two frequencies in Hz, of unit power."""
    sections = butter(6, (low, high), "bandpass", fs=RATE, output="sos")
    noise = sosfilt(sections, rng.standard_normal(len(TIME) + 2_000))[2_000:]
    return np.asarray(noise / noise.std())


def broadband(rng: np.random.Generator, variant: int) -> Samples:
    """Noise over the whole band, falling or rising with frequency, slowly swelling."""
    noise = np.fft.rfft(rng.standard_normal(len(TIME)))
    slope = 10 ** ((-4, 4)[variant] * np.linspace(0, 1, len(noise)) / 20)
    swell = 1 + 0.3 * np.sin(2 * np.pi * (2 * TIME + rng.random()))
    return np.asarray(np.fft.irfft(noise * slope, n=len(TIME)) * swell)


def low(rng: np.random.Generator, variant: int) -> Samples:
    """Rumble."""
    return band_noise(rng, *((70, 250), (300, 600))[variant])


def high_noise(rng: np.random.Generator, variant: int) -> Samples:
    """Hiss."""
    return band_noise(rng, *((4_000, 5_200), (5_800, 7_600))[variant])


def clicks(rng: np.random.Generator, variant: int) -> Samples:
    """Clicks, few or many, at random times."""
    samples = np.zeros(len(TIME))
    for place in rng.choice(len(TIME) - 100, (6, 16)[variant], replace=False):
        samples[place : place + 40] += 8 * rng.standard_normal(40) * np.exp(-np.arange(40) / 10)
    return samples


def harmonics(rng: np.random.Generator, variant: int) -> Samples:
    """A voice: partials of a pitch that moves."""
    pitch = (180, 300)[variant] * (1 + 0.04 * np.sin(2 * np.pi * (4 * TIME + rng.random())))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return np.asarray(sum(np.sin(n * phase) / n**0.5 for n in range(1, 20)))


def lines(rng: np.random.Generator, variant: int) -> Samples:
    """An engine: steady lines without a common pitch, in one of two spacings."""
    spacing = (1.17, 1.31)[variant]
    frequencies = 400 * spacing ** np.arange(9) * rng.uniform(0.98, 1.02)
    return np.asarray(sum(np.sin(2 * np.pi * (hz * TIME + rng.random())) for hz in frequencies if hz < RATE / 2))


def middle(rng: np.random.Generator, variant: int) -> Samples:
    """Something between 900 and 2600 Hz."""
    return band_noise(rng, *((900, 1_300), (1_700, 2_500))[variant])


def high_chirps(rng: np.random.Generator, variant: int) -> Samples:
    """Bird-like sweeps between 4 and 7.5 kHz, up or down."""
    sweep = (5 * TIME + rng.random()) % 1
    sweep = 1 - sweep if variant else sweep
    return np.asarray(np.sin(2 * np.pi * np.cumsum(4_000 + 3_500 * sweep) / RATE))


KINDS: dict[str, Callable[[np.random.Generator, int], Samples]] = {
    "NoiseRobust_Broadband": broadband,
    "NoiseRobust_LowFreq": low,
    "NoiseRobust_HighFreq": high_noise,
    "TransientExpert": clicks,
    "HarmonicExpert": harmonics,
    "FineFreqExpert": lines,
    "MidbandGeneral": middle,
    "HighbandGeneral": high_chirps,
}
"""By the family that each is made for."""


def write_kinds(folder: Path, clips_per_class: int, seed: int = 0) -> Path:
    """A dataset of all kinds, its labels ``family variant``; each sound over noise 20 to 30 dB under it."""
    rng = np.random.default_rng(seed)
    rows = ["filepath,split,label"]
    for family, make in KINDS.items():
        for variant in (0, 1):
            for i in range(clips_per_class):
                sound = make(rng, variant)
                sound = sound / sound.std() + 10 ** (-rng.uniform(20, 30) / 20) * rng.standard_normal(len(sound))
                name = f"{family}-{variant}-{i}.wav"
                write_wav(folder / name, as_samples(sound), RATE)
                split = "val" if i % 5 == 3 else "test" if i % 5 == 4 else "train"
                rows.append(f"{name},{split},{family} {variant}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def noise_alone(seed: int) -> Samples:
    """White noise."""
    return np.random.default_rng(seed).standard_normal(len(TIME))


def one_tone(seed: int) -> Samples:
    """A steady tone over noise 25 dB under it."""
    rng = np.random.default_rng(seed)
    tone = np.sqrt(2) * np.sin(2 * np.pi * rng.uniform(300, 3_000) * TIME)
    return np.asarray(tone + 10 ** (-25 / 20) * rng.standard_normal(len(TIME)))


def busy_scene(seed: int) -> Samples:
    """Clicks, a voice, rumble, chirps and an engine, one after the other and overlapping, over the same noise."""
    rng = np.random.default_rng(seed)
    families = ("TransientExpert", "HarmonicExpert", "NoiseRobust_LowFreq", "HighbandGeneral", "FineFreqExpert")
    scene = 10 ** (-25 / 20) * rng.standard_normal(len(TIME))
    for i, family in enumerate(families):
        sound = KINDS[family](rng, int(rng.integers(2)))
        centre, width = (i + 0.5) / len(families), 1 / len(families)
        scene += sound / sound.std() * np.exp(-0.5 * ((TIME / DURATION_S - centre) / (width / 2)) ** 2)
    return scene


def as_samples(sound: Samples) -> NDArray[np.float32]:
    """A sound at a usual level, -26 dB re full scale."""
    return (0.05 * sound / sound.std()).astype(np.float32)
