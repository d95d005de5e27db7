"""Accuracy on the other real datasets, on their own test splits, and what a shared band leaves of it.

Of what is not for the test, whole groups with a few clips of each class are kept for validation, and the rest is
trained on; but ``uw_ships_multilabel``, whose mixtures are cut from recordings that others hold too, has its own split.

::

    python benchmarks/evidence/datasets.py train --out runs/evidence/datasets      # goes on where it was stopped
    python benchmarks/evidence/datasets.py table --out runs/evidence/datasets

``marine_watkins shared band`` is the same recordings, all brought to the lowest sampling rate among them, which is then
the model's, too: neither the rate nor the upper end of the band tells a species. What is lost is owed to how they were
recorded, or to what lies above.
"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import soundfile
import soxr
import typer
from cells import Cells, commits, folder_of, resplit

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.config import Budget
from xaimoe_audio.run import RUN_CONFIG
from xaimoe_audio.training.metrics import headline
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime.schema import TaskKind
from xaimoe_runtime.writing import replacing

SHARED_BAND = "marine_watkins shared band"
EPOCHS = {"arabic_digits": 150, "marine_watkins": 240, SHARED_BAND: 240, "uw_ships_multilabel": 600}
"""Of training, by dataset: 5000 to 11000 batches, as ESC-10 gets 7000."""
VAL_PER_CLASS = 3
OWN_SPLIT = frozenset({"uw_ships_multilabel"})
app = typer.Typer(add_completion=False, no_args_is_help=True)


def shared_band(dataset: Path, out: Path) -> int:
    """Copies a dataset with all recordings at the lowest rate among them; gives that rate in Hz."""
    with (dataset / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lowest: int = min(soundfile.info(dataset / row["filepath"]).samplerate for row in rows)
    if (out / "metadata.csv").is_file():
        return lowest
    for row in rows:
        samples, rate = soundfile.read(dataset / row["filepath"], dtype="float32", always_2d=True)
        samples = soxr.resample(samples, rate, lowest)
        row["filepath"] = str(Path(row["filepath"]).with_suffix(".wav"))
        with replacing(out / row["filepath"]) as target:
            soundfile.write(target, samples, lowest, format="WAV", subtype="FLOAT")
    content = io.StringIO()
    table = csv.DictWriter(content, rows[0].keys())
    table.writeheader()
    table.writerows(rows)
    with replacing(out / "metadata.csv") as target:
        target.write(content.getvalue().encode())
    return lowest


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where runs and cells go.")],
    only: Annotated[str, typer.Option(help="Comma-separated datasets.")] = ",".join(EPOCHS),
    budget: Annotated[Budget, typer.Option()] = "accuracy",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with the seeds 0, 1, …")] = 1,
) -> None:
    """Train and measure each dataset that is not there yet."""
    options = {"study": "datasets", "epochs": EPOCHS, "val_per_class": VAL_PER_CLASS}
    cells = Cells(out, options | {"default_recipe": msgspec.to_builtins(Recipe())})
    for name in only.split(","):
        for seed in range(seeds):
            cell = f"{budget}-{name.replace(' ', '-')}-seed{seed}"
            if cells.get(cell) is not None:
                continue
            overrides: dict[str, Any] = {}
            if name == SHARED_BAND:
                folder = out / "shared_band"
                overrides["sample_rate"] = shared_band(folder_of("marine_watkins"), folder)
            else:
                folder = folder_of(name)
            task: TaskKind = "multi_label" if name == "uw_ships_multilabel" else "single_label"
            classifier = MoEAudioClassifier(task=task, budget=budget, device="cpu", seed=seed, **overrides)
            start = time.process_time()
            table = folder / "metadata.csv"
            if name not in OWN_SPLIT:
                table = resplit(folder, lambda row: row["split"] == "test", VAL_PER_CLASS, out / f"{cell}.csv")
            classifier.fit(folder, table, EPOCHS[name], 16, out / cell, force=True)
            seconds = time.process_time() - start
            exported = classifier.export(out / cell / "bundle", fused=True, force=True)
            figures = json.loads((out / cell / "metrics.json").read_text(encoding="utf-8"))["test"]
            metric = headline(classifier.engine.task)
            kept = {"dataset": name, "budget": budget, "seed": seed, "epochs": EPOCHS[name], "seconds": seconds}
            kept |= {"recipe": json.loads((out / cell / RUN_CONFIG).read_text(encoding="utf-8"))["recipe"]}
            kept |= {"metric": metric, "macs": figures["macs"], "recordings": figures["recordings"]}
            kept |= {"export": {name: exported[name] for name in ("real_clips", "precisions", "refused_by_tensorrt")}}
            kept |= {routing: found[metric] for routing, found in figures["by_routing"].items()}
            cells.put(cell, kept)
            typer.echo(f"{cell}: {metric} {kept['routed']:.4f}")


@app.command()
def table(out: Annotated[Path, typer.Option(help="Where the cells are.")]) -> None:
    """The test figures that are there."""
    found = list(Cells(out))
    typer.echo(commits(found))
    for cell in found:
        macs = cell["macs"]
        typer.echo(
            f"{cell['dataset']}, {cell['budget']}, {cell['epochs']} epochs ({cell['seconds'] / 60:.1f} min), seed "
            f"{cell['seed']}: {cell['metric']} of {cell['recordings']} recordings routed {cell['routed']:.4f}, "
            f"dense {cell['dense']:.4f}, glance {cell['glance']:.4f}; {macs['routed'] / 1e6:.2f} of "
            f"{macs['dense'] / 1e6:.2f} M MACs after the frontend's {macs['frontend'] / 1e6:.2f} M"
        )
        export = cell["export"]
        line = export["precisions"]["fp32"]
        typer.echo(
            f"  exported: scores of {export['real_clips']} real clips within {max(line['scores'].values()):.1e} of "
            f"PyTorch's, {'the same' if line['same_predictions'] else 'other'} predictions"
        )


if __name__ == "__main__":
    app()
