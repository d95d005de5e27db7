"""The experts: one small network a family, each made to see something else in a tile.

A family differs from the others in its band, in what it removes from the tile before looking, in the shape of its
kernels, and in whether it gives up resolution in time or in frequency.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaimoe_audio.model.layers import Pair, separable
from xaimoe_runtime.grid import PatchGrid


def _as_it_is(patches: Tensor) -> Tensor:
    return patches


def _less_tile_mean(patches: Tensor) -> Tensor:
    """Each channel less its mean over the tile: a change of gain or of the noise level drops out."""
    return patches - patches.mean((2, 3), keepdim=True)


def _less_time_mean(patches: Tensor) -> Tensor:
    """Each frequency row less its mean over time: all that is stationary drops out, onsets stay."""
    return patches - patches.mean(3, keepdim=True)


def _less_frequency_mean(patches: Tensor) -> Tensor:
    """Each frame less its mean over frequency: broadband level drops out, lines and gaps stay."""
    return patches - patches.mean(2, keepdim=True)


@dataclass(frozen=True)
class Family:
    """What sets a family of experts apart."""

    purpose: str
    """The sounds it is made for."""
    band: tuple[float, float]
    """Part of the tile it looks at, from the bottom (0) to the top (1) of its height."""
    look: Callable[[Tensor], Tensor]
    """What it removes from the tile."""
    kernel: Pair
    """Kernel height (frequency) and width (time)."""
    strides: tuple[Pair, Pair, Pair]
    """Reduction in frequency and time at each stage."""


FAMILIES: dict[str, Family] = {
    "NoiseRobust_Broadband": Family(
        purpose="broadband sounds in changing noise: cavitation, rain, engines",
        band=(0.0, 1.0),
        look=_less_tile_mean,
        kernel=(3, 3),
        strides=((1, 1), (2, 2), (2, 2)),
    ),
    "TransientExpert": Family(
        purpose="short events: clicks, snaps, knocks; keeps the time resolution and gives up frequency",
        band=(0.0, 1.0),
        look=_less_time_mean,
        kernel=(3, 5),
        strides=((2, 1), (2, 1), (2, 2)),
    ),
    "HarmonicExpert": Family(
        purpose="lines and their harmonics: tonals, whistles, voices; keeps the frequency resolution and gives up time",
        band=(0.0, 1.0),
        look=_less_frequency_mean,
        kernel=(7, 3),
        strides=((1, 2), (1, 2), (2, 2)),
    ),
    "HighbandGeneral": Family(
        purpose="whatever lies in the upper half of the spectrogram: hiss, chirps, insects, high whistles",
        band=(0.5, 1.0),
        look=_as_it_is,
        kernel=(3, 3),
        strides=((1, 1), (1, 2), (2, 2)),
    ),
}


class Expert(nn.Module):
    """``patches`` [M, C', PF, PT] and ``position`` [M, 2] -> ``features`` [M, D]; M may be 0 in evaluation."""

    def __init__(
        self, family: Family, channels: int, height: int, full_height: bool, width: int, features: int
    ) -> None:
        super().__init__()
        self.look = family.look
        # A tile lower than the spectrogram lies in the family's band as a whole, or is never given to it.
        band = family.band if full_height else (0.0, 1.0)
        self.rows = slice(round(band[0] * height), round(band[1] * height))
        stages = zip((channels, width, 2 * width), (width, 2 * width, 4 * width), family.strides, strict=True)
        self.body = nn.Sequential(*(separable(i, o, family.kernel, stride) for i, o, stride in stages))
        self.answer = nn.Sequential(nn.Linear(4 * width + 2, features), nn.ReLU())

    def forward(self, patches: Tensor, position: Tensor) -> Tensor:
        maps = self.body(self.look(patches[:, :, self.rows]))
        pooled = maps.mean((2, 3)) + maps.amax((2, 3))
        features: Tensor = self.answer(torch.cat([pooled, position], dim=1))
        return features


def band_fit(experts: tuple[str, ...], grid: PatchGrid) -> Tensor:
    """1 where a patch lies in an expert's band, else 0, [P, E]; a tile as high as the spectrogram fits all."""
    centre = torch.from_numpy(grid.positions())[:, :1]
    band = torch.tensor([FAMILIES[name].band for name in experts])
    inside = (centre >= band[:, 0]) & (centre <= band[:, 1])
    return inside.float() if grid.tile[0] < grid.rows else torch.ones_like(inside, dtype=torch.float32)
