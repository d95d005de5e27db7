"""A single network to stand beside the mixture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_audio.architecture import macs_of
from xaimoe_audio.model.layers import convolution, separable
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.clips import Clips
from xaimoe_audio.training.module import TrainingModule, Windows
from xaimoe_audio.training.recipe import Recipe


class SingleCNN(nn.Module):
    """The experts' blocks, but over the whole spectrogram: ``spectrogram`` [B, 1, F, T] -> logits [B, L].

    Args:
        width: channels of the first convolution; the last has eight times as many.
        labels: number of classes.
    """

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(1, width, stride=(2, 2)),
            separable(width, 2 * width),
            separable(2 * width, 2 * width, stride=(2, 2)),
            separable(2 * width, 4 * width),
            separable(4 * width, 4 * width, stride=(2, 2)),
            separable(4 * width, 8 * width, stride=(2, 2)),
            separable(8 * width, 8 * width),
        )
        self.answer = nn.Sequential(nn.Dropout(0.2), nn.Linear(8 * width, labels))

    def forward(self, spectrogram: Tensor) -> Tensor:
        maps = self.body(spectrogram.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.answer(maps.mean((2, 3)) + maps.amax((2, 3)))
        return logits


def cost(network: SingleCNN, model: MoEAudioModel) -> tuple[int, int]:
    """Parameters, and multiply-accumulates for one clip."""
    frontend = model.config.frontend
    clip = torch.zeros(1, 1, frontend.bins, frontend.frames)
    return sum(p.numel() for p in network.parameters()), macs_of(lambda: network.eval()(clip))


class TrainSingle(TrainingModule):
    """Trains ``network`` in place with the mixture's recipe: augmentation, loss, schedule and averaging."""

    def __init__(
        self, network: SingleCNN, model: MoEAudioModel, recipe: Recipe, steps: int, weights: Tensor, taught: int = 0
    ) -> None:
        super().__init__(model, recipe, steps, weights, taught)
        self.network = network

    def training_step(self, batch: Clips, batch_idx: int) -> Tensor:
        spectrogram, _, batch = self._augmented(batch)
        loss = self._loss(self.network(spectrogram), batch.targets)
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    @torch.no_grad()
    def validation_step(self, batch: Windows, batch_idx: int) -> None:
        spectrogram, _, targets, sounding, owners = batch
        logits = self.network(spectrogram)
        scores = torch.softmax(logits, 1) if self.task == "single_label" else torch.sigmoid(logits)
        self.validated.append((scores, targets, sounding, owners))
