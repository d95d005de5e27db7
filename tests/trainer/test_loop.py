"""The training loop's own callbacks: which weights are validated, kept and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xaimoe_audio.training.loop import Averaging, KeepBest

STEPS, EPOCHS = 5, 4


class Counter(lightning.LightningModule):
    """Its one weight is the number of steps so far; ``losses`` are what validation says, epoch by epoch."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.weight, self.losses = nn.Parameter(torch.zeros(())), losses
        self.validated: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(float(self.weight))
        self.log("val_loss", self.losses[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def averages(steps: float) -> list[float]:
    """The moving average of 1, 2, 3 … after each epoch; the first weight is taken as it is."""
    average, found = 1.0, []
    for count in range(1, STEPS * EPOCHS):
        average += max(1 / steps, 9 / (10 + count)) * (count + 1 - average)
        if (count + 1) % STEPS == 0:
            found.append(average)
    return found


def run(
    losses: list[float], folder: Path, epochs: int = EPOCHS, resume: Path | None = None
) -> tuple[Counter, list[float]]:
    module, kept = Counter(losses), []
    callbacks = [
        KeepBest(lambda: kept.append(float(module.weight))),
        Averaging(3.0),
        ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False),
    ]
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    data = DataLoader(TensorDataset(torch.zeros(STEPS, 1)), 1)
    trainer.fit(module, data, DataLoader(TensorDataset(torch.zeros(1, 1)), 1), ckpt_path=resume, weights_only=True)
    return module, kept


@pytest.mark.filterwarnings("ignore")
def test_the_average_is_validated_and_kept_while_the_weights_train_on(tmp_path: Path) -> None:
    module, kept = run([3.0, 1.0, 2.0, 0.5], tmp_path)
    wanted = averages(3.0)
    assert module.validated == pytest.approx(wanted)
    assert kept == pytest.approx([wanted[0], wanted[1], wanted[3]])  # the third epoch was no better
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert float(saved["current_model_state"]["weight"]) == STEPS * EPOCHS
    assert float(saved["state_dict"]["weight"]) == pytest.approx(wanted[3])


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_goes_on_with_weights_averages_and_the_best_so_far(tmp_path: Path) -> None:
    run([3.0, 1.0], tmp_path, epochs=2)
    module, kept = run([3.0, 1.0, 2.0, 0.5], tmp_path, resume=tmp_path / "last.ckpt")
    wanted = averages(3.0)
    assert module.validated == pytest.approx(wanted[2:])
    assert kept == pytest.approx(wanted[3:])
