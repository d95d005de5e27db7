"""How finely the glance looks: the networks from the whole spectrogram to its map."""

from __future__ import annotations

from math import gcd

from torch import Tensor, nn

from xaimoe_audio.model.layers import convolution, separable
from xaimoe_runtime.grid import PatchGrid

COLUMNS = 4
"""Least width that a tile has in the map."""
COARSE_ROWS, FINE_ROWS = 8, 4
"""Least height of the map."""
COARSE_CHANNELS = (12, 24, 64)
FINE_CHANNELS = 10
"""Of the first convolution; the last has eight times as many."""
HALVINGS = 4
"""Most that the fine eye makes of the spectrogram, each way."""


class Eye(nn.Module):
    """``spectrogram`` [B, 1, F, T] -> map [B, C, F / cell height, T / cell width]."""

    def __init__(self, body: nn.Sequential, cell: tuple[int, int], channels: int) -> None:
        super().__init__()
        self.body = body
        self.cell = cell
        """Height and width of the map's cells, in the spectrogram's; tiles and strides are whole numbers of them."""
        self.channels = channels

    def forward(self, spectrogram: Tensor) -> Tensor:
        found: Tensor = self.body(spectrogram)
        return found


def coarse(grid: PatchGrid) -> Eye:
    """Some 16 bands by eight columns a tile, averaged: enough to find where something is and roughly what."""
    height = 2 * _coarse(gcd(grid.tile[0], grid.stride[0]) // 2, grid.rows // (2 * COARSE_ROWS))
    width = 2 * _coarse(gcd(grid.tile[1], grid.stride[1]) // 2, grid.tile[1] // (2 * COLUMNS))
    first, second, deep = COARSE_CHANNELS
    body = nn.Sequential(
        nn.AvgPool2d((height // 2, width // 2)),
        convolution(1, first, stride=(2, 1)),
        separable(first, second, stride=(1, 2)),
        separable(second, deep),
        separable(deep, deep),
    )
    return Eye(body, (height, width), deep)


def fine(grid: PatchGrid) -> Eye:
    """Every cell of the spectrogram: a small network that could answer alone, and leaves little to be asked."""
    width, rows, columns = FINE_CHANNELS, grid.rows // FINE_ROWS, grid.tile[1] // COLUMNS
    down = _halvings(gcd(grid.tile[0], grid.stride[0]), rows)
    along = _halvings(gcd(grid.tile[1], grid.stride[1]), columns)
    first, second, third, fourth = ((1 + (i < down), 1 + (i < along)) for i in range(HALVINGS))
    body = nn.Sequential(
        convolution(1, width, stride=first),
        separable(width, 2 * width),
        separable(2 * width, 2 * width, stride=second),
        separable(2 * width, 4 * width),
        separable(4 * width, 4 * width, stride=third),
        separable(4 * width, 8 * width, stride=fourth),
        separable(8 * width, 8 * width),
    )
    return Eye(body, (2**down, 2**along), 8 * width)


EYES = {"coarse": coarse, "fine": fine}


def _coarse(size: int, most: int) -> int:
    """The largest divisor of ``size`` that is no larger than ``most``, and at least 1."""
    return next(cells for cells in range(max(min(most, size), 1), 0, -1) if size % cells == 0)


def _halvings(size: int, most: int) -> int:
    """How often ``size`` can be halved without a rest, at most ``HALVINGS`` times and not under 1 / ``most`` of it."""
    return max(n for n in range(HALVINGS + 1) if size % 2**n == 0 and (n == 0 or 2**n <= most))
