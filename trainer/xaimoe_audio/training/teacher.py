"""What the saliency is trained against: an explanation of the model's own decision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xaimoe_audio.model.moe import MoEAudioModel

EPSILON = 1e-9


def even_patches(gates: Tensor) -> Tensor:
    """``gates`` [B, P, E] with each patch's experts as they are, but all patches weighted alike.

    An explanation through gates that are large where the saliency is would find what the saliency already says.
    """
    weights = gates.sum(2, keepdim=True)
    return gates / torch.clamp(weights, min=EPSILON) / torch.clamp((weights > 0).sum(1, keepdim=True), min=1)


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
    return _as_shares(nn.functional.avg_pool2d(relevance, config.tile, config.stride).flatten(1))


class Activations:
    """The trunk's last feature maps in one run, a pair each."""

    maps: Tensor
    """[M, C, H, T'], in the order of the gates that were run: by expert, then by clip and patch."""

    @classmethod
    @contextmanager
    def recorded(cls, model: MoEAudioModel) -> Iterator[Activations]:
        """Records what the experts see while ``model`` mixes."""
        found = cls()

        def keep(_module: nn.Module, _inputs: Any, maps: Tensor) -> None:
            found.maps = maps

        handle = model.trunk.body.register_forward_hook(keep)
        try:
            yield found
        finally:
            handle.remove()


def grad_cam(logits: Tensor, targets: Tensor, activations: Activations, gates: Tensor) -> Tensor:
    """Relevance of each patch for the target classes by Grad-CAM, [B, P]; each row sums to 1.

    (R. R. Selvaraju et al., "Grad-CAM", 2017.) The layer is the last convolution of the experts: channels are weighed
    by the mean of their gradient over a tile, summed, rectified, and averaged over the tile; then the experts' are
    added. The graph is kept for the backward pass to come.

    Args:
        logits: [B, L] of the whole model.
        targets: [B, L], the weight of each class.
        activations: recorded while the logits were computed.
        gates: [B, P, E], that were run.
    """
    _, clips, patches = torch.nonzero(gates.permute(2, 0, 1), as_tuple=True)
    relevance = logits.new_zeros(gates.shape[:2])
    if len(clips):
        (gradient,) = torch.autograd.grad((logits * targets).sum(), activations.maps, retain_graph=True)
        weights = gradient.mean((2, 3), keepdim=True)
        of_pairs = torch.relu((weights * activations.maps.detach()).sum(1)).mean((1, 2))
        relevance.index_put_((clips, patches), of_pairs, accumulate=True)
    return _as_shares(relevance)


def _as_shares(relevance: Tensor) -> Tensor:
    """Rows [B, P] that sum to 1; those without any relevance, uniform."""
    scale = relevance.amax(1, keepdim=True)
    scaled = relevance / torch.where(scale > 0, scale, 1.0) + EPSILON
    return scaled / scaled.sum(1, keepdim=True)


def saliency_loss(saliency: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the saliency [B, P] from its teacher [B, P], mean over the batch."""
    return nn.functional.kl_div(torch.log(saliency + EPSILON), teacher, reduction="batchmean")
