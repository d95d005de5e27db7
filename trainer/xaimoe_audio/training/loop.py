"""The training run: lightning around the training module, with its checkpoints."""

from __future__ import annotations

import logging
import math
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from xaimoe_audio.data.dataset import Data
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.run import LAST, LOGS
from xaimoe_audio.tensor_file import TensorFile, read_file
from xaimoe_audio.training.checkpoint_io import ReplacingCheckpointIO
from xaimoe_audio.training.clips import TrainingClips, ValidationWindows
from xaimoe_audio.training.job import Job
from xaimoe_audio.training.losses import class_weights
from xaimoe_audio.training.module import TrainingModule
from xaimoe_audio.training.probe import SaliencyProbe
from xaimoe_audio.training.processes import cluster_environment
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime.errors import BundleError, ConfigError
from xaimoe_runtime.inference import BATCH

Floats = NDArray[np.float32]
MIN_PATIENCE = 10


class Averaging(WeightAveraging):
    """Validates, and leaves in the model at the end, an exponential moving average of the weights.

    The averages stay in the model until validation is wholly over, so that callbacks before this one see them.

    Args:
        steps: about how many steps the average is over; the first ones, fewer, so that the start is soon forgotten.
    """

    def __init__(self, steps: float) -> None:
        def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
            share = max(9 / (10 + int(count)), 1 / max(steps, 1.0))
            get_ema_multi_avg_fn(1 - share)(averaged, current, count)  # type: ignore[no-untyped-call]

        super().__init__(multi_avg_fn=average)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leaves the averages where they are."""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Puts the weights under training back."""
        super().on_validation_epoch_end(trainer, pl_module)


class Patience(EarlyStopping):
    """Stops when the validation loss has not improved for so long; a resumed run keeps the count, not the patience.

    It begins to count once the experts learn: what the generalist's copies reach before that is no measure for them.

    Args:
        epochs: that may pass without improvement.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__("val_loss", patience=epochs, check_on_train_epoch_end=False)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Counts the epoch, if it is one of the experts'."""
        if not _generalists(pl_module):
            super().on_validation_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up from ``last.pt``."""
        super().load_state_dict(state_dict | {"patience": self.patience})


class Draws(Callback):
    """Lets a resumed run go on with the random numbers where it stopped; several processes draw new ones."""

    def __init__(self) -> None:
        self.resumed: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What ``last.pt`` keeps: the states of the CPU's generator and of the GPUs'."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up from ``last.pt``."""
        self.resumed = state_dict

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Sets the generators before the first batch is drawn, as they were before the next epoch's."""
        if self.resumed and trainer.world_size == 1:
            torch.set_rng_state(self.resumed["cpu"].cpu())
            for device, state in enumerate(self.resumed["cuda"][: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state.cpu(), device)


class KeepBest(Callback):
    """Calls ``save`` whenever the validation loss is the lowest so far, or as good as that; remembers it across a
    resumed run.

    As good is a loss that is higher by no more than the standard error of the recordings' differences (after the
    one-standard-error rule of L. Breiman et al., "Classification and Regression Trees", 1984): what a few other
    recordings in the validation split could have turned round. The later epoch has learned for longer.

    The generalist's copies are kept until the experts have learned for an epoch, and then begin anew: on a small
    validation split the copies may look better by chance than what is trained to the end.
    """

    def __init__(self, save: Callable[[], None]) -> None:
        self.save, self.of_generalist = save, True
        self.best: list[float] = []
        """Losses of the validation recordings in the best epoch so far."""

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Compares the epoch's loss with the best."""
        losses: list[float] = pl_module.recording_losses  # type: ignore[assignment]  # a list, not a module
        first = self.of_generalist and not _generalists(pl_module)
        self.of_generalist = _generalists(pl_module)
        if first:
            self.best = []
        if not math.isfinite(sum(losses)):
            return
        if as_good(losses, self.best) and trainer.is_global_zero:
            self.save()
        if not self.best or sum(losses) < sum(self.best):
            self.best = list(losses)

    def state_dict(self) -> dict[str, Any]:
        """What ``last.pt`` keeps."""
        return {"best": self.best, "of_generalist": self.of_generalist}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up from ``last.pt``."""
        self.best, self.of_generalist = state_dict["best"], state_dict["of_generalist"]


def as_good(losses: list[float], best: list[float]) -> bool:
    """Whether losses of the same recordings are no higher than the best ones, but for chance."""
    if not best:
        return True
    differences = np.subtract(losses, best)
    error = differences.std(ddof=1) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return bool(differences.mean() <= error)


def _generalists(module: lightning.LightningModule) -> bool:
    """Whether what is trained is still the generalist."""
    return bool(getattr(module, "hears_whole", False))


def train(
    model: MoEAudioModel,
    job: Job,
    recipe: Recipe,
    train_data: Data,
    val_data: Data,
    save_best: Callable[[], None],
    taught: Floats | None = None,
    make_module: Callable[..., TrainingModule] = TrainingModule,
    watch: bool = True,
) -> None:
    """Trains ``model`` in place; ``save_best`` is called with the model at each new best validation loss.

    Writes ``last.pt`` after each epoch and the learning curves to ``logs/metrics.csv`` (and for TensorBoard, if that is
    installed). With several devices or nodes the processes train together (PyTorch's DistributedDataParallel); each
    hears its share of the training clips and all of the validation ones. ``taught`` [N, C] is what another classifier
    says of the training recordings. Studies that train in another way give a ``make_module`` of their own, and need
    not ``watch`` the saliency.

    Raises:
        BundleError: ``last.pt`` is broken.
        ConfigError: a resumed run has gone on for more epochs already.
        KeyboardInterrupt: the user stopped the training; ``last.pt`` is of the last whole epoch.
    """
    last = job.resume_from or job.out / LAST
    if job.resume:
        _check_resumable(last, job.epochs)
    processes = job.devices * job.nodes
    clips = TrainingClips(*train_data, model, taught)
    full = len(clips) // processes >= job.batch_size
    loader = DataLoader(clips, job.batch_size, shuffle=True, drop_last=full)
    windows = DataLoader(ValidationWindows(*val_data, model), BATCH)
    share = -(-len(clips) // processes)
    steps = job.epochs * (share // job.batch_size if full else 1)
    # A long recording gives many clips: what is weighed is what batches are drawn from.
    weights = class_weights(train_data[1][clips.order], recipe.class_balance)
    module = make_module(model, recipe, steps, weights, 0 if taught is None else taught.shape[1])
    module.train()  # lightning leaves each part in the mode it finds it in
    patience = max(MIN_PATIENCE, round(recipe.patience_share * job.epochs))
    last_saver = ModelCheckpoint(dirpath=job.out, filename=Path(LAST).stem, save_top_k=1, enable_version_counter=False)
    last_saver.FILE_EXTENSION = Path(LAST).suffix
    callbacks = [
        *([SaliencyProbe(*val_data, model, recipe.grad_cam_share)] if watch else []),
        KeepBest(save_best),  # before the averages leave the model
        Averaging(recipe.average_share * steps),
        Patience(patience),
        Draws(),
        last_saver,
        RichProgressBar(console_kwargs={"stderr": True}),
    ]
    with _quiet():
        trainer = lightning.Trainer(
            max_epochs=job.epochs,
            accelerator="gpu" if job.device.type == "cuda" else "cpu",
            devices=job.devices,
            num_nodes=job.nodes,
            strategy=_strategy(processes, job.device),
            logger=_loggers(job),
            callbacks=callbacks,
            plugins=[ReplacingCheckpointIO(), *cluster_environment(job)],
            enable_model_summary=False,
            gradient_clip_val=recipe.clip_gradient,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            inference_mode=False,  # the saliency's teacher takes gradients in validation, too
        )
        try:
            trainer.fit(module, loader, windows, ckpt_path=last if job.resume else None, weights_only=True)
        except SystemExit as error:
            # lightning answers Ctrl-C by ignoring the next ones and leaving with 1.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from error
    model.to(job.device).eval()


def _strategy(processes: int, device: torch.device) -> Strategy | str:
    """One process, or several with the collective library of their device."""
    if processes == 1:
        return "auto"
    backend = "nccl" if device.type == "cuda" else "gloo"
    # An expert that no clip of a batch chose has no gradient in that step.
    return DDPStrategy(process_group_backend=backend, find_unused_parameters=True)


def _loggers(job: Job) -> list[Logger]:
    version = _log_version(job.out / LOGS, job.resume)
    loggers: list[Logger] = [CSVLogger(job.out, name=LOGS, version=version)]
    if find_spec("tensorboard") or find_spec("tensorboardX"):
        loggers.append(TensorBoardLogger(job.out, name=LOGS, version=version))
    return loggers


def _log_version(logs: Path, resume: bool) -> str:
    """The folder for the learning curves: ``logs`` itself, or a new one inside it for each time a run is resumed."""
    return f"resumed_{len(list(logs.glob('resumed_*'))) + 1}" if resume else ""


def _check_resumable(last: Path, epochs: int) -> None:
    try:
        done = int(TensorFile(read_file(last)).content["epoch"]) + 1
    except OSError as error:
        raise BundleError(f"{last}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, TypeError, LookupError) as error:
        raise BundleError(
            f"{last}: cannot be resumed, the file is broken ({error}); train anew with --force"
        ) from error
    if epochs < done:
        raise ConfigError(f"epochs: found {epochs}, but {last} has {done} already; ask for more, or leave --resume out")


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
