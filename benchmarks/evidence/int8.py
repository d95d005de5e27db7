"""What INT8 costs and gains where the exporter chooses it: accuracy on ESC-10's official folds, bytes and time.

::

    python benchmarks/evidence/int8.py train --out runs/evidence/int8      # goes on where it was stopped
    python benchmarks/evidence/int8.py table --out runs/evidence/int8

The experts are wider than the policy's, wide enough to gain time by INT8; the ranges are from the training split, the
choice of graphs is tried on the validation split, and the figures are of the test split.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from cells import FOLDS, Cells, commits, fold_table, folder_of, interval

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.data.dataset import LabelledRecording, load_dataset
from xaimoe_audio.training.assess import answer
from xaimoe_runtime import Runtime

PRECISIONS = ("fp32", "int8")
ROUNDS = 3
"""Of timing each test recording, by turns."""
app = typer.Typer(add_completion=False, no_args_is_help=True)


def timed(runtimes: dict[str, Runtime], items: list[LabelledRecording]) -> dict[str, float]:
    """Median milliseconds of a clip, by precision, on the test recordings."""
    spent: dict[str, list[float]] = {precision: [] for precision in runtimes}
    for _ in range(ROUNDS):
        for item in items:
            clip = np.resize(item.recording.samples(), next(iter(runtimes.values())).audio.clip_samples)[None]
            source = np.array([[item.recording.native_rate, 0.0]], np.float32)
            for precision, runtime in runtimes.items():
                start = perf_counter()
                runtime.run(clip, source, "routed")
                spent[precision].append((perf_counter() - start) * 1e3)
    return {precision: median(found) for precision, found in spent.items()}


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Where runs and cells go.")],
    epochs: Annotated[int, typer.Option(min=1)] = 100,
    width: Annotated[int, typer.Option(min=1, help="Channels of an expert's first convolution.")] = 32,
    folds: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(map(str, FOLDS)),
    val_per_class: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Train, export and measure each fold that is not there yet."""
    dataset = folder_of("esc10")
    options = {"study": "int8", "epochs": epochs, "width": width, "val_per_class": val_per_class}
    cells = Cells(out, options)
    for fold in map(int, folds.split(",")):
        name = f"fold{fold}"
        if cells.get(name) is not None:
            continue
        table = fold_table(dataset, fold, val_per_class, out / f"fold{fold}.csv")
        classifier = MoEAudioClassifier(device="cpu", expert_width=width)
        classifier.fit(dataset, table, epochs, 16, out / name, force=True)
        start = perf_counter()
        report = classifier.export(out / name / "bundle", precision=",".join(PRECISIONS), force=True)
        seconds = perf_counter() - start
        runtimes = {p: Runtime.load(out / name / "bundle", "cpu", precision=p) for p in PRECISIONS}
        splits = load_dataset(dataset, table, "single_label", classifier.engine.audio.sample_rate)
        items, targets = splits.with_targets(classifier.labels)["test"]
        right = {
            precision: (answer(runtime, items, "routed").scores.argmax(1) == targets.argmax(1)).astype(float).tolist()
            for precision, runtime in runtimes.items()
        }
        kept: dict[str, Any] = {"fold": fold, "right": right, "groups": [item.row.group for item in items]}
        kept |= {"export_seconds": seconds, "ms": timed(runtimes, items), "report": report}
        cells.put(name, kept)
        typer.echo(f"{name}: {np.mean(right['fp32']):.4f}, in INT8 {np.mean(right['int8']):.4f}")


@app.command()
def table(out: Annotated[Path, typer.Option(help="Where the cells are.")]) -> None:
    """Accuracy, bytes and time of both precisions, over the folds that are there."""
    found = list(Cells(out))
    typer.echo(commits(found))
    right = {p: np.concatenate([cell["right"][p] for cell in found]) for p in PRECISIONS}
    groups = [f"{cell['fold']}-{group}" for cell in found for group in cell["groups"]]
    mean, low, high = interval((right["fp32"] - right["int8"])[None], groups)
    typer.echo(f"ESC-10, folds {', '.join(str(cell['fold']) for cell in found)}, {len(groups)} clips")
    typer.echo(
        f"  accuracy {right['fp32'].mean():.4f}, in INT8 {right['int8'].mean():.4f}: lost {mean:+.4f} ({low:+.4f} to "
        f"{high:+.4f})"
    )
    sizes = [_initialiser_bytes(cell["report"]["graphs"]) for cell in found]
    fp32, int8, count = np.sum(sizes, axis=0)
    typer.echo(f"  {count / len(found):.1f} graphs in INT8, their initialisers {int8 / fp32:.3f} times the bytes")
    ms = {precision: np.mean([cell["ms"][precision] for cell in found]) for precision in PRECISIONS}
    seconds = median(cell["export_seconds"] for cell in found)
    typer.echo(
        f"  a clip {ms['fp32']:.2f} ms, in INT8 {ms['int8']:.2f} ms ({ms['int8'] / ms['fp32']:.3f} times); an export "
        f"{seconds:.0f} s"
    )


def _initialiser_bytes(graphs: dict[str, Any]) -> tuple[int, int, int]:
    """Of the graphs that run in INT8, in both precisions; and how many there are."""
    chosen = graphs.get("int8", {})
    fp32, int8 = (sum(graphs[precision][name]["initialiser_bytes"] for name in chosen) for precision in PRECISIONS)
    return fp32, int8, len(chosen)


if __name__ == "__main__":
    app()
