"""How faithful a saliency is to the model: does it rank patches as its teacher does, and do they carry the answer?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.territory import nearest_tiles
from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT

STEPS = 4
"""Parts in which the patches are deleted and inserted after each epoch."""


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
    score: Callable[[Tensor], Tensor], spectrogram: Tensor, saliency: Tensor, config: ModelConfig, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """The score as the most salient patches are removed first, and as they are the first to be there.

    (V. Petsiuk et al., "RISE", 2018.) A removed cell is silent: the mean of its band in the training recordings would
    add an event to a quiet part. Of a faithful map the first curve has a small area, the second a large one.

    Args:
        score: of spectrograms [B, 1, F, T], [B].
        spectrogram: [B, 1, F, T].
        saliency: [B, P].
        config: gives the patch grid.
        steps: parts of the patches.

    Returns:
        Curves of deletion and of insertion, [steps + 1, B], from all that is there to nothing, and the other way.
    """
    order = torch.argsort(saliency, dim=1, descending=True, stable=True).argsort(1)  # [B, P], place of each patch
    patches = saliency.shape[1]
    silence = torch.full_like(spectrogram, -SPECTROGRAM_LIMIT)
    whole, nothing = score(spectrogram), score(silence)
    deletion, insertion = [whole], [nothing]
    for step in range(1, steps):
        chosen = cells(order < round(patches * step / steps), config)
        deletion.append(score(torch.where(chosen, silence, spectrogram)))
        insertion.append(score(torch.where(chosen, spectrogram, silence)))
    deletion.append(nothing)
    insertion.append(whole)
    return torch.stack(deletion), torch.stack(insertion)


def cells(patches: Tensor, config: ModelConfig) -> Tensor:
    """The cells of the spectrogram whose nearest patch is any of the chosen ones [B, P]: [B, 1, F, T]."""
    of_rows, of_columns = nearest_tiles(config.grid)
    chosen = patches.reshape(len(patches), 1, *config.grid.shape)
    return chosen[:, :, of_rows][..., of_columns].bool()


def area(curve: Tensor) -> Tensor:
    """Mean height of curves of equal steps, [steps + 1, B], by the trapezoidal rule, [B]."""
    return (curve[1:] + curve[:-1]).mean(0) / 2
