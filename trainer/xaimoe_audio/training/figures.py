"""Figures of a training run: the confusion matrix and the learning curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from xaimoe_runtime.drawing import COLOURS, save_figure, shortened

CURVES = (
    ("Loss", (("loss", "training"), ("val_loss", "validation"))),
    ("Validation: share with all labels right", (("val_score", "routed"),)),
    (
        "Saliency",
        (
            ("val_rank_correlation", "rank correlation with the teacher"),
            ("val_deletion", "deletion"),
            ("val_insertion", "insertion"),
        ),
    ),
    ("Compute", (("val_pairs_share", "share of pairs run"), ("val_experts_share", "share of experts used"))),
)
"""Panels of the learning curves, and the columns of ``logs/metrics.csv`` in each, with their names."""
NUMBERED = 20
"""Classes up to which the cells of a confusion matrix have their numbers."""


def write_confusion(confusion: list[list[int]], labels: tuple[str, ...], out: Path) -> None:
    """Draws counts [L, L] (rows are the truth) as shares of each row, in PNG."""
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 3.0 + 0.35 * min(len(labels), 60)
    figure = Figure(figsize=(size + 1.2, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    names = [shortened(label) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=90)
    axes.set_yticks(range(len(labels)), names)
    axes.set(xlabel="Predicted", ylabel="True")
    if len(labels) <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                shade = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=shade, fontsize=8)
    figure.colorbar(image, ax=axes, label="Share of the true class", shrink=0.8)
    save_figure(figure, out)


def read_curves(logs: Path) -> pd.DataFrame | None:
    """What a training and those that resumed it have logged, by epoch from 0; None if nothing."""
    parts = [pd.read_csv(path) for path in (logs / "metrics.csv", *_resumed(logs)) if path.is_file()]
    return pd.concat(parts).groupby("epoch").last() if parts else None


def write_curves(logs: Path, out: Path) -> None:
    """Draws the learning curves that ``logs`` (the folder of ``metrics.csv``, and of resumed runs) hold, in PNG."""
    from matplotlib.figure import Figure

    curves = read_curves(logs)
    if curves is None:
        return
    figure = Figure(figsize=(11, 7), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        drawn = [(column, name) for column, name in lines if column in curves]
        for colour, (column, name) in zip(COLOURS, drawn, strict=False):
            found = curves[column].dropna()
            axes.plot(found.index + 1, found, color=colour, label=name, marker="." if len(found) < 3 else None)
        axes.set(title=title, xlabel="Epoch")
        axes.grid(alpha=0.3)
        if drawn:
            axes.legend(fontsize=8)
    save_figure(figure, out)


def _resumed(logs: Path) -> list[Path]:
    return sorted(logs.glob("resumed_*/metrics.csv"), key=lambda path: int(path.parent.name.rpartition("_")[2]))
