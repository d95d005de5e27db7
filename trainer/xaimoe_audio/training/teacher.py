"""What the saliency is trained against: an explanation of the model's own decision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.model.territory import means_of_territories
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.schema import TaskKind

EPSILON = 1e-9
ALIKE = 0.1
"""Of the patches' mean contribution, that counts for each in its relevance."""


class Activations:
    """What the trunk makes of each pair in one run, in the order of the gates that were run: by expert, then by clip
    and patch."""

    maps: Tensor
    """[M, C, H, T'], its last feature maps."""
    features: Tensor
    """[M, D], mean and maximum of each of their channels."""

    @classmethod
    @contextmanager
    def recorded(cls, model: MoEAudioModel) -> Iterator[Activations]:
        """Records while ``model`` mixes."""
        found = cls()

        def keep_maps(_module: nn.Module, _inputs: Any, maps: Tensor) -> None:
            found.maps = maps

        def keep_features(_module: nn.Module, _inputs: Any, features: Tensor) -> None:
            found.features = features

        handles = [
            model.bank.trunk.body.register_forward_hook(keep_maps),
            model.bank.trunk.summary.register_forward_hook(keep_features),
        ]
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


def explained(
    model: MoEAudioModel, routed: Routed, targets: Tensor | None = None, grad_cam_share: float = 0.0
) -> Tensor:
    """How far each patch speaks for the classes when the model hears all patches alike, with all experts, [B, P].

    Args:
        model: in evaluation.
        routed: the clips.
        targets: [B, L], the weight of each class; None for the class that the model then answers with, as in the field.
        grad_cam_share: of Grad-CAM; the rest is Gradient x Input.
    """
    gates = evenly(routed.gates_dense)
    with torch.enable_grad():
        with Activations.recorded(model) as activations:
            mixture, mass = model.bank(routed.spectrogram, gates)
        logits = model.head.logits(mixture, mass, routed.prior_logits)
        if targets is None:
            targets = nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits)
        return relevance(logits, targets, model.config.task, activations, gates, grad_cam_share).detach()


def relevance(
    logits: Tensor, targets: Tensor, task: TaskKind, activations: Activations, gates: Tensor, grad_cam_share: float
) -> Tensor:
    """How far each patch speaks for a clip's classes, whatever its weight, [B, P]; each row sums to 1.

    A row without any relevance is uniform, and a patch that was not run has none. The graph is kept for the backward
    pass to come.

    Args:
        logits: [B, L] of the whole model.
        targets: [B, L], the weight of each class; mixed and multi-label targets count in proportion.
        task: of one class a clip, the others are what it is ahead of.
        activations: recorded while the logits were computed.
        gates: [B, P, E], that were run.
        grad_cam_share: of Grad-CAM; the rest is Gradient x Input.
    """
    explained = _evidence(logits, targets, task)
    if not (gates > 0).any():
        return torch.full_like(gates[:, :, 0], 1 / gates.shape[1])
    found = torch.zeros_like(gates[:, :, 0])
    if grad_cam_share < 1:
        found = found + (1 - grad_cam_share) * gradient_times_input(explained, activations.features, gates)
    if grad_cam_share > 0:
        found = found + grad_cam_share * grad_cam(explained, activations.maps, gates)
    return found


def relevance_in_whole(
    logits: Tensor, targets: Tensor, task: TaskKind, maps: Tensor, grid: PatchGrid, grad_cam_share: float
) -> Tensor:
    """As ``relevance``, [B, P], of logits that come from ``maps`` [B, C, H, W] of whole spectrograms.

    Gradient x Input is taken in the cells of the maps, added up over the channels, and averaged over what
    each patch answers for.
    """
    (gradient,) = torch.autograd.grad(_evidence(logits, targets, task), maps, retain_graph=True)
    maps = maps.detach()
    signed = (gradient * maps).sum(1, keepdim=True)
    cam = torch.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True))

    def by_patch(cells: Tensor) -> Tensor:
        return means_of_territories(nn.functional.interpolate(cells, size=(grid.rows, grid.columns)), grid)

    contribution, seen = by_patch(signed), by_patch(cam)
    relevant = _over_the_others(contribution, torch.ones_like(contribution, dtype=torch.bool))
    return (1 - grad_cam_share) * relevant + grad_cam_share * _as_shares(seen)


def _evidence(logits: Tensor, targets: Tensor, task: TaskKind) -> Tensor:
    """What is explained: how far the logits [B, L] of each clip's classes are ahead, summed over the batch.

    Not their probability: the gradient of one that is nearly 1 is nearly 0, and what is left of it, all there is once
    the relevance of patches is taken as shares, is about the runner-up.
    """
    known = targets / torch.clamp(targets.sum(1, keepdim=True), min=EPSILON)
    if task == "single_label":
        logits = logits - logits.mean(1, keepdim=True)
    return (logits * known).sum()


def evenly(pairs: Tensor) -> Tensor:
    """Gates for some pairs, shares or choices [B, P, E], so that all patches count alike and sum to 1.

    Under the router's own weights the explanation would be of what the saliency has made of a clip already: the patch
    that it looks at leaves little to be found in the others.
    """
    weights = pairs.float()
    weights = weights / torch.clamp(weights.sum(2, keepdim=True), min=EPSILON)
    return weights / torch.clamp(weights.sum((1, 2), keepdim=True), min=EPSILON)


def gradient_times_input(explained: Tensor, features: Tensor, gates: Tensor) -> Tensor:
    """Relevance of each patch by Gradient x Input (A. Shrikumar et al., "Not just a black box", 2016), [B, P].

    The input is taken where a patch enters the answer: at the features of its pairs, [M, D]. Their gradient times
    their value, summed over a patch, is what it adds to the answer; over the mean of all it is, to first order, what
    leaving it out costs (measured: ``benchmarks/evidence/teachers.py``). In the cells of the spectrogram, where the
    gradient of a deep network is mostly noise, the same has next to nothing to do with that.

    Args:
        explained: the classes' evidence, summed over the batch.
        features: of the pairs that were run.
        gates: [B, P, E], that were run.
    """
    (gradient,) = torch.autograd.grad(explained, features, retain_graph=True)
    return _over_the_others(_by_patch((gradient * features.detach()).sum(1), gates), gates.sum(2) > 0)


def grad_cam(explained: Tensor, maps: Tensor, gates: Tensor) -> Tensor:
    """Relevance of each patch by Grad-CAM (R. R. Selvaraju et al., "Grad-CAM", 2017), [B, P].

    The layer is the last convolution of the experts, [M, C, H, T']: channels are weighed by the mean of their gradient
    over a tile, summed, rectified, and averaged over the tile; then a patch's experts are added.
    """
    (gradient,) = torch.autograd.grad(explained, maps, retain_graph=True)
    weights = gradient.mean((2, 3), keepdim=True)
    return _as_shares(_by_patch(torch.relu((weights * maps.detach()).sum(1)).mean((1, 2)), gates))


def _by_patch(of_pairs: Tensor, gates: Tensor) -> Tensor:
    """Values [M] of the pairs that were run, summed over each patch's and divided by the patch's weight, [B, P].

    The gradient grows with the gates, which are large where the saliency is: undivided, the explanation would find what
    the saliency already says.
    """
    gates = gates.detach()
    _, clips, patches = torch.nonzero(gates.permute(2, 0, 1), as_tuple=True)
    weights = gates.sum(2)
    summed = torch.zeros_like(weights).index_put((clips, patches), of_pairs, accumulate=True)
    return summed / torch.where(weights > 0, weights, 1.0)


def _over_the_others(contribution: Tensor, ran: Tensor) -> Tensor:
    """Shares of what the contributions [B, P] of the patches that ``ran`` are over their mean.

    If a patch is left out, the others take its weight: what is lost is what it adds over them. Silence beside a bark
    adds less, and where all patches say the same, a little of the mean makes all alike.
    """
    count = torch.clamp(ran.sum(1, keepdim=True), min=1)
    mean = (contribution * ran).sum(1, keepdim=True) / count
    return _as_shares((torch.relu(contribution - mean) + ALIKE * mean.abs()) * ran)


def _as_shares(values: Tensor) -> Tensor:
    """Rows [B, P] that sum to 1; those without any relevance, uniform."""
    scale = values.amax(1, keepdim=True)
    scaled = values / torch.where(scale > 0, scale, 1.0) + EPSILON
    return scaled / scaled.sum(1, keepdim=True)


def saliency_loss(saliency: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the saliency [B, P] from its teacher [B, P], mean over the batch."""
    return nn.functional.kl_div(torch.log(saliency + EPSILON), teacher, reduction="batchmean")
