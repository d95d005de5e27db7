"""Watches, epoch by epoch, whether the saliency stays true to its teacher and to the model."""

from __future__ import annotations

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor

from xaimoe_audio.data.dataset import LabelledRecording, windows_of
from xaimoe_audio.engine import audio_spec
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.faithfulness import area, deletion_insertion, rank_correlation
from xaimoe_audio.training.teacher import explained

WINDOWS = 8
"""Validation recordings that are looked at, evenly spaced; of each its first window."""


class SaliencyProbe(Callback):
    """Logs ``val_rank_correlation``, ``val_deletion`` and ``val_insertion`` of a few recordings after each epoch."""

    def __init__(
        self,
        items: list[LabelledRecording],
        targets: NDArray[np.float32],
        model: MoEAudioModel,
        grad_cam_share: float = 0.0,
    ) -> None:
        self.grad_cam_share = grad_cam_share
        labelled = np.flatnonzero(targets.any(axis=1))
        chosen = labelled[np.unique(np.linspace(0, len(labelled) - 1, WINDOWS).astype(int))] if len(labelled) else []
        self.targets = torch.from_numpy(targets[chosen])
        found = [window for _, window in windows_of([items[i] for i in chosen], audio_spec(model.config), 1)]
        self.model = model
        if found:
            waveform = torch.from_numpy(np.stack([window.samples for window in found]))
            source = torch.tensor([window.source for window in found], dtype=torch.float32)
            device = next(model.parameters()).device
            with torch.no_grad():
                self.heard = model.frontend(waveform.to(device), source.to(device))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Asks teacher and model about the chosen windows."""
        if not len(self.targets):
            return
        device = pl_module.device
        spectrogram, attributes = (part.to(device) for part in self.heard)
        figures = self.measure(spectrogram, attributes, self.targets.to(device))
        pl_module.log_dict({f"val_{name}": value for name, value in figures.items()}, sync_dist=True)

    @torch.no_grad()
    def measure(self, spectrogram: Tensor, attributes: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Means over ``spectrogram`` [N, 1, F, T], ``attributes`` [N, A] and ``targets`` [N, L]."""
        model = self.model
        routed = model.route(spectrogram, attributes)
        teacher = explained(model, routed, targets, self.grad_cam_share)

        def score(masked: Tensor) -> Tensor:
            found = model.route(masked, attributes)
            scores: Tensor = model.head(*model.bank(found.spectrogram, found.gates), found.prior_logits)
            return (scores * targets).sum(1) / targets.sum(1)

        deletion, insertion = map(area, deletion_insertion(score, spectrogram, routed.saliency, model.config))
        correlation = rank_correlation(routed.saliency, teacher)
        return {"rank_correlation": correlation.mean(), "deletion": deletion.mean(), "insertion": insertion.mean()}
