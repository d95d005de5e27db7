"""Does the saliency find short events? Sonar scenes in which each is known in time, and the saliency's mass on it.

::

    python benchmarks/evidence/localisation.py --out runs/evidence/localisation

Each scene is 5 s of sea noise with 1 s of a source somewhere in it; training knows the label, not the place. Printed
is, by class of the test split, the share of the saliency and of the gates on the patches that answer for some of the
event, beside the share of the patches that do: what an even saliency has. Tiles are as high as the spectrogram (the
policy's choice), so that places are times.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.config import Split
from xaimoe_audio.data.dataset import load_dataset
from xaimoe_audio.run import BEST
from xaimoe_audio.scenes import SOURCES, make_scene, signal_to_noise
from xaimoe_audio.training.assess import answer

RATE, SCENE_S, EVENT_S = 32_000, 5.0, 1.0
SNR_DB = 15.0
"""In the source's best octave, while it is heard."""
FADE_S = 0.02
CLIPS: dict[Split, int] = {"train": 40, "val": 10, "test": 20}
"""Scenes of each class."""
LEVEL = 0.02
LABELS = tuple(label for label in SOURCES if label != "ambient")


def scene(label: str, seed: tuple[int, ...]) -> tuple[NDArray[np.float32], float]:
    """Sound [n] with an event of a class, and when it begins, in seconds."""
    draw = np.random.default_rng(seed)
    noise = make_scene("ambient", draw, SCENE_S, RATE).samples.astype(np.float64)
    size, fade = int(EVENT_S * RATE), int(FADE_S * RATE)
    begin = int(draw.integers(0, len(noise) - size))
    envelope = np.minimum(1, np.minimum(np.arange(size), np.arange(size)[::-1]) / fade)
    event = np.zeros_like(noise)
    event[begin : begin + size] = SOURCES[label].sound(RATE, size, draw) * envelope
    ratio = signal_to_noise(event, np.abs(np.fft.rfft(noise)) ** 2, RATE)
    sound = noise + event * np.sqrt(10 ** (SNR_DB / 10) / ratio)
    return (LEVEL * sound / np.sqrt(np.mean(sound**2))).clip(-1, 1).astype(np.float32), begin / RATE


def write_scenes(folder: Path) -> None:
    """Writes the scenes and their table; its column ``event_s`` says when the event begins."""
    rows = []
    for number, label in enumerate(LABELS):
        for split_number, (split, count) in enumerate(CLIPS.items()):
            for i in range(count):
                sound, begin = scene(label, (number, split_number, i))
                path = folder / "audio" / f"{label}_{split}_{i:02d}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, sound, RATE, subtype="PCM_16")
                rows.append((f"audio/{path.name}", split, label, f"{begin:.4f}"))
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("filepath", "split", "label", "event_s"), *rows])


def main(
    out: Annotated[Path, typer.Option(help="Where scenes and run go; a run that is there is measured again.")],
    epochs: Annotated[int, typer.Option(min=1)] = 60,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Make the scenes, train, and measure."""
    scenes, run = out / "scenes", out / f"run-seed{seed}"
    if not (scenes / "metadata.csv").is_file():
        write_scenes(scenes)
    if (run / BEST).is_file():
        classifier = MoEAudioClassifier.load(run / BEST, "cpu")
    else:
        classifier = MoEAudioClassifier(device="cpu", seed=seed, clip_s=SCENE_S)
        classifier.fit(scenes, epochs=epochs, out_dir=run)
    engine, model = classifier.engine, classifier.engine.model
    with (scenes / "metadata.csv").open(newline="", encoding="utf-8") as file:
        begins = {row["filepath"]: float(row["event_s"]) for row in csv.DictReader(file)}
    data = load_dataset(scenes, scenes / "metadata.csv", "single_label", engine.audio.sample_rate)
    items = data.split("test")
    found = answer(engine, items, "routed")
    config, (_, columns) = model.config.frontend, model.grid.territories()
    frames = np.arange(model.grid.columns) * config.hop / config.sample_rate
    shares: dict[str, list[tuple[float, ...]]] = {label: [] for label in LABELS}
    for item, scores, saliency, gates in zip(
        items, found.scores, found.outputs.saliency, found.outputs.gates, strict=True
    ):
        begin = begins[f"audio/{item.row.path.name}"]
        heard = np.unique(columns[(frames >= begin) & (frames < begin + EVENT_S)])
        on = np.isin(np.arange(model.grid.count) % model.grid.shape[1], heard)
        label = item.row.labels[0]
        right = float(engine.task.labels[int(scores.argmax())] == label)
        gates_on, gates_in_all = float(gates[on].sum()), float(gates.sum())
        shares[label].append((right, float(saliency[on].sum()), float(on.mean()), gates_on, gates_in_all))
    typer.echo(f"{model.grid.count} patches; share of the saliency, of the gates and of the patches on the event")
    shares["all"] = [row for of_label in shares.values() for row in of_label]
    for label, of_label in shares.items():
        right, mass, even, gates_on, gates_in_all = np.mean(of_label, axis=0)
        asked = f"{gates_on / gates_in_all:.2f}" if gates_in_all else "none"
        typer.echo(f"  {label:<16} right {right:.2f}  saliency {mass:.2f}  gates {asked}  even {even:.2f}")


if __name__ == "__main__":
    typer.run(main)
