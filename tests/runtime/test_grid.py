"""The patch grid: tiles cover the map exactly, know where they lie, and are cut without loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xaimoe_runtime.grid import PatchGrid


@st.composite
def axes(draw: st.DrawFn) -> tuple[int, int, int]:
    """Size, tile and stride of one axis that is covered exactly."""
    tile = draw(st.integers(1, 6))
    stride = draw(st.integers(1, tile))
    return tile + stride * draw(st.integers(0, 4)), tile, stride


@st.composite
def grids(draw: st.DrawFn) -> PatchGrid:
    (rows, tile_f, stride_f), (columns, tile_t, stride_t) = draw(axes()), draw(axes())
    return PatchGrid(rows=rows, columns=columns, tile=(tile_f, tile_t), stride=(stride_f, stride_t))


@pytest.mark.parametrize(
    ("rows", "tile", "stride"),
    [(10, 4, 4), (10, 12, 1), (10, 2, 4), (10, 4, 0), (10, 4, -2)],
    ids=["remainder", "tile beyond the map", "gaps", "no step", "backwards"],
)
@pytest.mark.parametrize("axis", ["frequency", "time"])
def test_a_grid_that_does_not_cover_the_map_exactly_is_refused(rows: int, tile: int, stride: int, axis: str) -> None:
    sizes, tiles, strides = [(rows, 8), (tile, 8), (stride, 8)]
    if axis == "time":
        sizes, tiles, strides = sizes[::-1], tiles[::-1], strides[::-1]
    with pytest.raises(ValueError, match=f"{tile} every {stride} do not cover {rows} {axis} cells exactly; expected"):
        PatchGrid(rows=sizes[0], columns=sizes[1], tile=tiles, stride=strides)


@given(grids())
@settings(max_examples=50)
def test_every_cell_of_the_map_lies_in_a_tile(grid: PatchGrid) -> None:
    cells = np.arange(grid.rows * grid.columns, dtype=np.float32).reshape(1, 1, grid.rows, grid.columns)
    assert np.array_equal(np.unique(grid.tiles(cells)), cells.ravel())


@given(grids(), st.data())
@settings(max_examples=50)
def test_gather_gives_the_tiles_that_slicing_gives(grid: PatchGrid, data: st.DataObject) -> None:
    clips, channels = 2, 3
    source = np.random.default_rng(0).random((clips, channels, grid.rows, grid.columns), np.float32)
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, clips - 1), st.integers(0, grid.count - 1)), min_size=1, max_size=8)
    )
    tiles = grid.gather(source, *np.array(pairs).T)
    assert tiles.shape == (len(pairs), channels, *grid.tile)
    for tile, (clip, patch) in zip(tiles, pairs, strict=True):
        i_freq, i_time = divmod(patch, grid.shape[1])
        top, left = i_freq * grid.stride[0], i_time * grid.stride[1]
        assert np.array_equal(tile, source[clip, :, top : top + grid.tile[0], left : left + grid.tile[1]])


@given(grids())
@settings(max_examples=50)
def test_a_position_is_the_centre_of_its_patch_as_a_share_of_the_map(grid: PatchGrid) -> None:
    freq, time = np.mgrid[: grid.rows, : grid.columns] + 0.5
    centres = [
        grid.tiles(axis[None, None].astype(np.float32)).mean((3, 4, 5)).ravel() / size
        for axis, size in ((freq, grid.rows), (time, grid.columns))
    ]
    positions = grid.positions()
    assert positions.dtype == np.float32
    np.testing.assert_allclose(positions, np.stack(centres, axis=1), atol=1e-6)


def test_patches_are_numbered_along_time_first() -> None:
    grid = PatchGrid(rows=4, columns=6, tile=(2, 2), stride=(2, 2))
    assert (grid.shape, grid.count) == ((2, 3), 6)
    np.testing.assert_allclose(grid.positions()[[0, 1, 3]], [[0.25, 1 / 6], [0.25, 0.5], [0.75, 1 / 6]], atol=1e-6)


def test_gathered_tiles_are_copies() -> None:
    grid = PatchGrid(rows=4, columns=4, tile=(2, 2), stride=(2, 2))
    source = np.zeros((1, 1, 4, 4), np.float32)
    grid.gather(source, np.array([0]), np.array([0]))[:] = 1
    assert not source.any()
