"""Which part of a spectrogram a patch answers for: where tiles overlap, the cells of which it is the nearest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_runtime.grid import PatchGrid


def nearest_tiles(grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """Which of the tiles has its centre nearest to each row, [F], and to each column, [T]."""
    rows, columns = (torch.from_numpy(nearest) for nearest in grid.territories())
    return rows, columns


def means_of_territories(cells: Tensor, grid: PatchGrid) -> Tensor:
    """Means of [B, 1, F, T] over the cells that each patch answers for, [B, P]."""
    of_rows, of_columns = (nn.functional.one_hot(nearest).to(cells) for nearest in nearest_tiles(grid))
    of_rows, of_columns = of_rows / of_rows.sum(0), of_columns / of_columns.sum(0)
    return (of_rows.T @ cells @ of_columns).flatten(1)


class Territory(nn.Module):
    """1 for the cells of M patches' maps that they answer for, else 0: ``position`` [M, 2] -> [M, 1, H, T'].

    Args:
        grid: the tiles.
        reduction: cells of the spectrogram, along each axis, in one of the maps.
    """

    def __init__(self, grid: PatchGrid, reduction: int) -> None:
        super().__init__()
        middles = grid.positions().reshape(*grid.shape, 2)
        self.shared = False
        """Whether any cell is left to another patch."""
        self.ends: list[tuple[float, float]] = []
        for axis, (tile, stride) in enumerate(zip(grid.tile, grid.stride, strict=True)):
            cells = torch.arange(-(-tile // reduction), device="cpu")  # the values are needed, also on the meta device
            margin = (tile - stride) // 2 // reduction
            self.shared |= margin > 0
            before, after = cells < margin, cells >= len(cells) - margin
            for name, part in (("before", before), ("within", ~(before | after)), ("after", after)):
                self.register_buffer(f"{name}_{axis}", part.float(), persistent=False)
            # No other tile has the outer ends in its middle. Half a step from the first centre, and from the last one.
            half = stride / 2 / (grid.rows, grid.columns)[axis]
            self.ends.append((float(middles[0, 0, axis]) + half, float(middles[-1, -1, axis]) - half))

    def forward(self, position: Tensor) -> Tensor:
        rows, columns = (self._along(axis, position[:, axis : axis + 1]) for axis in (0, 1))
        return rows[:, None, :, None] * columns[:, None, None, :]

    def _along(self, axis: int, place: Tensor) -> Tensor:
        """[M, cells] of patches at ``place`` [M, 1]."""
        before, within, after = (self.get_buffer(f"{name}_{axis}") for name in ("before", "within", "after"))
        first, last = self.ends[axis]
        return within + before * (place < first).to(place) + after * (place > last).to(place)
