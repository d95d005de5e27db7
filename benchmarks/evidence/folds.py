"""Accuracy, compute and cut budgets of the whole product on ESC-10's official folds, beside a single network.

::

    python benchmarks/evidence/folds.py train --out runs/evidence/folds      # goes on where it was stopped
    python benchmarks/evidence/folds.py table --out runs/evidence/folds

Each fold is the test split once; of the other four, some groups are the validation split. ``cut`` runs the pairs with
the largest gates alone, as a device does under a budget. ``cnn`` is a single network of the same multiply-accumulates a
clip as the routed mixture (glance included), trained with the same recipe for as many epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import lightning
import numpy as np
import torch
import typer
from cells import DATA, FOLDS, Cells, fold_table
from numpy.typing import NDArray
from single_cnn import TrainSingle, cost, matched
from torch import Tensor

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.config import Budget, Overrides, Split
from xaimoe_audio.data.dataset import Data, LabelledRecording, load_dataset
from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.fitting import split_figures
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.assess import batches
from xaimoe_audio.training.job import Job
from xaimoe_audio.training.loop import train as train_module
from xaimoe_audio.training.metrics import measure
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime.result import pool

CUTS = (1.0, 0.5, 0.25, 0.0)
"""Shares of the routed pairs that are run."""
app = typer.Typer(add_completion=False, no_args_is_help=True)
Floats = NDArray[np.float32]


@torch.no_grad()
def pooled_scores(
    model: MoEAudioModel,
    items: list[LabelledRecording],
    device: torch.device,
    score: Callable[[Tensor, Tensor], Tensor],
) -> Floats:
    """Scores [N, L] of recordings, pooled over their windows, each given by ``score`` of (spectrogram, attributes)."""
    owners, parts = [], []
    for owner, waveform, source in batches(model, items, device):
        parts.append(score(*model.frontend(waveform, source)).cpu().numpy())
        owners.append(owner.numpy())
    scores, of = np.concatenate(parts), np.concatenate(owners)
    return np.stack([pool(scores[of == i]) for i in range(len(items))])


def cut_scores(engine: TorchEngine, items: list[LabelledRecording], share: float) -> Floats:
    """Scores [N, L] when each window runs only that share of its routed pairs, those with the largest gates."""
    model = engine.model

    def score(spectrogram: Tensor, attributes: Tensor) -> Tensor:
        routed = model.route(spectrogram, attributes)
        gates = routed.gates.flatten(1)
        wanted = torch.round((gates > 0).sum(1) * share)
        rank = torch.argsort(torch.argsort(gates, dim=1, descending=True, stable=True), dim=1)
        kept = (gates * (rank < wanted[:, None])).reshape_as(routed.gates)
        scores: Tensor = model.head(*model.mixture(routed.spectrogram, kept), routed.prior_logits)
        return scores

    return pooled_scores(model, items, engine.device, score)


def train_cnn(
    classifier: MoEAudioClassifier, job: Job, recipe: Recipe, data: dict[Split, Data], macs: float
) -> dict[str, Any]:
    """A single network of ``macs`` multiply-accumulates: its size and its accuracy on the test split."""
    model = copy.deepcopy(classifier.engine.model)
    lightning.seed_everything(job.seed, workers=True, verbose=False)
    network = matched(model, macs=macs)
    best: dict[str, Any] = {}
    train_module(
        model,
        job,
        recipe,
        data["train"],
        data["val"],
        lambda: best.update(state=copy.deepcopy(network.state_dict())),
        make_module=partial(TrainSingle, network),
        watch=False,
    )
    network.load_state_dict(best["state"])
    network.eval()
    items, targets = data["test"]
    scores = pooled_scores(model, items, job.device, lambda spectrogram, _: torch.softmax(network(spectrogram), dim=1))
    parameters, macs_found = cost(network, model)
    figures = measure(scores, targets, classifier.engine.task)
    return {"parameters": parameters, "macs": macs_found, "accuracy": figures["accuracy"], "ece": figures["ece"]}


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where runs and cells go.")],
    epochs: Annotated[int, typer.Option(min=1)] = 200,
    budget: Annotated[Budget, typer.Option()] = "accuracy",
    folds: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(map(str, FOLDS)),
    seed: Annotated[int, typer.Option()] = 0,
    val_per_class: Annotated[int, typer.Option(min=1)] = 2,
    cnn: Annotated[bool, typer.Option(help="Train the single network, too.")] = True,
    teacher: Annotated[Path | None, typer.Option(help="Another classifier to learn from.")] = None,
) -> None:
    """Train and measure each fold that is not there yet."""
    dataset, cells = DATA / "esc10", Cells(out / "cells")
    for fold in map(int, folds.split(",")):
        name = f"{budget}-{'taught-' if teacher else ''}{epochs}-fold{fold}-seed{seed}"
        cell = cells.get(name) or {}
        if "routed" in cell and ("cnn" in cell or not cnn):
            continue
        table = fold_table(dataset, fold, val_per_class, out / f"fold{fold}.csv")
        run = out / name
        if "routed" not in cell:
            classifier = MoEAudioClassifier(budget=budget, device="cpu", seed=seed)
            classifier.fit(dataset, table, epochs, 16, run, teacher=teacher)
        classifier = MoEAudioClassifier.load(run / "best.pt", device="cpu")
        engine = classifier.engine
        loaded = load_dataset(dataset, table, "single_label", engine.audio.sample_rate)
        data = loaded.with_targets(engine.task.labels)
        items, targets = data["test"]
        figures = split_figures(engine, items, targets)
        cell |= {"fold": fold, "seed": seed, "epochs": epochs, "budget": budget, "val_per_class": val_per_class}
        cell |= {"routed": figures["accuracy"], "macs": figures["macs"], "by_routing": figures["by_routing"]}
        cell["parameters"] = sum(p.numel() for p in engine.model.parameters())
        cell["cut"] = {}
        for share in CUTS:
            cut = measure(cut_scores(engine, items, share), targets, engine.task)
            cell["cut"][str(share)] = {"accuracy": cut["accuracy"], "ece": cut["ece"]}
        usage = split_figures(engine, *data["val"])["expert_usage"]
        cell["pair_share_val"] = usage["pair_share"]
        cells.put(name, cell)
        if cnn:
            job = Job(
                dataset_dir=dataset,
                metadata_csv=table,
                task="single_label",
                budget=budget,
                auto_config=True,
                overrides=Overrides(seed=seed),
                epochs=epochs,
                batch_size=16,
                out=run / "cnn",
                channel="mix",
                device=torch.device("cpu"),
            )
            cell["cnn"] = train_cnn(classifier, job, Recipe(), data, figures["macs"]["routed"])
            cells.put(name, cell)
        typer.echo(f"{name}: routed {cell['routed']:.4f}")


@app.command()
def table(out: Annotated[Path, typer.Option(help="Where the cells are.")]) -> None:
    """Means over the folds that are there, for each budget, number of epochs and seed."""
    cells = Cells(out / "cells")
    groups: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(cells.folder.glob("*.json")):
        before, _, after = path.stem.partition("-fold")
        groups.setdefault(f"{before}-{after.partition('-')[2]}", []).append(cells.get(path.stem) or {})
    for name, found in groups.items():

        def mean(*keys: str, found: list[dict[str, Any]] = found) -> float:
            values = []
            for cell in found:
                for key in keys:
                    cell = cell[key]
                values.append(float(cell))  # type: ignore[arg-type]
            return float(np.mean(values))

        folds = ", ".join(f"{cell['routed']:.4f}" for cell in found)
        typer.echo(f"{name}: {len(found)} fold(s), routed {mean('routed'):.4f} ({folds})")
        for routing in ("routed", "dense", "glance"):
            accuracy, ece = (mean("by_routing", routing, key) for key in ("accuracy", "ece"))
            macs = mean("macs", "floor" if routing == "glance" else routing) / 1e6
            typer.echo(f"  {routing:<8} accuracy {accuracy:.4f}, ECE {ece:.3f}, {macs:.2f} M MACs")
        typer.echo(f"  experts' share of the dense experts' MACs {mean('macs', 'experts_share'):.3f}")
        for share in CUTS:
            accuracy, ece = (mean("cut", str(share), key) for key in ("accuracy", "ece"))
            typer.echo(f"  {share:>4.0%} of the routed pairs: accuracy {accuracy:.4f}, ECE {ece:.3f}")
        if all("cnn" in cell for cell in found):
            accuracy, macs = mean("cnn", "accuracy"), mean("cnn", "macs") / 1e6
            typer.echo(f"  single network: accuracy {accuracy:.4f}, {macs:.2f} M MACs")
        least = {expert: min(cell["pair_share_val"][expert] for cell in found) for expert in found[0]["pair_share_val"]}
        rarest = min(least, key=least.__getitem__)
        typer.echo(f"  least share of pairs on validation: {least[rarest]:.3f} ({rarest})")


if __name__ == "__main__":
    app()
