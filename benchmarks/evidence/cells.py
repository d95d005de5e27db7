"""What the evidence scripts share: ESC-10's folds, results that are kept cell by cell, and their uncertainty."""

from __future__ import annotations

import csv
import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.console import replacing

DATA = Path(os.environ.get("XAIMOE_DATA", Path(__file__).parents[3] / "shared" / "data"))
"""Folder of the real datasets."""
FOLDS = (1, 2, 3, 4, 5)
RESAMPLES = 10_000


class Cells:
    """Results in a folder, one JSON a cell, so that a script can be stopped and goes on where it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> dict[str, Any] | None:
        """What is known of a cell."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def put(self, name: str, content: dict[str, Any]) -> None:
        """Keeps a cell."""
        with replacing(self.folder / f"{name}.json") as file:
            file.write(json.dumps(content, indent=1).encode())


def fold_table(dataset: Path, fold: int, val_per_class: int, out: Path) -> Path:
    """A table in which one official fold is the test split.

    Of the other folds whole groups go to the validation split until each class has ``val_per_class`` clips there.
    """
    with (dataset / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rest = [row for row in rows if int(row["fold"]) != fold]
    draw = random.Random(0)
    held: set[str] = set()
    for label in sorted({row["label"] for row in rest}):
        groups = sorted({row["group"] for row in rest if row["label"] == label})
        draw.shuffle(groups)
        count = 0
        for group in groups:
            if count >= val_per_class:
                break
            held.add(group)
            count += sum(row["group"] == group and row["label"] == label for row in rest)
    for row in rows:
        row["split"] = "test" if int(row["fold"]) == fold else "val" if row["group"] in held else "train"
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return out


def interval(right: NDArray[np.float64], other: NDArray[np.float64], seed: int = 0) -> tuple[float, float, float]:
    """Mean of ``right - other`` over paired clips, and its 95 % interval by bootstrap over the clips.

    Args:
        right: [clips] or [seeds, clips], 1 where an arm is right; seeds are averaged first, a clip is drawn whole.
        other: the same clips under another arm.
        seed: of the draws.
    """
    difference = np.atleast_2d(right).mean(0) - np.atleast_2d(other).mean(0)
    draws = np.random.default_rng(seed).integers(len(difference), size=(RESAMPLES, len(difference)))
    low, high = np.quantile(difference[draws].mean(1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)
