"""Does the saliency earn its place? Each way of choosing patches is trained with itself, under the same recipe.

::

    python benchmarks/evidence/routing.py train --out runs/evidence/routing     # goes on where it was stopped
    python benchmarks/evidence/routing.py table --out runs/evidence/routing

Arms: ``saliency`` (the product's), ``random`` (drawn anew for each clip) and ``loudest`` (by the power of each patch).
The last two deal the saliency's own values out to the patches, at random or the largest to the loudest, so that an arm
is as peaked as any other and looks at as many patches. Every clip runs 1/16 or 1/8 of all pairs, fixed beforehand: in
training one of the two by turns, in the test each. All arms share the product's recipe: a generalist that hears whole
clips for the first half, a warm-up in which all clips explore, and then six clips of ten that run what their own arm
chose, while four go on exploring. The tiles lie side by side, so that what is not chosen is not heard; of the
product's own, which overlap (``--overlapping``), a few hear most of the clip. ``distracted`` adds one or two bursts of
noise or pieces of recordings from outside the ten classes (spoken digits, marine mammals, ships), of 0.5 to 1.5 s and
0 to 10 dB over what the clip has while it sounds (over its mean, a burst would be far below a bark among silence), in
training and test; the recordings of the test are not those of the training. ``swapped`` tests the saliency's model
with the choices of the others, and with that of what the saliency only estimates: ``explained`` hears all patches
first, and chooses those that speak for the answer it then gives (Gradient x Input). All on ESC-10's official folds;
random choices are tested by ten draws. The saliency has the power that the ``latency`` budget gives it: with so few
pairs, the best patches get them.
"""

from __future__ import annotations

import csv
import itertools
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import msgspec
import numpy as np
import soundfile
import soxr
import torch
import typer
from cells import FOLDS, Cells, commits, fold_table, folder_of, interval, planned
from numpy.typing import NDArray
from torch import Tensor

from xaimoe_audio.config import SIZES, ModelConfig, Overrides
from xaimoe_audio.data.dataset import LabelledRecording, load_dataset
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.model.router import Router
from xaimoe_audio.model.territory import means_of_territories
from xaimoe_audio.spectrogram.attributes import BANDS
from xaimoe_audio.training import augment
from xaimoe_audio.training.assess import batches
from xaimoe_audio.training.clips import Clips
from xaimoe_audio.training.job import Job
from xaimoe_audio.training.loop import train as train_module
from xaimoe_audio.training.module import TrainingModule
from xaimoe_audio.training.normalise import fit_normalisation
from xaimoe_audio.training.recipe import Recipe
from xaimoe_audio.training.teacher import explained

Arm = Literal["saliency", "random", "loudest", "explained"]
ARMS: tuple[Arm, ...] = ("saliency", "random", "loudest")
"""That are trained."""
SWAPPED: tuple[Arm, ...] = ("random", "loudest", "explained")
"""That the saliency's model is tested with."""
SHARES = (1 / 16, 1 / 8)
OUTSIDE = ("arabic_digits", "marine_watkins", "deepship_long")
SEED_OF = {"train": 1, "test": 2}
"""Of the noises; those that the recipe itself adds have another one."""
PIECES = 60
"""Recordings taken from each split of each of them."""
BURST_S, BURST_DB = (0.5, 1.5), (0.0, 10.0)
DRAWS = 10
"""Of the random patches, in the test."""
RECIPE = Recipe(compute_weight=0.0, drop_share=0.0, patience_share=1.0)
"""Of all arms: the product's, but for what would let a clip run fewer pairs than are fixed."""
FOCUS = 16.0
"""Power of the saliency where few pairs run: they concentrate on the best patches."""
APART = 32
"""Frames of tiles that lie side by side."""
app = typer.Typer(add_completion=False, no_args_is_help=True)
Floats = NDArray[np.float32]


class FixedRouter(Router):
    """A router without bars: as many pairs run as it is told to, whatever the clip."""

    share = SHARES[-1]

    def bars(self, context: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros_like(attributes[:, 0])
        return nothing, nothing

    def forward(self, saliency: Tensor, context: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        pairs = round(self.share * self.patches * self.experts)
        self.config = msgspec.structs.replace(self.config, max_pairs=pairs)
        return super().forward(saliency, context, attributes)


class StudiedModel(MoEAudioModel):
    """The mixture with one of the ways to choose patches."""

    relevance: Tensor
    """[B, P], of the clips that ``explained`` is tested on."""

    def __init__(self, config: ModelConfig, arm: Arm) -> None:
        super().__init__(config)
        self.arm: Arm = arm
        self.router = FixedRouter(config.experts, self.router.band_fit, config.router)

    def attend(self, saliency: Tensor, spectrogram: Tensor) -> Tensor:
        if self.arm == "saliency":
            return saliency
        if self.arm == "random":
            order = torch.rand_like(saliency)
        else:
            order = self.loudness(spectrogram) if self.arm == "loudest" else self.relevance
        values = saliency.sort(dim=1, descending=True).values
        return torch.zeros_like(saliency).scatter(1, order.argsort(dim=1, descending=True), values)

    def loudness(self, spectrogram: Tensor) -> Tensor:
        """Mean power of what each patch's experts answer for, [B, P]."""
        window = self.frontend.window
        decibels = spectrogram * window.deviation[:, None] + window.mean[:, None]
        return means_of_territories(10 ** (decibels / 10), self.grid)


class TrainStudied(TrainingModule):
    """The product's training at two fixed shares of the pairs, with distractors if wanted."""

    def __init__(self, distractors: Clips | None, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.distractors = distractors

    def training_step(self, batch: Clips, batch_idx: int) -> Tensor:
        router = self.model.router
        assert isinstance(router, FixedRouter)
        router.share = SHARES[batch_idx % len(SHARES)]
        return super().training_step(batch, batch_idx)

    def _augmented(self, clips: Clips) -> tuple[Tensor, Tensor, Clips]:
        if self.distractors is not None:
            clips = with_bursts(clips, self.distractors, self.model.config)
        return super()._augmented(clips)


def power_when_loud(sums: Tensor) -> Tensor:
    """Mean of x**2 over a clip's frames weighed by what they have of it, [B, 1]: of a bark, and not of the silence
    around it. Never 0."""
    power = sums[:, BANDS]
    mean = torch.clamp(power.mean(1, keepdim=True), min=augment.LEAST_POWER)
    return torch.clamp(torch.square(power).mean(1, keepdim=True) / mean, min=augment.LEAST_POWER)


def with_bursts(clips: Clips, pool: Clips, config: ModelConfig) -> Clips:
    """Each clip with one burst of the pool, and half of them with two."""
    batch, frames, hop = len(clips.power), clips.power.shape[2], config.frontend.hop
    per_second, level = config.frontend.sample_rate / hop, power_when_loud(clips.sums)
    for again in (False, True):
        burst = augment.taken(pool, torch.randint(len(pool.power), (batch,)))
        length = per_second * (BURST_S[0] + torch.rand(batch, 1) * (BURST_S[1] - BURST_S[0]))
        start = torch.rand(batch, 1) * (frames - length)
        at = torch.arange(frames)
        inside = ((at >= start) & (at < start + length)).float()[:, None]
        turn = int(torch.randint(frames, ()))
        burst = burst._replace(power=burst.power.roll(turn, 2) * inside, sums=burst.sums.roll(turn, 2) * inside)
        decibels = BURST_DB[0] + torch.rand(batch, 1) * (BURST_DB[1] - BURST_DB[0])
        factor = level / power_when_loud(burst.sums) * 10 ** (decibels / 10)
        if again:
            factor = factor * (torch.rand(batch, 1) < 0.5)
        clips = augment.added(clips, torch.ones_like(factor), burst, factor, hop)
    return clips


def distractors(model: MoEAudioModel, split: str) -> Clips:
    """Noises, and as many pieces of recordings from outside the ten classes, as the frontend hears them."""
    frontend = model.config.frontend
    clips = []
    for name in OUTSIDE:
        with (folder_of(name) / "metadata.csv").open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        for row in rows[:: max(len(rows) // PIECES, 1)][:PIECES]:
            samples, rate = soundfile.read(folder_of(name) / row["filepath"], dtype="float32", always_2d=True)
            samples = soxr.resample(samples.mean(1), rate, frontend.sample_rate)
            if samples.std() > 0:
                clips.append(np.resize(samples / samples.std(), frontend.clip_samples))
    with torch.no_grad():
        parts = [model.frontend.frame(torch.from_numpy(clip)[None]) for clip in clips]
        noise = augment.noise_clips(model.frontend, frontend, seed=SEED_OF[split])
    again = torch.arange(len(clips)) % len(noise.power)
    power = torch.cat([*(power for power, _ in parts), noise.power[again]])
    sums = torch.cat([*(sums for _, sums in parts), noise.sums[again]])
    nothing = torch.zeros(len(power), 0)
    return Clips(power, sums, torch.zeros(len(power), 2), nothing, nothing)


@torch.no_grad()
def tested(model: StudiedModel, heard: tuple[Tensor, Tensor], truth: Tensor, share: float, arm: Arm) -> dict[str, Any]:
    """Of each clip, how often it is recognised when an arm chooses that share of the pairs; and what it looked at."""
    assert isinstance(model.router, FixedRouter)
    model.eval()
    if arm == "explained":
        model.relevance = explained(model, model.route(*heard))
    trained, model.arm, model.router.share = model.arm, arm, share
    torch.manual_seed(0)  # of the random patches
    answers, ran = [], []
    for _ in range(DRAWS if arm == "random" else 1):
        routed = model.route(*heard)
        scores = model.head(*model.bank(routed.spectrogram, routed.gates), routed.prior_logits)
        answers.append((scores.argmax(1) == truth).float())
        ran.append(routed.gates > 0)
    model.arm = trained
    used = torch.stack(ran)
    return {
        "right": torch.stack(answers).mean(0).tolist(),
        "pairs": float(used.sum((2, 3)).float().mean()),
        "patches": float(used.any(3).sum(2).float().mean()),
        "experts": float(used.any(2).sum(2).float().mean()),
    }


@torch.no_grad()
def heard_in(model: MoEAudioModel, items: list[LabelledRecording], distracted: bool) -> tuple[Tensor, Tensor]:
    """Spectrograms and attributes of the first clip of each recording, with bursts if wanted."""
    parts = []
    for _, waveform, source in batches(model, items, torch.device("cpu"), 1):
        power, sums = model.frontend.frame(waveform)
        parts.append((power, sums, source))
    power, sums, source = (torch.cat(column) for column in zip(*parts, strict=True))
    nothing = torch.zeros(len(power), 0)
    clips = Clips(power, sums, source, nothing, nothing)
    if distracted:
        torch.manual_seed(1)  # the same bursts for every arm
        clips = with_bursts(clips, distractors(model, "test"), model.config)
    spectrograms, attributes = model.frontend.window(clips.power, clips.sums, clips.source)
    return spectrograms, attributes


def run_cell(
    arm: Arm, distracted: bool, fold: int, seed: int, epochs: int, overlapping: bool, out: Path
) -> dict[str, Any]:
    """Trains one arm and tests it at each share."""
    dataset = folder_of("esc10")
    table = fold_table(dataset, fold, 2, out / f"fold{fold}.csv")
    bins = SIZES["accuracy"].bins
    tiles = {} if overlapping else {"tile": (bins, APART), "stride": (bins, APART)}
    overrides = Overrides(seed=seed, **tiles)
    config = planned(dataset, table, "accuracy", overrides)
    config = msgspec.structs.replace(config, router=msgspec.structs.replace(config.router, focus=FOCUS, unsure=None))
    loaded = load_dataset(dataset, table, "single_label", config.frontend.sample_rate)
    splits = loaded.with_targets(config.labels)
    lightning.seed_everything(seed, workers=True, verbose=False)
    model = StudiedModel(config, arm)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    fit_normalisation(model, splits["train"][0], torch.device("cpu"))
    job = Job(
        dataset_dir=dataset,
        metadata_csv=table,
        task="single_label",
        budget="accuracy",
        auto_config=True,
        overrides=overrides,
        epochs=epochs,
        batch_size=16,
        out=out / "run" / f"{arm}-{distracted}-{fold}-{seed}",
        channel="mix",
        device=torch.device("cpu"),
    )
    pool = distractors(model, "train") if distracted else None
    start = time.process_time()
    # The last averages are taken: the validation split is too small to choose an epoch by.
    train_module(
        model,
        job,
        RECIPE,
        splits["train"],
        splits["val"],
        lambda: None,
        make_module=partial(TrainStudied, pool),
        watch=False,
    )
    seconds = time.process_time() - start
    items, targets = splits["test"]
    heard = heard_in(model, items, distracted)
    truth = torch.from_numpy(targets).argmax(1)
    chosen = (arm, *(SWAPPED if arm == "saliency" else ()))
    return {
        "arm": arm,
        "distracted": distracted,
        "fold": fold,
        "seed": seed,
        "epochs": epochs,
        "seconds": seconds,
        "groups": [item.row.group for item in items],
        "tested": {name: {str(share): tested(model, heard, truth, share, name) for share in SHARES} for name in chosen},
    }


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where cells go.")],
    epochs: Annotated[int, typer.Option(min=1)] = 110,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with the seeds 0, 1, …")] = 3,
    folds: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(map(str, FOLDS)),
    overlapping: Annotated[bool, typer.Option(help="Tiles that share half their frames, as the product's do.")] = False,
    worker: Annotated[str, typer.Option(help="i/n: of n processes side by side, the i-th, from 0.")] = "0/1",
) -> None:
    """Train every cell that is not there yet."""
    options = {"study": "routing", "epochs": epochs, "overlapping": overlapping, "outside": OUTSIDE, "swapped": SWAPPED}
    options |= {"focus": FOCUS}
    cells = Cells(out, options | {"recipe": msgspec.to_builtins(RECIPE)})
    index, count = map(int, worker.split("/"))
    order = itertools.product(range(seeds), map(int, folds.split(",")), (True, False), ARMS)
    for i, (seed, fold, distracted, arm) in enumerate(order):
        name = f"{'distracted' if distracted else 'clean'}-{arm}-fold{fold}-seed{seed}"
        if i % count == index and cells.get(name) is None:
            cells.put(name, run_cell(arm, distracted, fold, seed, epochs, overlapping, out))
            typer.echo(name)


@app.command()
def table(out: Annotated[Path, typer.Option(help="Where the cells are.")]) -> None:
    """Accuracy of each arm, and how far the saliency is ahead of the others, with 95 % intervals."""
    found = list(Cells(out))
    typer.echo(commits(found))
    seconds = sorted(cell["seconds"] for cell in found)
    typer.echo(f"{len(found)} runs of {seconds[len(seconds) // 2]:.0f} s, at most {seconds[-1]:.0f} s")
    for distracted in (False, True):
        whole = _whole_runs([cell for cell in found if cell["distracted"] == distracted])
        if not whole:
            typer.echo(f"{'with distractors' if distracted else 'clean'}: no fold has all arms yet")
        for share in SHARES if whole else ():
            _tell(whole, share, f"{'with distractors' if distracted else 'clean'}, {share:.4f} of the pairs")


Runs = dict[int, dict[int, dict[Arm, dict[str, Any]]]]
"""Cells by seed, fold and arm."""


def _whole_runs(cells: list[dict[str, Any]]) -> Runs:
    """The seeds that have all arms on all of the folds that any seed has all arms on."""
    runs: Runs = {}
    for cell in cells:
        runs.setdefault(cell["seed"], {}).setdefault(cell["fold"], {})[cell["arm"]] = cell
    whole = {
        seed: {fold: arms for fold, arms in sorted(folds.items()) if len(arms) == len(ARMS)}
        for seed, folds in sorted(runs.items())
    }
    most = max((list(folds) for folds in whole.values()), key=len, default=[])
    return {seed: folds for seed, folds in whole.items() if folds and list(folds) == most}


def _tell(runs: Runs, share: float, title: str) -> None:
    folds = list(next(iter(runs.values())))
    groups = [f"{fold}-{group}" for fold in folds for group in runs[next(iter(runs))][fold]["saliency"]["groups"]]
    typer.echo(f"{title}: seeds {', '.join(map(str, runs))}, folds {', '.join(map(str, folds))}, {len(groups)} clips")

    def tests(trained: Arm, chosen: Arm) -> list[list[dict[str, Any]]]:
        return [[of[fold][trained]["tested"][chosen][str(share)] for fold in folds] for of in runs.values()]

    def right(found: list[list[dict[str, Any]]]) -> NDArray[np.float64]:
        return np.array([np.concatenate([test["right"] for test in of]) for of in found])

    own = right(tests("saliency", "saliency"))
    rows = {arm: tests(arm, arm) for arm in ARMS} | {f"swapped to {arm}": tests("saliency", arm) for arm in SWAPPED}
    for name, found in rows.items():
        answers = right(found)
        looked = {
            what: np.mean([test[what] for of in found for test in of]) for what in ("pairs", "patches", "experts")
        }
        line = f"  {name:<20} {answers.mean():.4f}  " + ", ".join(f"{value:.1f} {w}" for w, value in looked.items())
        if name != "saliency":
            mean, low, high = interval(own - answers, groups)
            line += f"; saliency ahead by {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        typer.echo(line)


if __name__ == "__main__":
    app()
