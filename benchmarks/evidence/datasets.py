"""Accuracy on the other real datasets, on their own test splits, and what a shared band leaves of it.

::

    python benchmarks/evidence/datasets.py train --out runs/evidence/datasets      # goes on where it was stopped
    python benchmarks/evidence/datasets.py table --out runs/evidence/datasets

``marine_watkins shared band`` is the same recordings, all brought to the lowest sampling rate among them, so that
neither the rate nor the upper end of the band tells a species: what is lost was owed to how they were recorded.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import soundfile
import soxr
import typer
from cells import DATA, Cells

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.config import Budget
from xaimoe_audio.training.metrics import headline
from xaimoe_runtime.console import replacing
from xaimoe_runtime.schema import TaskKind

SHARED_BAND = "marine_watkins shared band"
EPOCHS = {"arabic_digits": 60, "marine_watkins": 80, SHARED_BAND: 80, "uw_ships_multilabel": 120}
"""Of training, by dataset."""
app = typer.Typer(add_completion=False, no_args_is_help=True)


def shared_band(dataset: Path, out: Path) -> Path:
    """Copies a dataset with all recordings at the lowest rate among them; gives the copy's folder."""
    with (dataset / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lowest = min(soundfile.info(dataset / row["filepath"]).samplerate for row in rows)
    for row in rows:
        samples, rate = soundfile.read(dataset / row["filepath"], dtype="float32", always_2d=True)
        samples = soxr.resample(samples, rate, lowest)
        row["filepath"] = str(Path(row["filepath"]).with_suffix(".wav"))
        with replacing(out / row["filepath"]) as target:
            soundfile.write(target, samples, lowest, format="WAV", subtype="FLOAT")
    with (out / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return out


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where runs and cells go.")],
    only: Annotated[str, typer.Option(help="Comma-separated datasets.")] = ",".join(EPOCHS),
    budget: Annotated[Budget, typer.Option()] = "accuracy",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with the seeds 0, 1, …")] = 1,
) -> None:
    """Train and measure each dataset that is not there yet."""
    cells = Cells(out / "cells")
    for name in only.split(","):
        for seed in range(seeds):
            cell = f"{budget}-{name.replace(' ', '-')}-seed{seed}"
            if cells.get(cell) is not None:
                continue
            folder = DATA / name
            if name == SHARED_BAND:
                folder = out / "shared_band"
                if not (folder / "metadata.csv").is_file():
                    shared_band(DATA / "marine_watkins", folder)
            task: TaskKind = "multi_label" if name == "uw_ships_multilabel" else "single_label"
            classifier = MoEAudioClassifier(task=task, budget=budget, device="cpu", seed=seed)
            classifier.fit(folder, folder / "metadata.csv", EPOCHS[name], 16, out / cell)
            figures = json.loads((out / cell / "metrics.json").read_text())["test"]
            metric = headline(classifier.engine.task)
            kept: dict[str, Any] = {"dataset": name, "budget": budget, "seed": seed, "epochs": EPOCHS[name]}
            kept |= {"metric": metric, "macs": figures["macs"]}
            kept |= {routing: found[metric] for routing, found in figures["by_routing"].items()}
            cells.put(cell, kept)
            typer.echo(f"{cell}: {metric} {kept['routed']:.4f}")


@app.command()
def table(out: Annotated[Path, typer.Option(help="Where the cells are.")]) -> None:
    """The test figures that are there."""
    cells = Cells(out / "cells")
    for path in sorted(cells.folder.glob("*.json")):
        cell = cells.get(path.stem) or {}
        macs = cell["macs"]
        typer.echo(
            f"{cell['dataset']}, {cell['budget']}, {cell['epochs']} epochs, seed {cell['seed']}: {cell['metric']} "
            f"routed {cell['routed']:.4f}, dense {cell['dense']:.4f}, glance {cell['glance']:.4f}; "
            f"{macs['routed'] / 1e6:.2f} of {macs['dense'] / 1e6:.2f} M MACs"
        )


if __name__ == "__main__":
    app()
