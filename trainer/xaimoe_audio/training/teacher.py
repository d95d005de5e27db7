"""What the saliency is trained against: an explanation of the model's own decision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_audio.model.moe import MoEAudioModel

EPSILON = 1e-9


def gradient_times_input(logits: Tensor, targets: Tensor, spectrogram: Tensor, model: MoEAudioModel) -> Tensor:
    """Relevance of each patch for the target classes, [B, P]; each row sums to 1.

    Gradient times input of the target classes' logits (A. Shrikumar et al., "Not just a black box", 2016), rectified
    and pooled to patches. A clip without any positive relevance gets a uniform row. The graph is kept for the backward
    pass to come.

    Args:
        logits: [B, L] of the whole model.
        targets: [B, L], the weight of each class; mixed and multi-label targets count in proportion.
        spectrogram: [B, 1, F, T], the leaf that the logits were computed from.
        model: gives the patch grid.
    """
    (gradient,) = torch.autograd.grad((logits * targets).sum(), spectrogram, retain_graph=True)
    relevance = torch.relu(gradient * spectrogram.detach())
    config = model.config
    pooled = nn.functional.avg_pool2d(relevance, config.tile, config.stride).flatten(1) + EPSILON
    return pooled / pooled.sum(1, keepdim=True)


def saliency_loss(saliency: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the saliency [B, P] from its teacher [B, P], mean over the batch."""
    return nn.functional.kl_div(torch.log(saliency + EPSILON), teacher, reduction="batchmean")
