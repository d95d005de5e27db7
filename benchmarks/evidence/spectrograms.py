"""Which spectrogram suits which sounds: the evidence behind the rules of ``policy.hearing``.

Made-up recordings of three kinds, each trained on with several backends under otherwise equal choices::

    python benchmarks/evidence/spectrograms.py low bats clicks --out runs/evidence
    python benchmarks/evidence/spectrograms.py noisy shifted --dataset folder --out runs/evidence

``low`` are calls and engine lines at 30–120 Hz, ``bats`` calls at 20–90 kHz under wind, ``clicks`` trains of clicks
that differ in pitch, length, sweep and rhythm. ``noisy`` puts a dataset's recordings 0–10 dB over steady coloured noise
with hum; ``shifted`` does so at 5–15 dB with the test split alone, the others have white noise at 15–25 dB. One line of
JSON for each run: test accuracy by routing, and what the policy would have chosen.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.config import Overrides
from xaimoe_audio.policy import Facts, decide
from xaimoe_audio.profiling import profile_dataset

Floats = NDArray[np.float64]
Sound = Callable[[np.random.Generator], Floats]


def tone(rng: np.random.Generator, rate: int, seconds: float, start: float, end: float) -> Floats:
    """A tone under a Hann window that glides from ``start`` to ``end`` Hz."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * (start * time + (end - start) * time**2 / (2 * seconds)) + rng.uniform(0, 2 * np.pi)
    sound: Floats = np.hanning(len(time)) * np.sin(phase)
    return sound


def coloured(rng: np.random.Generator, size: int, rate: int, slope: float, low: float = 5.0) -> Floats:
    """Noise of mean power 1 whose amplitude goes with the frequency to the power of ``slope``."""
    frequency = np.maximum(np.fft.rfftfreq(size, 1 / rate), low)
    spectrum = rng.standard_normal(len(frequency)) + 1j * rng.standard_normal(len(frequency))
    noise: Floats = np.fft.irfft(spectrum * frequency**slope, size)
    noise /= noise.std()
    return noise


def repeated(size: int, rate: int, first: float, calls: Iterator[tuple[Floats, float]]) -> Floats:
    """Calls one after the other, each with the pause in s that follows it."""
    samples, at = np.zeros(size), int(first * rate)
    for call, pause in calls:
        if at + len(call) > size:
            break
        samples[at : at + len(call)] += call
        at += len(call) + int(pause * rate)
    return samples


def low(harmonics: range, start: float, end: float, rate: int = 4_000) -> Sound:
    def sound(rng: np.random.Generator) -> Floats:
        scale = np.exp(rng.uniform(-0.08, 0.08))

        def calls() -> Iterator[tuple[Floats, float]]:
            while True:
                length = 1.2 * np.exp(rng.uniform(-0.3, 0.3))
                lines = [tone(rng, rate, length, k * start * scale, k * end * scale) for k in harmonics]
                yield sum(lines, np.zeros(len(lines[0]))) / len(lines), rng.uniform(0.4, 1.5)

        heard = repeated(5 * rate, rate, rng.uniform(0, 1.2), calls()) * 10 ** (rng.uniform(-3, 10) / 20)
        return 0.1 * heard + 0.1 * coloured(rng, 5 * rate, rate, -0.5) * 10 ** (rng.uniform(-6, 0) / 20)

    return sound


def bat(start: float, end: float, seconds: float, steady: float = 0.0, rate: int = 256_000) -> Sound:
    def sound(rng: np.random.Generator) -> Floats:
        scale = np.exp(rng.uniform(-0.06, 0.06))

        def calls() -> Iterator[tuple[Floats, float]]:
            while True:
                length = seconds * np.exp(rng.uniform(-0.25, 0.25))
                held = tone(rng, rate, length * steady, start * scale, start * scale)
                call = np.concatenate([held, tone(rng, rate, length * (1 - steady), start * scale, end * scale)])
                yield call * rng.uniform(0.5, 1), rng.uniform(0.04, 0.12)

        size = int(0.3 * rate)
        heard = repeated(size, rate, rng.uniform(0.005, 0.06), calls()) * 10 ** (rng.uniform(0, 20) / 20)
        return 0.01 * (heard + rng.standard_normal(size) + coloured(rng, size, rate, -1) * rng.uniform(0, 6))

    return sound


def clicks(hz: float, seconds: float, sweep: float = 0.0, again_s: float = 0.0, rate: int = 32_000) -> Sound:
    def sound(rng: np.random.Generator) -> Floats:
        pitch, width, gap = hz * np.exp(rng.uniform(-0.15, 0.15)), seconds * np.exp(rng.uniform(-0.2, 0.2)), 0.06
        time = np.arange(-3 * width, 3 * width, 1 / rate)
        phase = 2 * np.pi * pitch * (time + sweep * time**2 / (4 * width))
        click = np.exp(-((time / width) ** 2) / 2) * np.cos(phase)
        gap *= np.exp(rng.uniform(-0.7, 0.7))

        def calls() -> Iterator[tuple[Floats, float]]:
            while True:
                if again_s:
                    yield click, again_s - 6 * width
                yield click * rng.uniform(0.6, 1), gap * rng.uniform(0.9, 1.1)

        peak = 10 ** (rng.uniform(-20, -3) / 20)
        noise = rng.standard_normal(rate) * 10 ** (-rng.uniform(14, 30) / 20)
        return peak * (repeated(rate, rate, rng.uniform(0.05, 0.3), calls()) + noise)

    return sound


@dataclass(frozen=True)
class Kind:
    """Sounds of one kind, by class, and how they are trained on."""

    rate: int
    epochs: int
    classes: dict[str, Sound]


KINDS = {
    "low": Kind(
        4_000,
        25,
        {
            "tone35": low(range(1, 2), 35, 35),
            "tone45": low(range(1, 2), 45, 45),
            "down": low(range(1, 2), 60, 35),
            "up": low(range(1, 2), 35, 60),
            "comb12": low(range(3, 8), 12, 12),
            "comb15": low(range(3, 8), 15, 15),
        },
    ),
    "bats": Kind(
        256_000,
        25,
        {
            "pipistrelle": bat(75e3, 45e3, 0.005),
            "soprano": bat(85e3, 55e3, 0.005),
            "noctule": bat(22e3, 18e3, 0.018, steady=0.8),
            "serotine": bat(50e3, 26e3, 0.008),
            "horseshoe": bat(82e3, 70e3, 0.04, steady=0.8),
            "myotis": bat(95e3, 35e3, 0.004),
        },
    ),
    "clicks": Kind(
        32_000,
        40,
        {
            "narrow_high": clicks(11e3, 0.001),
            "broad_high": clicks(11e3, 0.00012),
            "narrow_low": clicks(3e3, 0.001),
            "down": clicks(7e3, 0.003, sweep=-1),
            "up": clicks(7e3, 0.003, sweep=1),
            "double": clicks(5e3, 0.0003, again_s=0.008),
        },
    ),
}
CLIPS = {"train": 60, "val": 20, "test": 40}


def make(kind: Kind, folder: Path) -> None:
    """Writes a dataset of made-up recordings, the same each time."""
    rng = np.random.default_rng(0)
    rows = []
    for split, count in CLIPS.items():
        for label, sound in kind.classes.items():
            for i in range(count):
                rows.append({"filepath": f"{split}/{label}/{i}.flac", "split": split, "label": label})
                _write_audio(folder / rows[-1]["filepath"], sound(rng), kind.rate)
    _write_table(folder, rows)


def make_noisy(dataset: Path, folder: Path, shifted: bool) -> None:
    """Writes a dataset's recordings, each under its own steady noise."""
    rng = np.random.default_rng(0)
    with (dataset / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        samples, rate = soundfile.read(dataset / row["filepath"])
        if shifted and row["split"] != "test":
            noise, least = rng.standard_normal(len(samples)), 15
        else:
            noise, least = _humming(rng, len(samples), rate), 5 if shifted else 0
        row["filepath"] = str(Path(row["filepath"]).with_suffix(".flac"))
        heard = samples / samples.std() * 10 ** (rng.uniform(least, least + 10) / 20) + noise / noise.std()
        _write_audio(folder / row["filepath"], heard * 10 ** (rng.uniform(-35, -20) / 20), rate)
    _write_table(folder, rows)


def _humming(rng: np.random.Generator, size: int, rate: int) -> Floats:
    noise, time = coloured(rng, size, rate, rng.uniform(-1.5, 0.5), low=50), np.arange(size) / rate
    hum = rng.uniform(40, 400)
    for k in range(1, rng.integers(2, 8)):
        noise += rng.uniform(0, 0.8) * np.sin(2 * np.pi * k * hum * time + rng.uniform(0, 2 * np.pi))
    return noise


def _write_audio(path: Path, samples: Floats, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(samples, -1, 1), rate)


def _write_table(folder: Path, rows: list[dict[str, Any]]) -> None:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


def main(
    kinds: Annotated[list[str], typer.Argument(help=f"{', '.join(KINDS)}, noisy or shifted.")],
    out: Annotated[Path, typer.Option(help="Where recordings and runs go.")],
    backends: Annotated[str, typer.Option(help="Comma-separated.")] = "logmel,logmel+pcen,stft,cqt,fcwt",
    dataset: Annotated[Path | None, typer.Option(help="What noisy is made from.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with the seeds 0, 1, …")] = 1,
) -> None:
    """Train on each kind with each backend; one line of JSON for each run."""
    for name in kinds:
        folder = out / name
        if name in ("noisy", "shifted"):
            if dataset is None:
                raise typer.BadParameter(f"{name} needs --dataset")
            make_noisy(dataset, folder, name == "shifted")
        else:
            make(KINDS[name], folder)
        profile = profile_dataset(folder, folder / "metadata.csv", "single_label").profile
        chosen = decide(Facts.of(profile, "accuracy"), Overrides()).made
        for backend in backends.split(","):
            for seed in range(seeds):
                run = out / f"{name}-{backend}-{seed}"
                overrides: dict[str, Any] = {"spectrogram": backend, "seed": seed}
                if name in KINDS:
                    overrides["sample_rate"] = KINDS[name].rate
                epochs = KINDS[name].epochs if name in KINDS else 25
                classifier = MoEAudioClassifier(budget="latency", device="cpu", **overrides)
                classifier.fit(folder, epochs=epochs, out_dir=run, force=True)
                metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
                answer = {"kind": name, "backend": backend, "seed": seed, "chosen": chosen["spectrogram"]}
                typer.echo(json.dumps(answer | {"test": metrics["test"]["by_routing"]}))


if __name__ == "__main__":
    typer.run(main)
