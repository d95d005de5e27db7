"""What training makes small, besides the saliency's distance from its teacher."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_runtime.schema import TaskKind

LARGEST_WEIGHT = 10.0
"""Of a rare class over a common one."""
LEAST_SCORE = 1e-7
"""A loss does not grow beyond that of a score as low as this."""
HALF_USED = 0.1
"""Gate, in even shares of all pairs, at which a pair counts half in the compute that the loss sees."""


def class_weights(targets: NDArray[np.float32], power: float) -> Tensor:
    """Return the weight of each of L classes by its rarity among N clips, [L]; their mean over the clips is 1.

    Args:
        targets: [N, L], 1 for each class of a clip.
        power: 0 for equal weights, 1 for classes that count alike however rare.
    """
    counts = torch.from_numpy(targets).sum(0).clamp(min=1.0)
    weights = (counts.max() / counts) ** power
    weights = weights.clamp(max=LARGEST_WEIGHT)
    return weights * counts.sum() / (weights * counts).sum()


def classification_loss(
    logits: Tensor, targets: Tensor, task: TaskKind, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits [B, L] and soft targets [B, L], by the task; ``weights`` [L] are those of the classes.

    With several labels the weight of a class is that of the recordings that have it.
    """
    if task == "single_label":
        return nn.functional.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing)
    soft = targets * (1 - smoothing) + smoothing / 2
    return nn.functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=weights)


def losses_of(scores: Tensor, targets: Tensor, task: TaskKind) -> Tensor:
    """Return the cross-entropy of each recording, [N], in nats; of several labels, their mean.

    Args:
        scores: probabilities, [N, L].
        targets: [N, L], 1 for each class of a recording.
        task: whether a recording has one class or several.
    """
    scores = torch.clamp(scores, LEAST_SCORE, 1 - LEAST_SCORE)
    if task == "single_label":
        return -(targets * torch.log(scores)).sum(1)
    return nn.functional.binary_cross_entropy(scores, targets, reduction="none").mean(1)


def balance_loss(gates_dense: Tensor) -> Tensor:
    """Of gates [B, P, E]: 1 when the experts share the load evenly over the batch, E when one takes all."""
    share = gates_dense.sum(1)  # [B, E]
    share = share / (share.sum(1, keepdim=True) + 1e-6)
    return share.shape[1] * torch.square(share.mean(0)).sum()


def z_loss(affinity_logits: Tensor) -> Tensor:
    """Mean square of the log of the normaliser of logits [B, P, E]."""
    return torch.square(torch.logsumexp(affinity_logits, dim=2)).mean()


def compute_share(gates: Tensor, costs: Tensor) -> Tensor:
    """About what share of the dense experts' compute the gates [B, P, E] run, mean over the batch, differentiable.

    A pair counts gate / (gate + c) of its cost: nearly all once its gate is well above c, ``HALF_USED``.

    Args:
        gates: sparse gates.
        costs: [E], each expert's share of the cost of all.
    """
    patches, experts = gates.shape[1:]
    used = gates / (gates + HALF_USED / (patches * experts))
    return (used.mean(1) * costs).sum(1).mean()
