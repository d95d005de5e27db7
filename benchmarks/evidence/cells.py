"""What the evidence scripts share: ESC-10's folds, results that are kept cell by cell, and their uncertainty."""

from __future__ import annotations

import csv
import json
import os
import platform
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from xaimoe_audio.config import Budget, ModelConfig, Overrides
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.policy import Facts, decide
from xaimoe_audio.policy.build import build
from xaimoe_audio.profiling import profile_dataset
from xaimoe_audio.spectrogram import BACKENDS
from xaimoe_runtime.writing import replacing

ROOT = Path(__file__).parents[2]
FOLDS = (1, 2, 3, 4, 5)
RESAMPLES = 10_000


def folder_of(name: str) -> Path:
    """Folder of a real dataset, with a table ``metadata.csv``: in that which XAIMOE_DATA names, or beside the project.

    Raises:
        typer.BadParameter: it is not there.
    """
    home = Path(os.environ.get("XAIMOE_DATA", ROOT.parent / "shared" / "data"))
    if not (home / name / "metadata.csv").is_file():
        raise typer.BadParameter(
            f"{home / name}: no metadata.csv there; set XAIMOE_DATA to the folder that holds the dataset {name} "
            "(where each comes from, and its table's columns: benchmarks/RESULTS.md)"
        )
    return home / name


class Cells:
    """Results in a folder, one JSON a cell, so that a script can be stopped and goes on where it was.

    Their ``seconds`` are the process's on the CPU: with one thread the time of an idle machine, whatever else it did.

    Args:
        out: the experiment's folder; cells lie in ``cells`` in it.
        options: what all cells have in common; kept in ``experiment.json``. None to read only.

    Raises:
        typer.BadParameter: the folder holds an experiment with other options.
    """

    def __init__(self, out: Path, options: dict[str, Any] | None = None) -> None:
        self.folder = out / "cells"
        about = out / "experiment.json"
        if options is not None and about.is_file():
            known = json.loads(about.read_text(encoding="utf-8"))
            wanted = json.loads(json.dumps(options))
            differing = [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]
            if differing:
                raise typer.BadParameter(
                    f"{out}: holds cells of another experiment ({', '.join(differing)} differ); choose another --out"
                )
        elif options is not None:
            out.mkdir(parents=True, exist_ok=True)
            with replacing(about) as file:
                file.write(json.dumps(options, indent=1).encode())

    def get(self, name: str) -> dict[str, Any] | None:
        """What is known of a cell."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def put(self, name: str, content: dict[str, Any]) -> None:
        """Keeps a cell, and how it was made, unless it says that itself."""
        with replacing(self.folder / f"{name}.json") as file:
            file.write(json.dumps({"made": MADE, **content}).encode())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self.folder.glob("*.json")):
            yield json.loads(path.read_text(encoding="utf-8"))


def made() -> dict[str, Any]:
    """The code, the versions and the machine that a result is from."""
    cpus = [line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line]
    return {
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpus[0] if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def commits(found: list[dict[str, Any]]) -> str:
    """Of the code that made the cells; a ``*`` for files that were changed."""
    names = {cell["made"]["commit"][:7] + "*" * cell["made"]["changed"] for cell in found}
    return "code: " + ", ".join(sorted(names))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _git(*arguments: str) -> str:
    try:
        run = subprocess.run(("git", "-C", str(ROOT), *arguments), capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return run.stdout.strip()


MADE = made()
"""As this process was started: the files may change while it runs."""


def fold_table(dataset: Path, fold: int, val_per_class: int, out: Path) -> Path:
    """A table in which one official fold is the test split, and of the others little is held back for validation."""
    return resplit(dataset, lambda row: int(row["fold"]) == fold, val_per_class, out)


def resplit(dataset: Path, is_test: Callable[[dict[str, str]], bool], val_per_class: int, out: Path) -> Path:
    """A table whose test split is what ``is_test`` says of its rows.

    Of the rest whole groups, small ones first, go to the validation split until each class has ``val_per_class`` clips
    there, or would have more than twice as many; all others are for training.
    """
    with (dataset / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rest = [row for row in rows if not is_test(row)]
    draw = random.Random(0)
    held: set[str] = set()
    for label in sorted({row["label"] for row in rest}):
        of_label = [row["group"] for row in rest if row["label"] == label]
        groups = sorted(set(of_label) - held)
        draw.shuffle(groups)
        groups.sort(key=of_label.count, reverse=True)  # the smallest are taken first
        count = sum(group in held for group in of_label)
        while groups and count < val_per_class:
            more = of_label.count(groups[-1])
            if count and count + more > 2 * val_per_class:
                break
            held.add(groups.pop())
            count += more
    for row in rows:
        row["split"] = "test" if is_test(row) else "val" if row["group"] in held else "train"
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return out


def planned(dataset: Path, table: Path, budget: Budget, overrides: Overrides) -> ModelConfig:
    """The model that the policy makes for a dataset of one class a recording."""
    profile = profile_dataset(dataset, table, "single_label").profile
    policy = decide(Facts.of(profile, budget), overrides)
    return build(policy.made, "single_label", tuple(sorted(profile.classes)), FAMILIES, BACKENDS)


def interval(difference: NDArray[np.float64], groups: list[str], seed: int = 0) -> tuple[float, float, float]:
    """Mean of paired differences, and its 95 % interval by a bootstrap over sources and over runs.

    Clips of one source (ESC-10's ``group``) are drawn together, and so are all clips of one run: neither are
    independent.

    Args:
        difference: [runs, clips], between two arms, on the same clips.
        groups: of each clip.
        seed: of the draws.
    """
    draw = np.random.default_rng(seed)
    names, of = np.unique(groups, return_inverse=True)
    sums = np.stack([np.bincount(of, row, len(names)) for row in difference])  # [runs, groups]
    runs = draw.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLES) / len(sums)
    sources = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    means = np.einsum("rs,sg,rg->r", runs, sums, sources) / (sources @ np.bincount(of))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
