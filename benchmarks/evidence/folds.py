"""Accuracy, compute and cut budgets of the whole product on ESC-10's official folds, beside a single network.

::

    python benchmarks/evidence/folds.py train --out runs/evidence/folds      # goes on where it was stopped
    python benchmarks/evidence/folds.py again --out runs/evidence/folds      # after a change that needs no new training
    python benchmarks/evidence/folds.py singles --out runs/evidence/folds    # goes on, too
    python benchmarks/evidence/folds.py table --out runs/evidence/folds

Each fold is the test split once; of the other four, some groups are the validation split. ``cut`` runs a part of
the pairs, as a device does under a budget: first the best of each patch. ``shown`` gives the router another saliency
than the model's own: even, the same values dealt to the patches at random (ten draws), or the other way round. The
single networks are trained with the same recipe for as many epochs: the narrow one costs about what a quarter of the
pairs does, the wide one has as many parameters as the whole model and costs nearly what all pairs do. Each is compared
with the mixture run with as many pairs as cost at least as much.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import lightning
import msgspec
import numpy as np
import torch
import typer
from cells import FOLDS, MADE, Cells, commits, fold_table, folder_of, interval, planned
from numpy.typing import NDArray
from single_cnn import SingleCNN, TrainSingle, cost
from torch import Tensor

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.architecture import expert_costs, floor_macs, parts
from xaimoe_audio.config import Budget, ModelConfig, Overrides, Split
from xaimoe_audio.data.dataset import Data, LabelledRecording, load_dataset
from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.fitting import split_figures
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.run import BEST, RUN_CONFIG
from xaimoe_audio.training.assess import batches
from xaimoe_audio.training.calibrate import fit_head
from xaimoe_audio.training.cut import cut
from xaimoe_audio.training.job import Job
from xaimoe_audio.training.loop import train as train_module
from xaimoe_audio.training.metrics import measure
from xaimoe_audio.training.normalise import fit_normalisation
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime.result import pool

SINGLES = "singles"
CUTS = (1.0, 0.5, 0.25, 0.0)
"""Shares of the routed pairs that are run."""
DRAWS = 10
WIDTHS = (10, 20)
"""Channels of the first convolution of single networks."""
app = typer.Typer(add_completion=False, no_args_is_help=True)
Floats = NDArray[np.float32]
Shown = Callable[[Tensor], Tensor]


def _dealt_at_random(saliency: Tensor) -> Tensor:
    """The same values of each row, on other patches."""
    return saliency.gather(1, torch.rand_like(saliency).argsort(1))


def _reversed(saliency: Tensor) -> Tensor:
    """The same values of each row, the largest on the patches that had the smallest."""
    falling = saliency.sort(dim=1, descending=True).values
    return torch.zeros_like(saliency).scatter(1, saliency.argsort(1), falling)


SHOWN: dict[str, tuple[Shown, int]] = {
    "even": (lambda saliency: torch.full_like(saliency, 1 / saliency.shape[1]), 1),
    "at random": (_dealt_at_random, DRAWS),
    "reversed": (_reversed, 1),
}
"""What the router may be given instead of the saliency, and how often."""


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


def mixed(model: MoEAudioModel, routed: Routed, gates: Tensor) -> Tensor:
    """Scores [B, L] with other gates than the routed ones."""
    scores: Tensor = model.head(*model.bank(routed.spectrogram, gates), routed.prior_logits)
    return scores


def share_of(share: float, routed: Routed) -> Tensor:
    """The gates of that share of each clip's routed pairs, [B, P, E]."""
    return cut(routed.gates, torch.round((routed.gates > 0).sum((1, 2)) * share))


def answers(engine: TorchEngine, items: list[LabelledRecording], targets: Floats) -> dict[str, dict[str, Any]]:
    """By way to run the model: which recordings are recognised, and the calibration error."""
    model = engine.model
    costs = torch.tensor([float(macs) for macs in expert_costs(model).values()])
    floor = floor_macs(parts(model))

    def judged(gates: Callable[[Routed], Tensor]) -> dict[str, Any]:
        def score(spectrogram: Tensor, attributes: Tensor) -> Tensor:
            routed = model.route(spectrogram, attributes)
            chosen = gates(routed)
            run.append((chosen > 0).float().sum(1))  # [B, E]
            return mixed(model, routed, chosen)

        run: list[Tensor] = []
        found = _judged(pooled_scores(model, items, engine.device, score), targets, engine)
        return found | {"macs": floor + float((torch.cat(run).mean(0) * costs).sum())}

    def shown(change: Shown) -> Callable[[Routed], Tensor]:
        return lambda routed: model.router(change(routed.saliency), routed.context, routed.attributes)[0]

    torch.manual_seed(0)  # of the saliency at random
    found = {"dense": judged(lambda routed: routed.gates_dense)}
    found |= {f"cut {share}": judged(partial(share_of, share)) for share in CUTS}
    for name, (change, draws) in SHOWN.items():
        every = [judged(shown(change)) for _ in range(draws)]
        found[f"shown {name}"] = {
            "right": np.mean([one["right"] for one in every], axis=0).tolist(),
            "ece": float(np.mean([one["ece"] for one in every])),
            "macs": float(np.mean([one["macs"] for one in every])),
        }
    return found


def _judged(scores: Floats, targets: Floats, engine: TorchEngine) -> dict[str, Any]:
    right = (scores.argmax(1) == targets.argmax(1)).astype(float)
    return {"right": right.tolist(), "ece": measure(scores, targets, engine.task)["ece"]}


def train_single(
    job: Job, config: ModelConfig, data: dict[Split, Data], make: Callable[[], SingleCNN]
) -> dict[str, Any]:
    """A single network: its size, and which recordings of the test split it recognises."""
    lightning.seed_everything(job.seed, workers=True, verbose=False)
    model = MoEAudioModel(config)  # for its frontend
    fit_normalisation(model, data["train"][0], job.device)
    single = make()
    best: dict[str, Any] = {}
    start = time.process_time()
    train_module(
        model,
        job,
        Recipe(),
        data["train"],
        data["val"],
        lambda: best.update(state=copy.deepcopy(single.state_dict())),
        make_module=partial(TrainSingle, single),
        watch=False,
    )
    seconds = time.process_time() - start
    single.load_state_dict(best["state"])
    single.eval()
    items, targets = data["test"]
    scores = pooled_scores(model, items, job.device, lambda spectrogram, _: torch.softmax(single(spectrogram), dim=1))
    right = (scores.argmax(1) == targets.argmax(1)).astype(float)
    parameters, macs = cost(single, model)
    return {"parameters": parameters, "macs": macs, "seconds": seconds, "right": right.tolist(), "made": MADE}


Out = Annotated[Path, typer.Option(help="Where runs and cells go.")]
Epochs = Annotated[int, typer.Option(min=1)]
Folds = Annotated[str, typer.Option(help="Comma-separated.")]
EVERY = ",".join(map(str, FOLDS))


def _cells(out: Path, epochs: int, budget: Budget, val_per_class: int, teacher: Path | None = None) -> Cells:
    options = {"study": "folds", "epochs": epochs, "budget": budget, "val_per_class": val_per_class}
    options |= {"default_recipe": msgspec.to_builtins(Recipe())}
    options |= {"teacher": hashlib.sha256(teacher.read_bytes()).hexdigest() if teacher else None}
    return Cells(out, options)


@app.command()
def train(
    out: Out,
    epochs: Epochs = 500,
    budget: Annotated[Budget, typer.Option()] = "accuracy",
    folds: Folds = EVERY,
    seed: Annotated[int, typer.Option()] = 0,
    val_per_class: Annotated[int, typer.Option(min=1)] = 2,
    teacher: Annotated[Path | None, typer.Option(help="Another classifier to learn from.")] = None,
) -> None:
    """Train and measure the mixture on each fold that is not there yet."""
    dataset = folder_of("esc10")
    cells = _cells(out, epochs, budget, val_per_class, teacher)
    for fold in map(int, folds.split(",")):
        name = f"fold{fold}-seed{seed}"
        if cells.get(name) is not None:
            continue
        table = fold_table(dataset, fold, val_per_class, out / f"fold{fold}.csv")
        run = out / name
        classifier = MoEAudioClassifier(budget=budget, device="cpu", seed=seed)
        start = time.process_time()
        classifier.fit(dataset, table, epochs, 16, run, teacher=teacher, force=True)
        seconds = time.process_time() - start
        recipe = json.loads((run / RUN_CONFIG).read_text(encoding="utf-8"))["recipe"]
        cell = {"fold": fold, "seed": seed, "seconds": seconds, "recipe": recipe}
        cells.put(name, cell | measured(classifier.engine, dataset, table))
        typer.echo(f"{name}: routed {np.mean((cells.get(name) or {})['ways']['cut 1.0']['right']):.4f}")


@app.command()
def again(
    out: Out,
    epochs: Epochs = 500,
    budget: Annotated[Budget, typer.Option()] = "accuracy",
    val_per_class: Annotated[int, typer.Option(min=1)] = 2,
    teacher: Annotated[Path | None, typer.Option(help="Another classifier that was learned from.")] = None,
) -> None:
    """Calibrate and measure the trained mixtures again; what trained them stays."""
    dataset = folder_of("esc10")
    cells = _cells(out, epochs, budget, val_per_class, teacher)
    for cell in list(cells):
        name = f"fold{cell['fold']}-seed{cell['seed']}"
        table = out / f"fold{cell['fold']}.csv"
        engine = MoEAudioClassifier.load(out / name / BEST, "cpu").engine
        loaded = load_dataset(dataset, table, "single_label", engine.audio.sample_rate)
        fit_head(engine.model, *loaded.with_targets(engine.task.labels)["val"], torch.device("cpu"))
        found = measured(engine, dataset, table)
        cells.put(name, cell | found | {"measured": MADE})
        typer.echo(f"{name}: routed {np.mean(found['ways']['cut 1.0']['right']):.4f}")


def measured(engine: TorchEngine, dataset: Path, table: Path) -> dict[str, Any]:
    """What a cell says of a trained mixture."""
    splits = load_dataset(dataset, table, "single_label", engine.audio.sample_rate).with_targets(engine.task.labels)
    items, targets = splits["test"]
    return {
        "macs": split_figures(engine, items, targets)["macs"],
        "parameters": sum(p.numel() for p in engine.model.parameters()),
        "doubt": float(torch.nn.functional.softplus(engine.model.head.doubt.detach())),
        "groups": [item.row.group for item in items],
        "ways": answers(engine, items, targets),
        "pair_share_val": split_figures(engine, *splits["val"])["expert_usage"]["pair_share"],
    }


@app.command()
def singles(
    out: Out,
    epochs: Epochs = 500,
    budget: Annotated[Budget, typer.Option()] = "accuracy",
    folds: Folds = EVERY,
    seed: Annotated[int, typer.Option()] = 0,
    val_per_class: Annotated[int, typer.Option(min=1)] = 2,
    widths: Annotated[str, typer.Option(help="Of their first convolution; comma-separated.")] = ",".join(
        map(str, WIDTHS)
    ),
) -> None:
    """Train the single networks that are not there yet."""
    dataset = folder_of("esc10")
    cells = _cells(out / SINGLES, epochs, budget, val_per_class)
    for width, fold in itertools.product(map(int, widths.split(",")), map(int, folds.split(","))):
        name = f"width{width}-fold{fold}-seed{seed}"
        if cells.get(name) is not None:
            continue
        table = fold_table(dataset, fold, val_per_class, out / SINGLES / f"fold{fold}.csv")
        job = Job(
            dataset_dir=dataset,
            metadata_csv=table,
            task="single_label",
            budget=budget,
            auto_config=True,
            overrides=Overrides(seed=seed),
            epochs=epochs,
            batch_size=16,
            out=out / SINGLES / name,
            channel="mix",
            device=torch.device("cpu"),
        )
        config = planned(dataset, table, budget, job.overrides)
        loaded = load_dataset(dataset, table, "single_label", config.frontend.sample_rate)
        make = partial(SingleCNN, width, len(config.labels))  # once the seed is set
        found = train_single(job, config, loaded.with_targets(config.labels), make)
        groups = [item.row.group for item in loaded.split("test")]
        cells.put(name, {"fold": fold, "seed": seed, "width": width, "groups": groups} | found)
        typer.echo(f"{name}: {np.mean(found['right']):.4f}")


@app.command()
def table(out: Annotated[Path, typer.Option(help="Where the cells are.")]) -> None:
    """Means over the folds that are there, by seed, and the differences with 95 % intervals."""
    by_seed: dict[int, list[dict[str, Any]]] = {}
    for cell in Cells(out):
        by_seed.setdefault(cell["seed"], []).append(cell)
    alone = list(Cells(out / SINGLES))
    for seed, found in by_seed.items():
        folds = {cell["fold"] for cell in found}
        beside = [cell for cell in alone if cell["seed"] == seed and cell["fold"] in folds]
        _tell(seed, sorted(found, key=lambda cell: int(cell["fold"])), beside)
    every = {seed: {cell["fold"]: cell for cell in found} for seed, found in by_seed.items()}
    common = sorted(set.intersection(*map(set, every.values()))) if len(every) > 1 else []
    if common:
        _tell_together([[cells[fold] for fold in common] for cells in every.values()])


def _tell_together(runs: list[list[dict[str, Any]]]) -> None:
    """Means over seeds, of the folds that all have."""
    groups = [f"{cell['fold']}-{group}" for cell in runs[0] for group in cell["groups"]]
    typer.echo(f"{len(runs)} seeds together, folds {', '.join(str(cell['fold']) for cell in runs[0])}:")

    def right(way: str) -> NDArray[np.float64]:
        return np.stack([np.concatenate([cell["ways"][way]["right"] for cell in run]) for run in runs])

    steps = [(f"cut {less}", f"cut {more}") for more, less in itertools.pairwise(CUTS)]
    for way, beside in [("cut 1.0", None), ("dense", "cut 1.0"), *steps]:
        line = f"  {way:<28} {right(way).mean():.4f}"
        for name in ("ece", "macs"):
            value = np.mean([cell["ways"][way][name] for run in runs for cell in run])
            line += f", ECE {value:.3f}" if name == "ece" else f", {value / 1e6:.1f} M MACs after the frontend"
        if beside is not None:
            mean, low, high = interval(right(beside) - right(way), groups)
            line += f"; {beside} {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        typer.echo(line)


def _tell(seed: int, cells: list[dict[str, Any]], singles: list[dict[str, Any]]) -> None:
    groups = [f"{cell['fold']}-{group}" for cell in cells for group in cell["groups"]]
    typer.echo(commits(cells))
    minutes = max(cell["seconds"] for cell in cells) / 60
    typer.echo(
        f"seed {seed}, folds {', '.join(str(cell['fold']) for cell in cells)}: {cells[0]['parameters']} parameters, "
        f"longest training {minutes:.1f} min"
    )

    def right(way: str) -> NDArray[np.float64]:
        return np.concatenate([cell["ways"][way]["right"] for cell in cells])

    def macs(way: str) -> float:
        return float(np.mean([cell["ways"][way]["macs"] for cell in cells]))

    def row(title: str, way: str, beside: str | None = None) -> None:
        each = ", ".join(f"{np.mean(cell['ways'][way]['right']):.4f}" for cell in cells)
        line = f"  {title:<28} {right(way).mean():.4f} ({each})"
        if "ece" in cells[0]["ways"][way]:
            line += f", ECE {np.mean([cell['ways'][way]['ece'] for cell in cells]):.3f}"
        line += f", {macs(way) / 1e6:.1f} M MACs after the frontend"
        if beside:
            mean, low, high = interval((right(beside) - right(way))[None], groups)
            line += f"; {beside} {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        typer.echo(line)

    def mean(key: str) -> float:
        return float(np.mean([cell["macs"][key] for cell in cells]))

    row("routed", "cut 1.0")
    row("dense", "dense", "cut 1.0")
    for before, share in itertools.pairwise(CUTS):
        row(f"{share:.0%} of the routed pairs", f"cut {share}", f"cut {before}")
    for name in SHOWN:
        row(f"saliency {name}", f"shown {name}", "cut 1.0")
    for width in sorted({cell["width"] for cell in singles}):
        alone = {cell["fold"]: cell for cell in singles if cell["width"] == width}
        if alone.keys() >= {cell["fold"] for cell in cells}:
            for cell in cells:
                cell["ways"][f"width {width}"] = alone[cell["fold"]]
            dearer = [f"cut {share}" for share in CUTS if macs(f"cut {share}") >= macs(f"width {width}")] or ["cut 1.0"]
            parameters = alone[cells[0]["fold"]]["parameters"]
            row(f"single, {parameters} parameters", f"width {width}", min(dearer, key=macs))
    typer.echo(f"  experts' share of the dense experts' MACs {mean('experts_share'):.3f}")
    frontend = mean("frontend")
    typer.echo(
        f"  with the frontend's {frontend / 1e6:.1f} M MACs: routed {(mean('routed') + frontend) / 1e6:.1f} M, dense "
        f"{(mean('dense') + frontend) / 1e6:.1f} M"
    )
    least = {expert: min(cell["pair_share_val"][expert] for cell in cells) for expert in cells[0]["pair_share_val"]}
    rarest = min(least, key=least.__getitem__)
    typer.echo(f"  least share of an expert of a fold's pairs on validation: {least[rarest]:.3f} ({rarest})")


if __name__ == "__main__":
    app()
