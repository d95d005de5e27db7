"""How faithful the explanations are, on ESC-10's official folds: deletion, insertion and Quantus's metrics.

::

    python benchmarks/evidence/explanations.py judge runs/evidence/folds --out runs/evidence/explanations
    python benchmarks/evidence/explanations.py table --out runs/evidence/explanations --figure faithfulness

``judge`` goes on where it was stopped; the models are those of ``folds.py train``, each judged on its own test split.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from cells import Cells, commits, folder_of

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio import faithfulness as judging
from xaimoe_audio.config import Split
from xaimoe_audio.data.dataset import load_dataset
from xaimoe_audio.run import BEST
from xaimoe_runtime.pictures import save_both

TEST: tuple[Split, ...] = ("test",)
app = typer.Typer(add_completion=False, no_args_is_help=True)
Out = Annotated[Path, typer.Option(help="Where the cells go.")]


@app.command()
def judge(
    runs: Annotated[Path, typer.Argument(help="The folder of folds.py train.")],
    out: Out,
    recordings: Annotated[int, typer.Option(min=1, help="Of each fold's test split, evenly over its table.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the trainings.")] = 0,
) -> None:
    """Judge the explanations of each fold's model."""
    cells = Cells(out, {"study": "explanations", "recordings": recordings, "seed": seed})
    for run in sorted(runs.glob(f"fold*-seed{seed}")):
        if cells.get(run.name) is not None:
            continue
        engine = MoEAudioClassifier.load(run / BEST, "cpu").engine
        table = runs / f"{re.sub('-seed.*', '', run.name)}.csv"
        rate = engine.audio.sample_rate
        items = load_dataset(folder_of("esc10"), table, "single_label", rate, splits=TEST, required=TEST).split("test")
        chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, recordings).astype(int))]
        fold = int(re.findall(r"\d+", run.name)[0])  # each with random orders of its own
        cells.put(run.name, {"judged": [asdict(one) for one in judging.judge(engine, chosen, fold)]})


@app.command()
def table(
    out: Out,
    figure: Annotated[Path | None, typer.Option(help="To draw, as PNG and SVG; without its ending.")] = None,
) -> None:
    """All folds together."""
    found = list(Cells(out))
    typer.echo(commits(found))
    figures = judging.summarise([judging.Judged(**one) for cell in found for one in cell["judged"]])
    typer.echo(judging.table(figures))
    if figure is not None:
        save_both(judging.draw(figures), figure)


if __name__ == "__main__":
    app()
