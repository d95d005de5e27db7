"""The training run: lightning around the training module, with its checkpoints."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from xaimoe_audio.data.dataset import LabelledRecording, TrainingClips, windows_of
from xaimoe_audio.engine import audio_spec
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.module import TrainingModule
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.inference import BATCH

Floats = NDArray[np.float32]
LAST = "last.pt"
MIN_PATIENCE = 10


class ValidationWindows(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Windows over whole recordings: (waveform [S], source [2], target [L])."""

    def __init__(self, items: list[LabelledRecording], targets: Floats, model: MoEAudioModel) -> None:
        self.items, self.targets, self.spec = items, torch.from_numpy(targets), audio_spec(model.config)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for owner, window in windows_of(self.items, self.spec):
            yield torch.from_numpy(window.samples), torch.tensor(window.source), self.targets[owner]


class Averaging(WeightAveraging):
    """Validates, and leaves in the model at the end, an exponential moving average of the weights.

    The averages stay in the model until validation is wholly over, so that callbacks before this one see them.

    Args:
        steps: about how many steps the average is over; the first ones, fewer, so that the start is soon forgotten.
    """

    def __init__(self, steps: float) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            share = max(1 / max(steps, 1.0), 9 / (10 + int(count)))
            return averaged + share * (current - averaged)

        super().__init__(avg_fn=average)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leaves the averages where they are."""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Puts the weights under training back."""
        super().on_validation_epoch_end(trainer, pl_module)


class KeepBest(Callback):
    """Calls ``save`` whenever the validation loss is the lowest so far; remembers it across a resumed run."""

    def __init__(self, save: Callable[[], None]) -> None:
        self.save, self.best = save, float("inf")

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compares the epoch's loss with the best."""
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self.best and trainer.is_global_zero:
            self.best = loss
            self.save()

    def state_dict(self) -> dict[str, Any]:
        """What ``last.pt`` keeps."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up from ``last.pt``."""
        self.best = state_dict["best"]


def train(
    model: MoEAudioModel,
    recipe: Recipe,
    train_data: tuple[list[LabelledRecording], Floats],
    val_data: tuple[list[LabelledRecording], Floats],
    epochs: int,
    batch_size: int,
    device: torch.device,
    out_dir: Path,
    save_best: Callable[[], None],
    resume: bool,
) -> None:
    """Trains ``model`` in place; ``save_best`` is called with the model at each new best validation loss.

    Writes ``last.pt`` after each epoch and the learning curves to ``logs/metrics.csv``.

    Raises:
        BundleError: ``last.pt`` is broken.
        KeyboardInterrupt: the user stopped the training; ``last.pt`` is of the last whole epoch.
    """
    last = out_dir / LAST
    if resume:
        _check_readable(last)
    clips = TrainingClips(*train_data, model.config.frontend.clip_samples)
    loader = DataLoader(clips, batch_size, shuffle=True, drop_last=len(clips) >= batch_size)
    windows = DataLoader(ValidationWindows(*val_data, model), BATCH)
    steps = epochs * len(loader)
    module = TrainingModule(model, recipe, total_steps=steps)
    patience = max(MIN_PATIENCE, round(recipe.patience_share * epochs))
    last_saver = ModelCheckpoint(dirpath=out_dir, filename=Path(LAST).stem, save_top_k=1, enable_version_counter=False)
    last_saver.FILE_EXTENSION = Path(LAST).suffix
    callbacks = [
        KeepBest(save_best),  # before the averages leave the model
        Averaging(recipe.average_share * steps),
        EarlyStopping("val_loss", patience=patience, mode="min"),
        last_saver,
        RichProgressBar(console_kwargs={"stderr": True}),
    ]
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            logger=CSVLogger(out_dir, name="logs", version=_log_version(out_dir / "logs", resume)),
            callbacks=callbacks,
            enable_model_summary=False,
            gradient_clip_val=recipe.clip_gradient,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        try:
            trainer.fit(module, loader, windows, ckpt_path=last if resume else None, weights_only=True)
        except SystemExit as error:
            # lightning answers Ctrl-C by ignoring the next ones and leaving with 1.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from error
    model.to(device).eval()


def _log_version(logs: Path, resume: bool) -> str:
    """The folder for the learning curves: ``logs`` itself, or a new one inside it for each time a run is resumed."""
    return f"resumed_{len(list(logs.glob('resumed_*'))) + 1}" if resume else ""


def _check_readable(last: Path) -> None:
    try:
        torch.load(last, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes make the unpickler fail in any way there is
        raise BundleError(f"{last}: cannot be resumed, the file is broken; train again without --resume") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what lightning says to every user of it; its warnings about this loop are known and meant."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        logger.setLevel(level)
