"""Does the compute term in the loss buy speed? One size of model, trained with different weights of it.

::

    python benchmarks/evidence/compute.py train --out runs/evidence/compute      # goes on where it was stopped
    python benchmarks/evidence/compute.py table --out runs/evidence/compute

All are of the size that ``budget="latency"`` gives, so what differs is what the training makes of it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from cells import Cells, commits, fold_table, folder_of

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.run import METRICS
from xaimoe_audio.training.recipe import Recipe

WEIGHTS = (0.0, 0.02, 0.1, 0.5, 2.0)
app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where runs and cells go.")],
    epochs: Annotated[int, typer.Option(min=1)] = 200,
    folds: Annotated[str, typer.Option(help="Comma-separated.")] = "1,2,3",
    seed: Annotated[int, typer.Option()] = 0,
    val_per_class: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Train and measure each weight on each fold that is not there yet."""
    dataset = folder_of("esc10")
    options = {"study": "compute", "epochs": epochs, "val_per_class": val_per_class}
    cells = Cells(out, options | {"default_recipe": msgspec.to_builtins(Recipe())})
    for fold in map(int, folds.split(",")):
        for weight in WEIGHTS:
            name = f"fold{fold}-weight{weight}-seed{seed}"
            if cells.get(name) is not None:
                continue
            table = fold_table(dataset, fold, val_per_class, out / f"fold{fold}.csv")
            start = time.process_time()
            MoEAudioClassifier(budget="latency", device="cpu", seed=seed).fit(
                dataset, table, epochs, 16, out / name, recipe=Recipe(compute_weight=weight), force=True
            )
            seconds = time.process_time() - start
            test = json.loads((out / name / METRICS).read_text(encoding="utf-8"))["test"]
            kept = {"fold": fold, "weight": weight, "seed": seed, "seconds": seconds, "macs": test["macs"]}
            accuracy = {routing: found["accuracy"] for routing, found in test["by_routing"].items()}
            cells.put(name, kept | {"accuracy": accuracy})
            typer.echo(f"{name}: {accuracy['routed']:.4f}")


@app.command()
def table(out: Annotated[Path, typer.Option(help="Where the cells are.")]) -> None:
    """Accuracy and compute by weight, over the folds that have all weights."""
    found = list(Cells(out))
    weights = {fold: {cell["weight"] for cell in found if cell["fold"] == fold} for fold in {c["fold"] for c in found}}
    whole = [fold for fold, of in weights.items() if of == set(WEIGHTS)]
    if not whole:
        typer.echo("no fold has all weights yet")
        return
    typer.echo(commits(found))
    typer.echo(f"ESC-10, folds {', '.join(map(str, sorted(whole)))}")
    for weight in WEIGHTS:
        of = [cell for cell in found if cell["weight"] == weight and cell["fold"] in whole]
        share, macs = (np.mean([cell["macs"][key] for cell in of]) for key in ("experts_share", "routed"))
        accuracy = np.mean([cell["accuracy"]["routed"] for cell in of])
        typer.echo(
            f"  weight {weight:<5} accuracy {accuracy:.4f}, {macs / 1e6:.2f} M MACs after the frontend, "
            f"{share:.3f} of the dense experts'"
        )


if __name__ == "__main__":
    app()
