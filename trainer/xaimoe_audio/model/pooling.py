"""How many places become one: a mean, and a power mean, which is nearly the maximum.

A bark is heard in one place of a clip and rain in all of it. The mean finds the one and the maximum the other; but
what a mixture can do with its pairs is add them up. So each pair's maximum is raised to a power first, and the head
takes the root of their mean (generalised-mean pooling after F. Radenovic et al., 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

POWER = 8
"""Of the power mean: that of ten pairs of which one alone hears something is three quarters of its maximum."""
SCALE = 4.0
"""What maxima are divided by first, so that their powers stay small numbers."""
LIFT = 0.1
"""Added to maxima before: the root of a power of nothing would blow a rounding error up."""


def mean_and_most(maps: Tensor, where: Tensor | None = None) -> Tensor:
    """Of maps [M, C, H, W], nowhere negative, each channel's mean and then each channel's maximum, [M, 2 C].

    ``where`` [M, 1, H, W] is 1 for the cells that count, else 0; all do without it.
    """
    if where is None:
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
    maps = maps * where
    return torch.cat([maps.sum((2, 3)) / where.sum((2, 3)), maps.amax((2, 3))], dim=1)


def as_summands(seen: Tensor) -> Tensor:
    """Means and maxima [M, 2 C] as what can be added up, [M, 2 C]."""
    mean, most = seen.chunk(2, dim=1)
    return torch.cat([mean, (most / SCALE + LIFT) ** POWER], dim=1)


def from_mean(summands: Tensor) -> Tensor:
    """What the mean [B, 2 C] of summands says of each channel: its mean and its power mean, added up, [B, C]."""
    mean, power = summands.chunk(2, dim=1)
    return mean + SCALE * (torch.clamp(power, min=LIFT**POWER) ** (1 / POWER) - LIFT)
