"""The experts: one small network a family, each made to see something else in a tile.

A family differs from the others in its band, in what it removes from the tile before looking, in the shape of its
kernels, and in whether it gives up resolution in time or in frequency. What it is made for is said twice: in words, for
people, and as weights on a patch's measured descriptors, from which the router starts.

What a family sees, its front finds; what that means, a trunk says that all families share. Each pair that is run in
training thus teaches the trunk, whichever expert it was of, and a few hundred recordings are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaimoe_audio.model.layers import Pair, convolution, separable
from xaimoe_runtime.grid import PatchGrid


def _as_it_is(patches: Tensor) -> Tensor:
    return patches


def _less_tile_mean(patches: Tensor) -> Tensor:
    """Each tile less its mean: a change of gain or of the noise level drops out."""
    return patches - patches.mean((2, 3), keepdim=True)


def _less_time_mean(patches: Tensor) -> Tensor:
    """Each frequency row less its mean over time: all that is stationary drops out, onsets stay."""
    return patches - patches.mean(3, keepdim=True)


def _less_frequency_mean(patches: Tensor) -> Tensor:
    """Each frame less its mean over frequency: broadband level drops out, lines and gaps stay."""
    return patches - patches.mean(2, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What sets a family of experts apart."""

    purpose: str
    """The sounds it is made for."""
    suits: dict[str, float]
    """Weights of a patch's descriptors in the router's first opinion of the family."""
    sibling: str
    """The family that sees such sounds nearly as well."""
    band: tuple[float, float] = (0.0, 1.0)
    """Part of the tile it looks at, from the bottom (0) to the top (1) of its height; the rest is 0 to it. All families
    see sounds at one scale: a trunk that had to know them at two learned far more slowly."""
    look: Callable[[Tensor], Tensor] = _as_it_is
    """What it removes from the tile."""
    average: Pair = (1, 1)
    """Cells in frequency and time that are averaged before anything else; steadies noise."""
    kernel: Pair = (3, 3)
    """Kernel height (frequency) and width (time)."""
    strides: tuple[Pair, Pair] = ((2, 2), (2, 2))
    """Reduction in frequency and time at the first and at the second convolution; with ``average``, by 4 in all."""


FAMILIES: dict[str, Family] = {
    "NoiseRobust_Broadband": Family(
        purpose="broadband sounds in changing noise: cavitation, rain, engines; blind to gain",
        suits={"tonality": -0.75, "transience": -0.75},
        sibling="MidbandGeneral",
        look=_less_tile_mean,
    ),
    "NoiseRobust_LowFreq": Family(
        purpose="low sounds in noise: ships, machinery, thunder, the calls of large whales; integrates over time",
        suits={"low": 1.0},
        sibling="NoiseRobust_Broadband",
        band=(0.0, 0.5),
        look=_less_tile_mean,
        average=(1, 2),
        strides=((2, 1), (2, 2)),
    ),
    "NoiseRobust_HighFreq": Family(
        purpose="high sounds in noise: hiss, sprays, snapping shrimp, insects; integrates over time",
        suits={"high": 1.0},
        sibling="HighbandGeneral",
        band=(0.5, 1.0),
        look=_less_tile_mean,
        average=(1, 2),
        strides=((2, 1), (2, 2)),
    ),
    "TransientExpert": Family(
        purpose="short events: clicks, snaps, knocks; blind to what is stationary, keeps the resolution in time",
        suits={"transience": 1.0},
        sibling="NoiseRobust_HighFreq",
        look=_less_time_mean,
        kernel=(3, 5),
        strides=((4, 1), (1, 4)),
    ),
    "HarmonicExpert": Family(
        purpose="lines and their harmonics: voices, whistles, tonals that move; blind to broadband level, sees several "
        "partials at once",
        suits={"tonality": 1.5},
        sibling="FineFreqExpert",
        look=_less_frequency_mean,
        kernel=(7, 3),
    ),
    "FineFreqExpert": Family(
        purpose="fine structure of a steady spectrum: engine lines, hum, tones; keeps every band, gives up time",
        suits={"tonality": 1.5},
        sibling="HarmonicExpert",
        average=(1, 4),
        kernel=(5, 1),
        strides=((1, 1), (4, 1)),
    ),
    "MidbandGeneral": Family(
        purpose="whatever lies in the middle of the band: most voices, calls and tools",
        suits={"middle": 1.0},
        sibling="NoiseRobust_Broadband",
        band=(0.25, 0.75),
    ),
    "HighbandGeneral": Family(
        purpose="whatever lies in the upper half of the band: chirps, bird song, high whistles, insects",
        suits={"high": 1.0},
        sibling="NoiseRobust_HighFreq",
        band=(0.5, 1.0),
    ),
}


class Front(nn.Module):
    """What a family sees: ``patches`` [M, 1, PF, PT] -> maps [M, 2 W, PF / 4, PT / 4]."""

    def __init__(self, family: Family, height: int, full_height: bool, width: int) -> None:
        super().__init__()
        self.look = family.look
        # A tile lower than the spectrogram lies in the family's band as a whole, or is never given to it.
        band = family.band if full_height else (0.0, 1.0)
        self.rows = slice(round(band[0] * height), round(band[1] * height))
        self.beside = (0, 0, self.rows.start, height - self.rows.stop)
        first, second = family.strides
        self.body = nn.Sequential(
            nn.AvgPool2d(family.average) if family.average != (1, 1) else nn.Identity(),
            convolution(1, width, family.kernel, first),
            separable(width, 2 * width, family.kernel, second),
        )

    def forward(self, patches: Tensor) -> Tensor:
        maps: Tensor = self.body(nn.functional.pad(self.look(patches[:, :, self.rows]), self.beside))
        return maps


@torch.no_grad()
def start_alike(fronts: Iterable[Front], width: int) -> None:
    """Gives fronts of first ``width`` channels the same filters to begin with, each set into its family's kernel, so
    that the trunk understands all of them from the first step and learns from all at once."""
    common = _convolutions(nn.Sequential(convolution(1, width), separable(width, 2 * width)))
    for front in fronts:
        for own, one in zip(_convolutions(front.body), common, strict=True):
            own.weight.copy_(one.weight if own.kernel_size == (1, 1) else _set_into(one.weight, own.kernel_size))


def _convolutions(body: nn.Module) -> list[nn.Conv2d]:
    return [module for module in body.modules() if isinstance(module, nn.Conv2d)]


def _set_into(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    """A 3x3 kernel in the middle of another size; where that has but one column, its columns' sum."""
    height, width = size
    kernel = kernel.sum(3, keepdim=True) if width == 1 else kernel
    beside, above = (width - kernel.shape[3]) // 2, (height - 3) // 2
    return nn.functional.pad(kernel, (beside, beside, above, above))


class Trunk(nn.Module):
    """What it means, for all families: maps [M, 2 W, H, T'] and ``position`` [M, 2] -> ``features`` [M, 8 W].

    Of the position, the frequency counts; when in a clip a sound comes says nothing of what it is.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(1, 2 * width)
        self.body = nn.Sequential(
            separable(2 * width, 4 * width),
            separable(4 * width, 4 * width, stride=(2, 2)),
            separable(4 * width, 8 * width, stride=(2, 2)),
            separable(8 * width, 8 * width),
        )

    def forward(self, maps: Tensor, position: Tensor) -> Tensor:
        deep: Tensor = self.body(maps + self.place(position[:, :1])[:, :, None, None])
        return deep.mean((2, 3)) + deep.amax((2, 3))


class Expert(nn.Module):
    """``patches`` [M, 1, PF, PT] and ``position`` [M, 2] -> ``features`` [M, D]; M may be 0 in evaluation."""

    def __init__(self, front: Front, trunk: Trunk) -> None:
        super().__init__()
        self.front, self.trunk = front, trunk

    def forward(self, patches: Tensor, position: Tensor) -> Tensor:
        features: Tensor = self.trunk(self.front(patches), position)
        return features


def band_fit(experts: tuple[str, ...], grid: PatchGrid) -> Tensor:
    """1 where a patch lies in an expert's band, else 0, [P, E]; a tile as high as the spectrogram fits all."""
    centre = torch.from_numpy(grid.positions())[:, :1]
    band = torch.tensor([FAMILIES[name].band for name in experts])
    inside = (centre >= band[:, 0]) & (centre <= band[:, 1])
    return inside.float() if grid.tile[0] < grid.rows else torch.ones_like(inside, dtype=torch.float32)
