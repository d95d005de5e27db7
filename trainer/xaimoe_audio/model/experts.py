"""The experts: small networks, each made to see something else in a tile.

Each sees the tile as it is and, beside it, a view of its own, in which what it is made for stands out: a band, onsets,
lines. Its kernels have the shape of that, too. What a family is made for is said twice: in words, for people, and as
weights on a patch's measured descriptors, from which the router starts.

What a family sees, its front finds; what that means, a trunk says that all families share. All of them start as copies
of one generalist that has heard whole clips (``start_alike``), and part from there: a few hundred recordings are enough
for one network of this size, and not for eight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaimoe_audio.model.layers import Pair, convolution, separable
from xaimoe_audio.model.pooling import as_summands, mean_and_most
from xaimoe_audio.model.territory import Territory
from xaimoe_runtime.grid import PatchGrid

REDUCTION = 16
"""Cells of a tile's height or width that become one of an expert's last maps."""
SMOOTHED = 9
"""Frames, or bands, over which a view is averaged."""


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


def _smooth(patches: Tensor) -> Tensor:
    """Averaged over time: noise is steadied, at the price of what is short."""
    return _averaged(patches, (1, SMOOTHED))


def _fine(patches: Tensor) -> Tensor:
    """Averaged over time, less the same averaged over frequency, too: lines stay, however weak, and nothing else."""
    smooth = _smooth(patches)
    return smooth - _averaged(smooth, (SMOOTHED, 1))


def _averaged(patches: Tensor, over: Pair) -> Tensor:
    beside = (over[0] // 2, over[1] // 2)
    return nn.functional.avg_pool2d(patches, over, 1, beside, count_include_pad=False)


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
    """Part of the tile that its view shows, from the bottom (0) to the top (1) of its height; the rest is 0."""
    look: Callable[[Tensor], Tensor] = _as_it_is
    """What its view makes of that part."""
    kernel: Pair = (3, 3)
    """Kernel height (frequency) and width (time)."""


FAMILIES: dict[str, Family] = {
    "NoiseRobust_Broadband": Family(
        purpose="broadband sounds in changing noise: cavitation, rain, engines; its view is blind to gain",
        suits={"tonality": -1.0, "transience": -1.0},
        sibling="MidbandGeneral",
        look=_less_tile_mean,
    ),
    "NoiseRobust_LowFreq": Family(
        purpose="low sounds in noise: ships, machinery, thunder, the calls of large whales; its view integrates over "
        "time",
        suits={"low": 1.0},
        sibling="NoiseRobust_Broadband",
        band=(0.0, 0.5),
        look=_smooth,
    ),
    "NoiseRobust_HighFreq": Family(
        purpose="high sounds in noise: hiss, sprays, snapping shrimp, insects; its view integrates over time",
        suits={"high": 1.0},
        sibling="HighbandGeneral",
        band=(0.5, 1.0),
        look=_smooth,
    ),
    "TransientExpert": Family(
        purpose="short events: clicks, snaps, knocks; its view is blind to what is stationary",
        suits={"transience": 1.0},
        sibling="NoiseRobust_HighFreq",
        look=_less_time_mean,
        kernel=(3, 5),
    ),
    "HarmonicExpert": Family(
        purpose="lines and their harmonics: voices, whistles, tonals that move; its view is blind to broadband level, "
        "its kernels see several partials at once",
        suits={"tonality": 1.5},
        sibling="FineFreqExpert",
        look=_less_frequency_mean,
        kernel=(7, 3),
    ),
    "FineFreqExpert": Family(
        purpose="fine structure of a steady spectrum: engine lines, hum, tones; its view keeps every band's difference "
        "from those beside it and gives up time",
        suits={"tonality": 1.5},
        sibling="HarmonicExpert",
        look=_fine,
        kernel=(5, 3),
    ),
    "MidbandGeneral": Family(
        purpose="whatever lies in the middle of the band: most voices, calls and tools",
        suits={"middle": 1.4},
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


def first_layers(channels: int, width: int, kernel: Pair = (3, 3)) -> nn.Sequential:
    """From ``channels`` images [M, channels, H, T] to maps [M, 2 ``width``, H / 4, T / 4]."""
    return nn.Sequential(
        convolution(channels, width, kernel, (2, 2)),
        separable(width, 2 * width, kernel, (2, 2)),
    )


class Front(nn.Module):
    """What a family sees: ``patches`` [M, 1, PF, PT] -> maps [M, 2 W, PF / 4, PT / 4]."""

    def __init__(self, family: Family, height: int, full_height: bool, width: int) -> None:
        super().__init__()
        self.look = family.look
        # A tile lower than the spectrogram lies in the family's band as a whole, or is never given to it.
        band = family.band if full_height else (0.0, 1.0)
        self.rows = slice(round(band[0] * height), round(band[1] * height))
        self.beside = (0, 0, self.rows.start, height - self.rows.stop)
        self.body = first_layers(2, width, family.kernel)

    def view(self, patches: Tensor) -> Tensor:
        """What the family sees beside the patches as they are, [M, 1, PF, PT]."""
        return nn.functional.pad(self.look(patches[:, :, self.rows]), self.beside)

    def forward(self, patches: Tensor) -> Tensor:
        maps: Tensor = self.body(torch.cat([patches, self.view(patches)], dim=1))
        return maps


@torch.no_grad()
def start_alike(fronts: Iterable[Front], generalist: nn.Sequential) -> None:
    """Makes each front do what the ``first_layers`` of a generalist do: its filters, each set into the family's kernel,
    on the patch as it is, and none yet on the family's view (after A. Komatsuzaki et al., "Sparse upcycling", 2023)."""
    for front in fronts:
        for own, one in zip(front.body.modules(), generalist.modules(), strict=True):
            if isinstance(own, nn.Conv2d) and isinstance(one, nn.Conv2d):
                own.weight.zero_()
                own.weight[:, : one.weight.shape[1]] = _set_into(one.weight, own.kernel_size)
            elif isinstance(own, nn.BatchNorm2d):
                own.load_state_dict(one.state_dict())


def _set_into(kernel: Tensor, size: tuple[int, ...]) -> Tensor:
    """A kernel in the middle of another size."""
    (above, beside) = ((wanted - found) // 2 for wanted, found in zip(size, kernel.shape[2:], strict=True))
    return nn.functional.pad(kernel, (beside, beside, above, above))


class Summary(nn.Module):
    """Maps [M, C, H, T'] and ``position`` [M, 2] -> each channel's mean and maximum, [M, 2 C], where a patch answers.

    What lies beside that sees little beyond the tile; another tile has it in its middle.
    """

    def __init__(self, grid: PatchGrid) -> None:
        super().__init__()
        self.territory = Territory(grid, REDUCTION)

    def forward(self, maps: Tensor, position: Tensor) -> Tensor:
        return mean_and_most(maps, self.territory(position) if self.territory.shared else None)


class Trunk(nn.Module):
    """What it means, for all families: maps [M, 2 W, H, T'] and ``position`` [M, 2] -> ``features`` [M, 16 W].

    Of the position, the frequency counts; when in a clip a sound comes says nothing of what it is.

    Args:
        width: channels W of the first convolution.
        grid: the tiles.
    """

    def __init__(self, width: int, grid: PatchGrid) -> None:
        super().__init__()
        self.place = nn.Linear(1, 2 * width)
        self.body = nn.Sequential(
            separable(2 * width, 4 * width),
            separable(4 * width, 4 * width, stride=(2, 2)),
            separable(4 * width, 8 * width, stride=(2, 2)),
            separable(8 * width, 8 * width),
        )
        self.summary = Summary(grid)

    def forward(self, maps: Tensor, position: Tensor) -> Tensor:
        return as_summands(self.summary(self.meant(maps, position), position))

    def meant(self, maps: Tensor, position: Tensor) -> Tensor:
        """The last maps, [M, 8 W, H / 4, T' / 4]."""
        deep: Tensor = self.body(maps + self.place(position[:, :1])[:, :, None, None])
        return deep


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
    with torch.device("cpu"):  # the values are needed, also where the model is only declared (meta)
        centre = torch.from_numpy(grid.positions())[:, :1]
        band = torch.tensor([FAMILIES[name].band for name in experts])
        inside = (centre >= band[:, 0]) & (centre <= band[:, 1])
    return inside.float() if grid.tile[0] < grid.rows else torch.ones_like(inside, dtype=torch.float32)
