"""The training loop's inside, for lightning."""

from __future__ import annotations

import math
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from xaimoe_audio.architecture import expert_costs
from xaimoe_audio.model.experts import first_layers, start_alike
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.model.pooling import as_summands, from_mean, mean_and_most
from xaimoe_audio.training import augment
from xaimoe_audio.training.assess import pool_recordings
from xaimoe_audio.training.clips import Clips
from xaimoe_audio.training.cut import cut
from xaimoe_audio.training.losses import balance_loss, classification_loss, compute_share, losses_of, z_loss
from xaimoe_audio.training.recipe import Recipe
from xaimoe_audio.training.teacher import Activations, evenly, relevance, relevance_in_whole, saliency_loss
from xaimoe_runtime.schema import TaskKind

Windows = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Spectrograms [B, 1, F, T], attributes [B, A], targets [B, L], shares of the windows that are not silent [B], and the
indices of the recordings [B]."""

FED = 0.5
"""Share of the pairs, in even shares, under which an expert is starved."""
LOAD_WEIGHT = 0.05
"""Of a batch in the running mean of the experts' shares."""


class TrainingModule(lightning.LightningModule):
    """Trains glance, router, experts and head together.

    At first one generalist hears whole clips instead of the experts hearing patches, and the experts follow it as its
    copies; then they part. A network that is to know barks from rain learns that several times faster, and better,
    from whole clips than eight that each get a few patches of them.

    The choice of pairs is hard, but its gates are continuous and piecewise differentiable (softmax, product, relu
    over a moving cut), so plain backpropagation through the gates of the chosen pairs is the estimator. The pairs that
    are not chosen get their gradient from the clips that explore: they run every patch with one expert, at random,
    and all patches alike, as the generalist hears them. The saliency's teacher is asked about those: it is to say what
    a patch holds, not what the saliency has made of it.

    Args:
        model: is trained in place.
        recipe: the numbers.
        total_steps: of the whole training.
        class_weights: [L], weight of each class in the loss.
        taught: number C of values that another classifier answers with, which a linear layer on the experts' mixture
            learns to repeat; 0 without one.
    """

    def __init__(
        self, model: MoEAudioModel, recipe: Recipe, total_steps: int, class_weights: Tensor, taught: int = 0
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.total_steps = model, recipe, total_steps
        self.task = model.config.task
        self.together = False
        """Whether several processes train."""
        self.parted = False
        """Whether the experts have begun to learn. They are not made copies again, however much longer a resumed run
        goes on."""
        self.recording_losses: list[float] = []
        """Of each recording of the validation split, in the last epoch."""
        self.validated: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        """Scores [B, L], targets [B, L], shares that are not silent [B] and recordings [B] of the windows validated so
        far in this epoch."""
        self.generalist = first_layers(1, model.config.expert_width)
        self.student = nn.Linear(model.config.features // 2, taught) if taught else None
        self.register_buffer("class_weights", class_weights, persistent=False)
        costs = torch.tensor([float(cost) for cost in expert_costs(model).values()])
        self.register_buffer("centres", model.frontend.window.backend.centres().float(), persistent=False)
        self.register_buffer("costs", costs / costs.sum(), persistent=False)
        self.register_buffer("load", torch.full_like(costs, 1 / len(costs)))

    class_weights: Tensor
    load: Tensor
    costs: Tensor
    centres: Tensor
    noise: Clips

    def setup(self, stage: str) -> None:
        """Lets each of several processes draw its own augmentations; their weights are the first one's."""
        self.together = self.trainer.world_size > 1
        if self.together:
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)

    @torch.no_grad()
    def on_fit_start(self) -> None:
        """Makes the noises that are added."""
        self.noise = augment.noise_clips(self.model.frontend, self.model.config.frontend)

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return min(self.global_step / max(self.total_steps, 1), 1.0)

    @property
    def hears_whole(self) -> bool:
        """Whether the generalist still learns, and not yet the experts."""
        return not self.parted and self.progress < self.recipe.whole

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps whether the experts have begun to learn."""
        checkpoint["parted"] = self.parted

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up from ``last.pt``."""
        self.parted = checkpoint["parted"]

    def training_step(self, batch: Clips, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        spectrogram, attributes, augmented = self._augmented(batch)
        routed = self.model.route(spectrogram, attributes)
        if self.hears_whole:
            loss = self._whole_loss(routed, augmented)
        else:
            self.parted = True
            self._feed_the_starved(batch)
            loss = self._routed_loss(routed, augmented)
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def _whole_loss(self, routed: Routed, clips: Clips) -> Tensor:
        """Loss of what the generalist finds in whole clips, as if it were a mixture, and of the saliency."""
        model, recipe = self.model, self.recipe
        maps = self._heard_whole(routed.spectrogram)
        mixture = as_summands(mean_and_most(maps))
        mass = torch.ones_like(mixture[:, :1])
        logits = model.head.logits(mixture, mass, routed.prior_logits)
        teacher = relevance_in_whole(logits, clips.targets, self.task, maps, model.grid, recipe.grad_cam_share)
        return self._answer_loss(logits, mixture, mass, routed, clips) + self._saliency_loss(routed.saliency, teacher)

    def _heard_whole(self, spectrogram: Tensor) -> Tensor:
        """The generalist's last maps of spectrograms [B, 1, F, T]; the experts are made its copies as it is now."""
        start_alike(self.model.bank.fronts.values(), self.generalist)  # type: ignore[arg-type]
        maps = self.generalist(spectrogram.contiguous(memory_format=torch.channels_last))
        return self.model.bank.trunk.meant(maps, maps.new_full((len(maps), 2), 0.5))

    def _routed_loss(self, routed: Routed, clips: Clips) -> Tensor:
        """Loss of the answers of the pairs that are run, of the router's choice of them, and of the saliency."""
        recipe, model = self.recipe, self.model
        gates, explores = self._training_gates(routed)
        with Activations.recorded(model) as activations:
            mixture, mass = model.bank(routed.spectrogram, gates)
        logits = model.head.logits(mixture, mass, routed.prior_logits)
        loss = self._answer_loss(logits, mixture, mass, routed, clips)
        loss = loss + recipe.balance_weight * balance_loss(routed.gates_dense)
        loss = loss + recipe.z_weight * z_loss(model.router.affinity_logits(routed.context, routed.attributes))
        loss = loss + recipe.compute_weight * compute_share(routed.gates, self.costs)
        if explores.any():
            teacher = relevance(logits, clips.targets, self.task, activations, gates, recipe.grad_cam_share)
            loss = loss + self._saliency_loss(routed.saliency[explores], teacher[explores])
        return loss

    def _saliency_loss(self, saliency: Tensor, teacher: Tensor) -> Tensor:
        distance = saliency_loss(saliency, teacher)
        self.log("saliency_loss", distance, on_step=False, on_epoch=True)
        return self.recipe.saliency_weight * distance

    def _answer_loss(self, logits: Tensor, mixture: Tensor, mass: Tensor, routed: Routed, clips: Clips) -> Tensor:
        """Loss of the whole answer, of the glance's, of the experts' without the glance's, and of the student's."""
        recipe, targets = self.recipe, clips.targets
        loss = self._loss(logits, targets) + recipe.prior_weight * self._loss(routed.prior_logits, targets)
        ran = (mass > 0).squeeze(1)
        if not ran.any():
            return loss
        alone = self.model.head.of_experts(mixture[ran], mass[ran])
        loss = loss + recipe.experts_weight * self._loss(alone, targets[ran])
        if self.student is not None:
            said = self.student(from_mean(mixture[ran] / mass[ran]))
            distance = torch.square(said - clips.taught[ran]).mean()
            self.log("distill_loss", distance, on_step=False, on_epoch=True)
            loss = loss + recipe.distill_weight * distance
        return loss

    @torch.no_grad()
    def _augmented(self, clips: Clips) -> tuple[Tensor, Tensor, Clips]:
        """Spectrograms and attributes of a batch as it is trained on, and the batch with its targets."""
        recipe, frontend, centres = self.recipe, self.model.config.frontend, self.centres
        clips = augment.mix_between_classes(clips, recipe.mix, self.task, frontend.hop, centres)
        clips = augment.add_noise(clips, self.noise, recipe.noise, frontend.hop, centres)
        clips = augment.band_limit(clips, centres, frontend.sample_rate, recipe.resample)
        spectrogram, attributes = self.model.frontend.window(clips.power, clips.sums, clips.source)
        spectrogram = augment.level_jitter(spectrogram, recipe.level_jitter)
        spectrogram = augment.equalise(spectrogram, recipe.equalise)
        spectrogram = augment.stretch(spectrogram, recipe.stretch)
        spectrogram = augment.time_shift(spectrogram, recipe.time_shift)
        spectrogram = augment.frequency_shift(spectrogram, recipe.frequency_shift)
        return augment.spec_augment(spectrogram, recipe.masks), attributes, clips

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return classification_loss(logits, targets, self.task, self.recipe.label_smoothing, self.class_weights)

    def _training_gates(self, routed: Routed) -> tuple[Tensor, Tensor]:
        """Gates [B, P, E], and which clips explore, [B]; the rest run what the router chose, or a part of it."""
        recipe = self.recipe
        gates = _drop_pairs(routed.gates) if float(torch.rand(())) < recipe.drop_share else routed.gates
        share = 1.0 if self.progress < recipe.whole + recipe.warmup else recipe.explore
        explores = torch.rand(len(gates), device=gates.device) < share
        return torch.where(explores[:, None, None], self._explored(routed), gates), explores

    def _explored(self, routed: Routed) -> Tensor:
        """Every patch that suits any expert, all alike, with one compatible expert each, [B, P, E]: a random one, and
        for the whole clip if all its patches suit it."""
        compatible = routed.gates_dense > 0
        drawn = torch.where(compatible, torch.rand_like(routed.gates_dense[:, :1]), -1.0)
        return evenly((drawn == drawn.amax(2, keepdim=True)) & compatible)

    @torch.no_grad()
    def _feed_the_starved(self, clips: Clips) -> None:
        """Raises the router's bias for the experts that run too few of the pairs of the clips they suit, by a step that
        ends with the training (after L. Wang et al., "Auxiliary-loss-free load balancing", 2024, which moves all
        biases).

        The clips are as they were recorded: a masked band looks like a line to the router, and the experts that are
        made for lines would seem to be fed."""
        glance = self.model.glance.eval()
        routed = self.model.route(*self.model.frontend.window(clips.power, clips.sums, clips.source))
        glance.train()
        self._raise_starved(routed)

    @torch.no_grad()
    def _raise_starved(self, routed: Routed) -> None:
        pairs = (routed.gates > 0).float().sum(1)  # [B, E]
        could = (routed.gates_dense > 0).any(1) * pairs.sum(1, keepdim=True)
        found = pairs.sum(0) / torch.clamp(could.sum(0), min=1.0)
        if self.together:
            found = self.trainer.strategy.reduce(found, reduce_op="mean")
        self.load.lerp_(found, LOAD_WEIGHT)
        step = self.recipe.feed_rate * (1 - self.progress)
        self.model.router.clip_affinity.bias.add_(step * (self.load < FED / len(self.load)))

    @torch.no_grad()
    def validation_step(self, batch: Windows, batch_idx: int) -> None:
        """Compute scores and compute of the routed model on windows of the validation split."""
        spectrogram, attributes, targets, sounding, owners = batch
        model = self.model
        routed = model.route(spectrogram, attributes)
        mixture, mass = model.bank(routed.spectrogram, routed.gates)
        self.validated.append((model.head(mixture, mass, routed.prior_logits), targets, sounding, owners))
        used = routed.gates > 0
        found = {
            "val_pairs_share": used.float().mean(),
            "val_experts_share": used.any(1).float().mean(),
        }
        self.log_dict(found, on_epoch=True, batch_size=len(spectrogram), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Measure loss and score by recording, pooled as results are: an hour of one recording counts as much as 5 s,
        and silence has no say."""
        columns = zip(*self.validated, strict=True)
        found, truth, sounding, owners = (torch.cat(column).cpu().numpy() for column in columns)
        self.validated.clear()
        scores = torch.from_numpy(pool_recordings(found, sounding, owners)).double()
        targets = torch.from_numpy(truth[np.unique(owners, return_index=True)[1]]).double()
        losses = losses_of(scores, targets, self.task)
        self.recording_losses = losses.tolist()
        measured = {"val_loss": losses.mean(), "val_score": _right(scores, targets, self.task)}
        self.log_dict({name: value.float().to(self.device) for name, value in measured.items()}, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW without decay on vectors and on the router, a short warm-up, then a cosine down to nothing."""
        recipe = self.recipe
        router = list(self.model.router.parameters())
        others = [p for p in self.parameters() if all(p is not own for own in router)]
        groups = [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
            {"params": router, "weight_decay": 0.0, "lr": recipe.router_rate * recipe.learning_rate},
        ]
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        warmup = max(round(recipe.rise * self.total_steps), 1)

        def factor(step: int) -> float:
            progress = min(step / max(self.total_steps, 1), 1.0)
            return min((step + 1) / warmup, 1.0) * max(0.5 * (1 + math.cos(math.pi * progress)), 1e-3)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _right(scores: Tensor, targets: Tensor, task: TaskKind) -> Tensor:
    """Return the share of recordings whose labels are all right: the highest score, or those over one half. Silence,
    whose scores are all 0, has no class, so one label is wrong."""
    if task == "single_label":
        return ((scores.argmax(1) == targets.argmax(1)) & scores.any(1)).double().mean()
    return ((scores > 0.5) == (targets > 0.5)).all(1).double().mean()


def _drop_pairs(gates: Tensor) -> Tensor:
    """Leaves each clip a random share of its pairs, down to none."""
    chosen = (gates > 0).sum((1, 2))
    return cut(gates, torch.floor(torch.rand(chosen.shape, device=gates.device) * (chosen + 1)))
