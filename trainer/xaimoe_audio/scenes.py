"""Sonar scenes made from a seed: labelled underwater sound for the demo and the tests, without a single recording.

A scene is one source, heard through the sea, in ambient noise. Time runs in seconds, frequency in Hz; a sound is
``[n]`` float64 at ``rate`` Hz and of any scale until the scene sets it. Filters work on the whole clip by FFT and so
wrap around: an echo that leaves at the end enters at the start, as if the source had been there before the clip began.

The source is scaled to a drawn signal-to-noise ratio, 0…25 dB: its power over its active time against the power of
the noise, both in the octave where the source stands out most. Clicks, pings and whistles are thus as audible as
steady sounds, at any rate. Rate, ratio and level are drawn alike for all classes, so none of them gives the label
away; some scenes are hard.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.writing import replacing

Floats = NDArray[np.floating[Any]]
Rng = np.random.Generator

SAMPLE_RATES: tuple[int, ...] = (8000, 16000, 22050, 32000, 44100, 48000)
"""Rates that scenes are drawn at, in Hz."""
DURATION_S = (0.1, 60.0)
SNR_DB = (0.0, 25.0)
LEVEL_DBFS = (-45.0, -20.0)
"""RMS of the whole scene; a scene with tall peaks stays lower, under ``PEAK``."""
PEAK = 0.99
BAND = 0.45
"""Highest frequency of a whistle, click or ping, as a share of the rate."""
SOUND_SPEED = 1500.0
"""In m/s."""
HYDROPHONE_HZ = 20.0
"""Below this the receiver hears less and less; it also hides the flow noise that rules there."""
BLOCK_S = 0.02
"""Activity is judged in blocks this long, about what an ear or a spectrogram resolves."""


@dataclass(frozen=True)
class Scene:
    """One channel of underwater sound, and what is known about it."""

    samples: NDArray[np.float32]
    """[n], within -1…1."""
    sample_rate: int
    """In Hz."""
    label: str
    snr_db: float
    """In the source's best octave and active time; -inf for ``ambient``, which has no source."""
    distance_m: float
    """From source to receiver, horizontally; inf for ``ambient``."""


# Building blocks -----------------------------------------------------------------------------------------------------


def _log_uniform(rng: Rng, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _unit(sound: Floats) -> Floats:
    """The sound at an RMS of 1."""
    return np.asarray(sound / np.sqrt(np.mean(sound**2)))


def _filtered(sound: Floats, rate: int, gain: Callable[[Floats], Floats]) -> Floats:
    """The sound with its spectrum multiplied by ``gain`` of the frequency in Hz."""
    return np.fft.irfft(np.fft.rfft(sound) * gain(np.fft.rfftfreq(len(sound), 1 / rate)), len(sound))


def _highpass(frequency: Floats, corner_hz: float) -> Floats:
    """Amplitude gain that rises by 12 dB an octave up to the corner."""
    return frequency**2 / (frequency**2 + corner_hz**2)


def _hump(frequency: Floats, centre_hz: float, width_hz: float) -> Floats:
    """Gaussian amplitude gain; ``width_hz`` is its standard deviation."""
    return np.asarray(np.exp(-0.5 * ((frequency - centre_hz) / width_hz) ** 2))


def _impulses(times_s: Floats, heights: Floats, rate: int, n: int) -> Floats:
    """A sound of single samples, which a filter turns into clicks."""
    return np.asarray(np.bincount((times_s * rate).astype(int) % n, heights, n), np.float64)


def _poisson_impulses(per_second: float, spread: float, rate: int, n: int, rng: Rng) -> Floats:
    """Impulses at independent times, at least one; heights are log-normal of ``spread``, signs random."""
    count = max(rng.poisson(per_second * n / rate), 1)
    heights = rng.choice([-1.0, 1.0], count) * rng.lognormal(0, spread, count)
    return _impulses(rng.uniform(0, n / rate, count), heights, rate, n)


def _rotation(hz: float, rate: int, n: int, rng: Rng) -> Floats:
    """Phase in radians, [n], of a shaft whose speed wanders by one per cent."""
    wander = np.sin(2 * np.pi * (rng.uniform(0.1, 0.5) * np.arange(n) / rate + rng.random()))
    return 2 * np.pi * np.cumsum(hz * (1 + 0.01 * wander)) / rate


def _harmonics(phase: Floats, heights: Floats, rng: Rng) -> Floats:
    """Sum of the orders 1, 2… of a rotation, each of its height and of a random phase."""
    orders = heights * np.exp(2j * np.pi * rng.random(len(heights)))
    # A polynomial in exp(i phase): one exponential serves all orders.
    return np.real(np.polyval(np.append(orders[::-1], 0), np.exp(1j * phase)))


# Sources: each gives a sound [n] of any scale, as it would be close by -----------------------------------------------


def _vessel(
    shaft_hz: float, cavitation_hz: float, engine_hz: float, lines: float, rate: int, n: int, rng: Rng
) -> Floats:
    """Propeller cavitation that swells with every passing blade, and the lines of an engine (D. Ross, Mechanics of
    Underwater Noise, 1976). The noise density peaks at ``cavitation_hz`` and falls by 6 dB an octave above it.
    """
    blades = int(rng.integers(3, 6))
    # Blades are never quite alike, so the shaft itself is heard too.
    orders = np.where(np.arange(1, 2 * blades + 1) % blades, 0.15, 1.0)
    orders[-1] = 0.4
    swell = _harmonics(_rotation(shaft_hz, rate, n, rng), orders, rng)
    envelope = np.maximum(1 + rng.uniform(0.5, 1.0) * swell, 0.05)
    hiss = _filtered(rng.standard_normal(n), rate, lambda f: f * cavitation_hz / (f**2 + cavitation_hz**2))
    heights = rng.uniform(0.3, 1.0, 16) / np.arange(1, 17) ** 0.7
    return _unit(envelope * hiss) + lines * _unit(_harmonics(_rotation(engine_hz, rate, n, rng), heights, rng))


def ship(rate: int, n: int, rng: Rng) -> Floats:
    """A merchant ship: 70…150 turns a minute, low-pitched cavitation, strong lines of a slow diesel."""
    shaft_hz, lines = rng.uniform(1.2, 2.5), rng.uniform(0.4, 1.0)
    return _vessel(shaft_hz, _log_uniform(rng, 100, 400), rng.uniform(12, 30), lines, rate, n, rng)


def fast_boat(rate: int, n: int, rng: Rng) -> Floats:
    """A speedboat: the propeller turns 20…45 times a second, the engine twice as fast; it hisses."""
    shaft_hz, lines = rng.uniform(20, 45), rng.uniform(0.3, 0.8)
    return _vessel(shaft_hz, _log_uniform(rng, 800, 2500), 2 * shaft_hz, lines, rate, n, rng)


def whistles(rate: int, n: int, rng: Rng) -> Floats:
    """Dolphins: tones of 0.3…1.2 s that sweep by a third to over one octave, some with an overtone."""
    sound, top = np.zeros(n), min(BAND * rate, 16000.0)
    for _ in range(1 + rng.poisson(1.2 * n / rate)):
        length = min(int(rng.uniform(0.3, 1.2) * rate), n)
        start = int(rng.integers(0, n - length + 1))
        high = _log_uniform(rng, 2000, top)
        low = high / 2 ** rng.uniform(0.3, 1.2)
        # A piece of a sine is a rise, a fall, an arch or a wave, which are the contours dolphins use.
        turn = np.linspace(0, rng.uniform(0.25, 2.5), length) + rng.random()
        phase = 2 * np.pi * np.cumsum(low * (high / low) ** (0.5 + 0.5 * np.sin(2 * np.pi * turn))) / rate
        overtone = rng.uniform(0.1, 0.4) if 2 * high < BAND * rate else 0.0
        fade = np.sqrt(np.sin(np.pi * (np.arange(length) + 0.5) / length))
        sound[start : start + length] += rng.uniform(0.5, 1.0) * fade * _harmonics(phase, np.array([1, overtone]), rng)
    return sound


def click_train(rate: int, n: int, rng: Rng) -> Floats:
    """Echolocation: equal clicks 30…200 ms apart, an interval that drifts; loudness follows the turning head.

    The clicks are pitched as those of sperm whales, which is what fits under all rates.
    """
    duration, interval = n / rate, _log_uniform(rng, 0.03, 0.2)
    count = 2 + int(2 * duration / interval)  # more than can fit at the shortest interval
    drift = np.sin(2 * np.pi * (np.arange(count) * interval * rng.uniform(0.1, 0.4) + rng.random()))
    gaps = interval * 2 ** (0.6 * drift) * rng.normal(1, 0.02, count)
    times = rng.uniform(0, min(interval, duration)) + np.append(0, np.cumsum(gaps[1:]))
    times = times[times < duration]
    head_db = 6 * np.sin(2 * np.pi * (times * rng.uniform(0.1, 0.5) + rng.random()))
    centre = _log_uniform(rng, 1800, min(BAND * rate, 12000) / 1.2)
    width = centre * rng.uniform(0.15, 0.3)
    return _filtered(_impulses(times, 10 ** (head_db / 20), rate, n), rate, lambda f: _hump(f, centre, width))


def snapping_shrimp(rate: int, n: int, rng: Rng) -> Floats:
    """A bed of shrimp: 60…600 snaps a second, few near and many far, each the collapse of a bubble.

    M. Versluis, B. Schmitz, A. von der Heydt and D. Lohse, How snapping shrimp snap: through cavitating bubbles, 2000.
    """
    snaps = _poisson_impulses(_log_uniform(rng, 60, 600), 1.2, rate, n, rng)
    corner = rng.uniform(1500, 2500)
    return _filtered(snaps, rate, lambda f: _highpass(f, corner) / np.sqrt(1 + (f / 5000) ** 2))


def rain(rate: int, n: int, rng: Rng) -> Floats:
    """Rain on the surface: the even hiss of splashes, and fine drops whose bubbles ring in a hump.

    Drizzle rings at about 14 kHz (J. A. Nystuen, Rainfall measurements using underwater ambient noise, 1986); where
    the rate ends below that, larger drops ring lower.
    """
    corner, ring = rng.uniform(600, 1500), rng.uniform(0.85, 1.1) * min(14500.0, 0.38 * rate)
    splashes = _filtered(rng.standard_normal(n), rate, lambda f: _highpass(f, corner))
    drops = _poisson_impulses(_log_uniform(rng, 1000, 4000), 0.5, rate, n, rng)
    bubbles = _filtered(drops, rate, lambda f: _hump(f, ring, 0.15 * ring))
    return _unit(splashes) + rng.uniform(0.4, 1.0) * _unit(bubbles)


def ping(rate: int, n: int, rng: Rng) -> Floats:
    """Active sonar: a tone (CW) or a linear sweep (LFM) every 0.7…2 s, each trailing reverberation that dies away."""
    duration, interval = n / rate, rng.uniform(0.7, 2.0)
    time = np.arange(int(min(rng.uniform(0.05, 0.4), duration / 2) * rate)) / rate
    centre = _log_uniform(rng, 900, min(BAND * rate, 10000) / 1.15)
    sweep = centre * (rng.choice([-1, 1]) * rng.uniform(0.05, 0.3) if rng.random() < 0.5 else 0.0)
    phase = 2 * np.pi * np.cumsum(centre + sweep * (time / time[-1] - 0.5)) / rate
    pulse = np.sin(phase) * np.hanning(len(time)) ** 0.25  # a fast attack, but no click
    starts = np.arange(rng.uniform(0, min(interval, duration - time[-1])), duration, interval)
    # Scatterers answer from ever farther away: the pulse is convolved with noise that fades.
    answer = rng.standard_normal(n) * np.exp(-np.arange(n) / (rng.uniform(0.1, 0.4) * rate))
    answer *= 10 ** (rng.uniform(-18, -6) / 20) / np.sqrt(np.sum(answer**2))
    answer[0] += 1
    train = _impulses(starts, np.ones(len(starts)), rate, n)
    return np.fft.irfft(np.fft.rfft(train) * np.fft.rfft(pulse, n) * np.fft.rfft(answer), n)


def ambient(rate: int, n: int, rng: Rng) -> Floats:
    """No source at all: sea noise alone."""
    return np.zeros(n)


@dataclass(frozen=True)
class Source:
    """A kind of sound and where it is met; ranges are (least, most)."""

    sound: Callable[[int, int, Rng], Floats]
    distance_m: tuple[float, float]
    depth_m: tuple[float, float]


SOURCES: dict[str, Source] = {
    "ambient": Source(ambient, (np.inf, np.inf), (0, 0)),
    "click_train": Source(click_train, (50, 2000), (5, 50)),
    "fast_boat": Source(fast_boat, (50, 3000), (0.5, 2)),
    "ping": Source(ping, (200, 8000), (5, 50)),
    "rain": Source(rain, (20, 100), (0, 0)),  # at the surface, so its mirror image makes no comb of notches
    "ship": Source(ship, (200, 8000), (3, 9)),
    "snapping_shrimp": Source(snapping_shrimp, (20, 500), (5, 50)),
    "whistles": Source(whistles, (50, 3000), (1, 30)),
}
CLASSES: tuple[str, ...] = tuple(sorted(SOURCES))


# The sea -------------------------------------------------------------------------------------------------------------


def absorption_db_per_km(frequency: Floats) -> Floats:
    """What sea water takes from sound of ``frequency`` Hz.

    W. H. Thorp, Analytic description of the low-frequency attenuation coefficient, 1967; in the form of F. B. Jensen,
    W. A. Kuperman, M. B. Porter and H. Schmidt, Computational Ocean Acoustics, 1994.
    """
    square = (frequency / 1000) ** 2
    return 3.3e-3 + 0.11 * square / (1 + square) + 44 * square / (4100 + square) + 3e-4 * square


def ambient_density(frequency: Floats, shipping: float, wind: float) -> Floats:
    """Power density of sea noise; ``shipping`` 0…1 is distant traffic, ``wind`` is in m/s, frequency in Hz.

    G. M. Wenz, Acoustic ambient noise in the ocean: spectra and sources, 1962; curves fitted by R. Coates,
    Underwater Acoustic Systems, 1990. Turbulence lies under the band of the receiver, and thermal noise above all
    rates used here.
    """
    khz = np.maximum(frequency, 1.0) / 1000
    traffic = 40 + 20 * (shipping - 0.5) + 26 * np.log10(khz) - 60 * np.log10(khz + 0.03)
    surface = 50 + 7.5 * np.sqrt(wind) + 20 * np.log10(khz) - 40 * np.log10(khz + 0.4)
    return np.asarray(10 ** (traffic / 10) + 10 ** (surface / 10))


def channel(frequency: Floats, distance_m: float, depth_m: float, rng: Rng) -> NDArray[np.complex128]:
    """Response of a shallow sea, [F]: the direct path and four echoes, with spherical spreading and absorption.

    Mirror images of the source stand for the echoes; the surface inverts, and interferes with the direct path as a
    Lloyd mirror (R. J. Urick, Principles of Underwater Sound, 1983).
    """
    bottom_m = rng.uniform(80, 200)
    receiver_m = rng.uniform(10, bottom_m - 10)
    # A rough surface and a soft bottom return only part.
    surface, bottom = -rng.uniform(0.5, 0.95), rng.uniform(0.2, 0.6)
    strength = np.array([1, surface, bottom, surface * bottom, surface * bottom])
    image_m = np.array([depth_m, -depth_m, 2 * bottom_m - depth_m, 2 * bottom_m + depth_m, depth_m - 2 * bottom_m])
    length = np.hypot(distance_m, image_m - receiver_m)[:, None]
    late = (length - length[0]) / SOUND_SPEED
    decay = np.log(10) / 20 * absorption_db_per_km(frequency) * length / 1000
    paths = strength[:, None] / length * np.exp(-decay - 2j * np.pi * frequency * late)
    return np.asarray(paths.sum(0))


def signal_to_noise(source: Floats, noise_power: Floats, rate: int) -> float:
    """Power ratio in the octave where the source stands out most, over its active time.

    ``noise_power`` [n // 2 + 1] is the expected square of each line of the noise's spectrum.
    """
    frequency = np.fft.rfftfreq(len(source), 1 / rate)
    octaves = np.searchsorted(frequency, rate / 2 ** np.arange(int(np.log2(rate / 60)), 1, -1))
    octaves[0] = 0
    ratio = np.add.reduceat(np.abs(np.fft.rfft(source)) ** 2, octaves) / np.add.reduceat(noise_power, octaves)
    energy = np.add.reduceat(source**2, np.arange(0, len(source), int(BLOCK_S * rate)))
    active = energy.sum() ** 2 / (energy**2).sum() / len(energy)  # 1 if steady, 1/k if all falls into one block of k
    return float(ratio.max() / active)


# Scenes and datasets -------------------------------------------------------------------------------------------------


def _check_duration(duration_s: float) -> None:
    if not DURATION_S[0] <= duration_s <= DURATION_S[1]:
        raise ConfigError(f"duration is {duration_s:g} s, expected {DURATION_S[0]:g}…{DURATION_S[1]:g} s")


def make_scene(label: str, rng: Rng, duration_s: float = 3.0, sample_rate: int | None = None) -> Scene:
    """One scene of a class, at ``sample_rate`` Hz or at a rate drawn from ``SAMPLE_RATES``.

    Raises:
        ConfigError: unknown label, duration outside 0.1…60 s, or a rate under the lowest of ``SAMPLE_RATES``.
    """
    if label not in SOURCES:
        raise ConfigError(f"class is {label!r}, expected one of {', '.join(CLASSES)}")
    _check_duration(duration_s)
    if sample_rate is not None and sample_rate < SAMPLE_RATES[0]:
        raise ConfigError(f"rate is {sample_rate} Hz, expected at least {SAMPLE_RATES[0]} Hz")
    # Drawn first and always: one seed gives one rate, ratio, level and sea to all classes.
    drawn_rate, snr_db, level_dbfs = int(rng.choice(SAMPLE_RATES)), rng.uniform(*SNR_DB), rng.uniform(*LEVEL_DBFS)
    rate = sample_rate or drawn_rate
    n, kind = round(duration_s * rate), SOURCES[label]
    frequency = np.fft.rfftfreq(n, 1 / rate)
    receiver = _highpass(frequency, HYDROPHONE_HZ)
    colour = receiver * np.sqrt(ambient_density(frequency, rng.uniform(0, 1), rng.uniform(1, 15)))
    sound = np.fft.irfft(np.fft.rfft(rng.standard_normal(n)) * colour, n)
    distance_m = np.inf
    if label == "ambient":
        snr_db = -np.inf
    else:
        distance_m = _log_uniform(rng, *kind.distance_m)
        path = receiver * channel(frequency, distance_m, rng.uniform(*kind.depth_m), rng)
        source = np.fft.irfft(np.fft.rfft(kind.sound(rate, n, rng)) * path, n)
        sound += source * np.sqrt(10 ** (snr_db / 10) / signal_to_noise(source, n * colour**2, rate))
    sound *= min(10 ** (level_dbfs / 20) / np.sqrt(np.mean(sound**2)), PEAK / np.abs(sound).max())
    return Scene(sound.astype(np.float32), rate, label, float(snr_db), distance_m)


def write_dataset(
    folder: Path,
    clips_per_class: int = 60,
    duration_s: float = 3.0,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Path:
    """Writes ``audio/*.flac`` (16 bit) and ``metadata.csv`` into ``folder``; gives the path of the table.

    Per class, the first 60 % are for training, 20 % each for validation and test, at least one. A clip depends only
    on seed, class and number. The table comes last, so an interrupted run leaves none. ``advance`` is called after
    each clip.

    Raises:
        ConfigError: fewer than 3 clips per class, duration outside 0.1…60 s, a folder that has a table already, or
            one that cannot be written.
    """
    if clips_per_class < 3:
        raise ConfigError(f"clips per class is {clips_per_class}, expected at least 3, one for each split")
    _check_duration(duration_s)
    held_out = max(round(0.2 * clips_per_class), 1)
    splits = ["train"] * (clips_per_class - 2 * held_out) + ["val"] * held_out + ["test"] * held_out
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("filepath", "split", "label", "group", "samplerate", "snr_db"))
    metadata = folder / "metadata.csv"
    if metadata.exists():
        raise ConfigError(f"{metadata}: exists already; choose another folder, or remove it to make new scenes")
    for class_index, label in enumerate(CLASSES):
        for i, split in enumerate(splits):
            scene = make_scene(label, np.random.default_rng([seed, class_index, i]), duration_s)
            name = f"{label}_{i:03d}"
            with replacing(folder / "audio" / f"{name}.flac") as file:
                soundfile.write(file, scene.samples, scene.sample_rate, subtype="PCM_16", format="FLAC")
            writer.writerow((f"audio/{name}.flac", split, label, name, scene.sample_rate, f"{scene.snr_db:.1f}"))
            advance()
    with replacing(metadata) as file:
        file.write(table.getvalue().encode())
    return metadata
