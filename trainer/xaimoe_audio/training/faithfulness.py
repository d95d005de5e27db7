"""How faithful a saliency is to the model: does it rank patches as its teacher does, and do they carry the answer?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.territory import nearest_tiles

STEPS = 4
"""Parts in which the patches are deleted and inserted."""


def rank_correlation(saliency: Tensor, teacher: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps [B, P] of the same clips, [B]; 0 where one of them is uniform."""
    a, b = (_ranks(values) for values in (saliency, teacher))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    scale = torch.sqrt(torch.square(a).sum(1) * torch.square(b).sum(1))
    return (a * b).sum(1) / torch.clamp(scale, min=1e-9)


def _ranks(values: Tensor) -> Tensor:
    """Ranks along each row; equal values share the mean of theirs."""
    less = (values[:, :, None] > values[:, None, :]).sum(2)
    equal = (values[:, :, None] == values[:, None, :]).sum(2)
    return less + (equal - 1) / 2


def deletion_insertion(
    score: Callable[[Tensor], Tensor], spectrogram: Tensor, saliency: Tensor, config: ModelConfig
) -> tuple[Tensor, Tensor]:
    """Area under the score when the most salient patches are removed first, and when they are the first to be there.

    (V. Petsiuk et al., "RISE", 2018.) A removed cell is set to 0, its band's mean in the training recordings. A
    faithful map has a small first area and a large second one.

    Args:
        score: of spectrograms [B, 1, F, T], [B].
        spectrogram: [B, 1, F, T].
        saliency: [B, P].
        config: gives the patch grid.

    Returns:
        deletion [B] and insertion [B].
    """
    order = torch.argsort(saliency, dim=1, descending=True, stable=True).argsort(1)  # [B, P], place of each patch
    patches = saliency.shape[1]
    whole, nothing = score(spectrogram), score(torch.zeros_like(spectrogram))
    deletion, insertion = [whole], [nothing]
    for step in range(1, STEPS):
        chosen = cells(order < round(patches * step / STEPS), config)
        deletion.append(score(spectrogram * ~chosen))
        insertion.append(score(spectrogram * chosen))
    deletion.append(nothing)
    insertion.append(whole)
    return _area(deletion), _area(insertion)


def cells(patches: Tensor, config: ModelConfig) -> Tensor:
    """The cells of the spectrogram whose nearest patch is any of the chosen ones [B, P]: [B, 1, F, T]."""
    of_rows, of_columns = nearest_tiles(config.grid)
    chosen = patches.reshape(len(patches), 1, *config.grid.shape)
    return chosen[:, :, of_rows][..., of_columns].bool()


def _area(curve: list[Tensor]) -> Tensor:
    """Mean height of a curve of equal steps, by the trapezoidal rule."""
    heights = torch.stack(curve)
    return (heights[1:] + heights[:-1]).mean(0) / 2
