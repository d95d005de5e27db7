"""The training loop's own callbacks: which weights are validated, kept and gone on with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xaimoe_audio.training.loop import Averaging, KeepBest, Patience, as_good

STEPS, EPOCHS = 5, 4


class Counter(lightning.LightningModule):
    """Its one weight is the number of steps so far; ``losses`` are those of two recordings, epoch by epoch.

    In the first ``whole`` epochs it says that it hears whole clips.
    """

    def __init__(self, losses: list[tuple[float, float]], whole: int = 0) -> None:
        super().__init__()
        self.weight, self.losses, self.whole = nn.Parameter(torch.zeros(())), losses, whole
        self.validated: list[float] = []
        self.recording_losses: list[float] = []

    @property
    def hears_whole(self) -> bool:
        return self.current_epoch < self.whole

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return -self.weight

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(float(self.weight))
        self.recording_losses = list(self.losses[self.current_epoch])
        self.log("val_loss", sum(self.recording_losses) / 2)

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
    losses: Sequence[float | tuple[float, float]],
    folder: Path,
    epochs: int = EPOCHS,
    resume: Path | None = None,
    whole: int = 0,
    more: tuple[Callback, ...] = (),
) -> tuple[Counter, list[float]]:
    """Trains a counter; a single number stands for two recordings that have this loss both."""
    module, kept = Counter([one if isinstance(one, tuple) else (one, one) for one in losses], whole), []
    callbacks = [
        *more,
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
def test_of_epochs_that_are_as_good_the_later_one_is_kept(tmp_path: Path) -> None:
    """The second and the fourth are higher by less than the standard error of the recordings' differences."""
    _, kept = run([(1.0, 3.0), (2.0, 2.5), (1.2, 3.3), (2.5, 1.9)], tmp_path)
    wanted = averages(3.0)
    assert kept == pytest.approx([wanted[0], wanted[1], wanted[3]])


def test_a_single_recording_tells_no_chance() -> None:
    assert as_good([1.0], []) and as_good([1.0], [1.0]) and not as_good([1.001], [1.0])


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


@pytest.mark.filterwarnings("ignore")
def test_the_generalists_copies_are_kept_until_the_experts_have_learned(tmp_path: Path) -> None:
    _, kept = run([3.0, 0.5, 2.0, 1.0], tmp_path, whole=2)
    assert kept == pytest.approx(averages(3.0))  # the third is worse than a copy, but it is the experts' first
    run([3.0, 0.5, 2.0], tmp_path, epochs=3, whole=2)
    _, kept = run([3.0, 0.5, 2.0, 2.5], tmp_path, resume=tmp_path / "last.ckpt", whole=2)
    assert kept == []  # a resumed run knows that the experts have begun


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    infinite = float("inf")
    assert run([infinite, float("nan"), infinite, infinite], tmp_path)[1] == []
    _, kept = run([infinite, 1.0, infinite, 0.5], tmp_path)
    wanted = averages(3.0)
    assert kept == pytest.approx([wanted[1], wanted[3]])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("whole", "epochs"), [(0, 2), (2, 4)])
def test_patience_begins_with_the_experts(tmp_path: Path, whole: int, epochs: int) -> None:
    module, _ = run([1.0, 2.0, 3.0, 4.0], tmp_path, whole=whole, more=(Patience(1),))
    assert len(module.validated) == epochs
