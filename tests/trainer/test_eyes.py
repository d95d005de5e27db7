"""How finely the glance looks: each of its maps fits the tiles, whatever these are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xaimoe_audio.architecture import macs_of
from xaimoe_audio.config import GlanceKind
from xaimoe_audio.model.eyes import COARSE_ROWS, COLUMNS, EYES, FINE_ROWS
from xaimoe_runtime.grid import PatchGrid

ESC10 = PatchGrid(rows=64, columns=256, tile=(64, 64), stride=(64, 32))


@st.composite
def grids(draw: st.DrawFn) -> PatchGrid:
    """Grids as a policy or a user may choose them."""
    height, width = (8 * draw(st.integers(3, 8)) for _ in range(2))
    down, along = (2 * draw(st.integers(1, size // 2)) for size in (height, width))
    rows = height + down * draw(st.integers(0, 2))
    columns = width + along * draw(st.integers(0, 2))
    return PatchGrid(rows=rows, columns=columns, tile=(height, width), stride=(down, along))


@pytest.mark.parametrize("kind", EYES)
@settings(max_examples=30, deadline=None)
@given(grid=grids())
def test_tiles_and_strides_are_whole_cells_of_the_map(kind: GlanceKind, grid: PatchGrid) -> None:
    eye = EYES[kind](grid).eval()
    height, width = eye.cell
    assert all(size % height == 0 for size in (grid.tile[0], grid.stride[0]))
    assert all(size % width == 0 for size in (grid.tile[1], grid.stride[1]))
    assert grid.tile[1] // width >= COLUMNS
    found = eye(torch.zeros(1, 1, grid.rows, grid.columns))
    assert found.shape[1] == eye.channels
    # A spectrogram of whole cells; what is left over of another is heard, too, or in no tile.
    assert found.shape[2] in (grid.rows // height, -(-grid.rows // height))
    assert found.shape[3] in (grid.columns // width, -(-grid.columns // width))


def test_maps_are_as_high_as_promised() -> None:
    assert {kind: eye(ESC10).cell for kind, eye in EYES.items()} == {
        "coarse": (64 // COARSE_ROWS, 16),
        "fine": (64 // FINE_ROWS, 16),
    }


def test_the_coarse_one_costs_a_fraction_of_the_fine_one() -> None:
    spectrogram = torch.zeros(1, 1, 64, 256)
    macs = {kind: macs_of(lambda eye=eye: eye(ESC10).eval()(spectrogram)) for kind, eye in EYES.items()}  # type: ignore[misc]
    assert macs["coarse"] < macs["fine"] / 4 < 1.2e6
