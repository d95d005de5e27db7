"""Each cell of a spectrogram has one patch that answers for it."""

from __future__ import annotations

import pytest
import torch

from xaimoe_audio.model.territory import Territory, means_of_territories, nearest_tiles
from xaimoe_runtime.grid import PatchGrid

GRIDS = [
    PatchGrid(rows=64, columns=256, tile=(64, 64), stride=(64, 32)),
    PatchGrid(rows=64, columns=96, tile=(32, 32), stride=(16, 32)),
    PatchGrid(rows=32, columns=64, tile=(32, 32), stride=(32, 32)),
]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("reduction", [1, 4, 8])
def test_each_cell_of_the_maps_lies_in_the_territory_of_one_patch(grid: PatchGrid, reduction: int) -> None:
    territories = Territory(grid, reduction)(torch.from_numpy(grid.positions()))
    heard = torch.zeros(grid.rows // reduction, grid.columns // reduction)
    of_rows, of_columns = (nearest[::reduction] for nearest in nearest_tiles(grid))
    n_time = grid.shape[1]
    for patch, territory in enumerate(territories[:, 0]):
        top, left = (grid.stride[0] * (patch // n_time), grid.stride[1] * (patch % n_time))
        rows = slice(top // reduction, top // reduction + territory.shape[0])
        columns = slice(left // reduction, left // reduction + territory.shape[1])
        heard[rows, columns] += territory
        own = of_rows[rows, None] * n_time + of_columns[None, columns] == patch
        assert torch.equal(territory, own.float())
    assert (heard == 1).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_means_are_of_the_cells_whose_nearest_patch_it_is(grid: PatchGrid) -> None:
    of_rows, of_columns = nearest_tiles(grid)
    owner = of_rows[:, None] * grid.shape[1] + of_columns
    torch.testing.assert_close(
        means_of_territories(owner[None, None].float(), grid), torch.arange(grid.count)[None].float()
    )
