"""Which explanation should the saliency learn? Each is compared with what leaving a patch out really costs.

::

    python benchmarks/evidence/teachers.py runs/evidence/folds/fold1-seed0 runs/evidence/folds/fold1.csv

For each recording of the test split, all patches are heard alike by all experts; then each patch is left out in turn,
and the evidence for the recording's class, its logit over the mean of all, is compared. Printed is the mean rank
correlation over the recordings, with a 95 % interval by a bootstrap over sources, of each candidate with that cost; of
the saliency with Gradient x Input, which it learns, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from cells import folder_of, interval
from torch import Tensor

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.data.dataset import load_dataset
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.run import BEST
from xaimoe_audio.training.assess import batches
from xaimoe_audio.training.faithfulness import rank_correlation
from xaimoe_audio.training.teacher import evenly, explained


@torch.no_grad()
def cost_of_leaving_out(model: MoEAudioModel, routed: Routed, targets: Tensor) -> Tensor:
    """What each patch adds to the evidence for a clip's class [B, L], by leaving it out, [B, P]."""

    def evidence(pairs: Tensor) -> Tensor:
        logits = model.head.logits(*model.bank(routed.spectrogram, evenly(pairs)), routed.prior_logits)
        return ((logits - logits.mean(1, keepdim=True)) * targets).sum(1)

    pairs = routed.gates_dense
    whole = evidence(pairs)
    costs = []
    for patch in range(pairs.shape[1]):
        others = pairs.clone()
        others[:, patch] = 0
        costs.append(whole - evidence(others))
    return torch.stack(costs, dim=1)


def main(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    table: Annotated[Path, typer.Argument(help="The table that it was trained by.")],
    dataset: Annotated[str, typer.Option(help="A folder in XAIMOE_DATA.")] = "esc10",
) -> None:
    """Compare the candidates on the test split of a run."""
    engine = MoEAudioClassifier.load(run / BEST, device="cpu").engine
    model = engine.model
    data = load_dataset(folder_of(dataset), table, "single_label", engine.audio.sample_rate)
    items, of_items = data.with_targets(engine.task.labels)["test"]
    found: dict[str, list[Tensor]] = {}
    groups: list[str] = []
    for owners, waveform, source in batches(model, items, engine.device, 1):
        with torch.no_grad():
            routed = model.route(*model.frontend(waveform, source))
        targets = torch.from_numpy(of_items)[owners]
        cost = cost_of_leaving_out(model, routed, targets)
        gradient = explained(model, routed, targets)
        for name, one, other in (
            ("Gradient x Input and leaving out", gradient, cost),
            ("Grad-CAM and leaving out", explained(model, routed, targets, grad_cam_share=1.0), cost),
            ("saliency and leaving out", routed.saliency, cost),
            ("saliency and Gradient x Input", routed.saliency, gradient),
        ):
            found.setdefault(name, []).append(rank_correlation(one, other))
        groups += [items[owner].row.group for owner in owners.tolist()]
    typer.echo(f"{len(groups)} recordings of {dataset}, rank correlations:")
    for name, parts in found.items():
        mean, low, high = interval(torch.cat(parts).numpy().astype(np.float64)[None], groups)
        typer.echo(f"  {name:<34} {mean:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    typer.run(main)
