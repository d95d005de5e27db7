"""The training loop's inside, for lightning."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.training.augment import frequency_shift, level_jitter, spec_augment, stretch, time_shift
from xaimoe_audio.training.recipe import Recipe
from xaimoe_audio.training.teacher import gradient_times_input, saliency_loss

Batch = tuple[Tensor, Tensor, Tensor]


class TrainingModule(lightning.LightningModule):
    """Trains glance, router, experts and head together.

    The choice of pairs is hard, but its gates are continuous and piecewise differentiable (softmax, product, relu
    over a moving cut), so plain backpropagation through the gates of the chosen pairs is the estimator; the dense steps
    give a gradient to the pairs that are not chosen.
    """

    def __init__(self, model: MoEAudioModel, recipe: Recipe, total_steps: int) -> None:
        super().__init__()
        self.model, self.recipe, self.total_steps = model, recipe, total_steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch of waveforms [B, S], sources [B, 2] and targets [B, L]."""
        recipe, model = self.recipe, self.model
        waveform, source, targets = batch
        with torch.no_grad():
            spectrogram, attributes = model.frontend(waveform, source)
            spectrogram = level_jitter(spectrogram, recipe.level_jitter)
            spectrogram = stretch(spectrogram, recipe.stretch)
            spectrogram = time_shift(spectrogram, recipe.time_shift)
            spectrogram = frequency_shift(spectrogram, recipe.frequency_shift)
            spectrogram = spec_augment(spectrogram, recipe.masks)
        teaching = self.global_step % recipe.teach_every == 0
        spectrogram.requires_grad_(teaching)
        routed = model.route(spectrogram, attributes)
        gates = self._training_gates(routed, teaching)
        logits = model.head.logits(*model.mixture(routed.feature_map, gates), routed.prior_logits)
        loss = self.classification_loss(logits, targets)
        loss = loss + recipe.prior_weight * self.classification_loss(routed.prior_logits, targets)
        loss = loss + recipe.balance_weight * self.balance_loss(routed)
        if teaching:
            teacher = gradient_times_input(logits, targets, spectrogram, model)
            distance = saliency_loss(routed.saliency, teacher)
            self.log("saliency_loss", distance, on_step=False, on_epoch=True)
            loss = loss + recipe.saliency_weight * distance
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of the routed model on windows of the validation split."""
        waveform, source, targets = batch
        routed = self.model.route(*self.model.frontend(waveform, source))
        logits = self.model.head.logits(*self.model.mixture(routed.feature_map, routed.gates), routed.prior_logits)
        losses = self.classification_loss(logits, targets, smoothing=0.0)
        self.log("val_loss", losses, on_epoch=True, prog_bar=True, batch_size=len(waveform))

    def classification_loss(self, logits: Tensor, targets: Tensor, smoothing: float | None = None) -> Tensor:
        """Cross-entropy of logits [B, L] and soft targets [B, L], by the task."""
        smoothing = self.recipe.label_smoothing if smoothing is None else smoothing
        if self.model.config.task == "single_label":
            return nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        soft = targets * (1 - smoothing) + smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(logits, soft)

    def balance_loss(self, routed: Routed) -> Tensor:
        """1 when the experts share the load evenly over the batch, E when one takes all."""
        share = routed.gates_dense.sum(1)  # [B, E]
        share = share / (share.sum(1, keepdim=True) + 1e-6)
        return share.shape[1] * torch.square(share.mean(0)).sum()

    def _training_gates(self, routed: Routed, teaching: bool) -> Tensor:
        """All compatible pairs for the teacher; a random part of them at first; then the router's own choice."""
        recipe = self.recipe
        if teaching:
            return routed.gates_dense
        if self.global_step < recipe.warmup_pairs_share * self.total_steps:
            return _drop_pairs(routed.gates_dense, recipe.warmup_pairs)
        if float(torch.rand(())) < recipe.drop_share:
            return _drop_pairs(routed.gates, 1.0)
        return routed.gates

    def configure_optimizers(self) -> Any:
        """AdamW without decay on vectors, a short warm-up, then a cosine down to nothing."""
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.recipe.learning_rate)
        warmup = max(round(self.recipe.warmup_share * self.total_steps), 1)

        def factor(step: int) -> float:
            progress = min(step / max(self.total_steps, 1), 1.0)
            return min((step + 1) / warmup, 1.0) * max(0.5 * (1 + math.cos(math.pi * progress)), 1e-3)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _drop_pairs(gates: Tensor, most: float) -> Tensor:
    """Keeps a random share of each clip's pairs, drawn between none and ``most``."""
    keep = torch.rand(len(gates), 1, 1, device=gates.device) * most
    return gates * (torch.rand_like(gates) < keep)
