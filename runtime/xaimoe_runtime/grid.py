"""The patch grid: how a map of frequency by time is cut into tiles, and where each tile lies."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LARGEST = 1 << 16
"""Cells of a map along an axis."""
MAX_PATCHES = 1 << 16
"""Patches of a clip."""


class PatchGrid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tiles of a map [C, rows, columns], numbered row of tiles by row of tiles: patch = i_freq * n_time + i_time.

    The tiles cover the map exactly, so no tile is ever padded.
    """

    rows: int
    """Height of the map, in frequency bins."""
    columns: int
    """Width of the map, in frames."""
    tile: tuple[int, int]
    """Height and width of a tile."""
    stride: tuple[int, int]
    """Step from tile to tile in frequency and in time; smaller than the tile, the tiles overlap."""

    def __post_init__(self) -> None:
        if max(self.rows, self.columns) > LARGEST:
            raise ValueError(
                f"patch grid: found {self.rows} x {self.columns} cells, expected at most {LARGEST} along each"
            )
        for size, tile, stride, axis in zip(
            (self.rows, self.columns), self.tile, self.stride, ("frequency", "time"), strict=True
        ):
            if not 0 < stride <= tile <= size or (size - tile) % stride:
                raise ValueError(
                    f"patch grid: tiles of {tile} every {stride} do not cover {size} {axis} cells exactly; "
                    f"expected 0 < stride <= tile <= {size} and ({size} - tile) divisible by the stride"
                )
        if self.count > MAX_PATCHES:
            raise ValueError(
                f"patch grid: found {self.count} patches, expected at most {MAX_PATCHES}; use larger tiles and strides"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tiles along frequency and along time."""
        return (
            (self.rows - self.tile[0]) // self.stride[0] + 1,
            (self.columns - self.tile[1]) // self.stride[1] + 1,
        )

    @property
    def count(self) -> int:
        """Number of patches P of a clip."""
        n_freq, n_time = self.shape
        return n_freq * n_time

    def positions(self) -> Floats:
        """Centres of the patches, [P, 2]: frequency and time, each 0…1 across the map."""
        n_freq, n_time = self.shape
        freq = (np.arange(n_freq) * self.stride[0] + self.tile[0] / 2) / self.rows
        time = (np.arange(n_time) * self.stride[1] + self.tile[1] / 2) / self.columns
        return np.stack(np.meshgrid(freq, time, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)

    def territories(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which row of patches has its middle nearest to each row of the map, [rows], and which column to each column,
        [columns]: where tiles overlap, a patch answers for the cells that it is nearest to."""
        found = []
        for size, tile, stride, count in zip(
            (self.rows, self.columns), self.tile, self.stride, self.shape, strict=True
        ):
            places = (np.arange(size) + 0.5 - tile / 2) / stride
            found.append(np.clip(np.floor(places + 0.5), 0, count - 1).astype(np.intp))
        return found[0], found[1]

    def owned_cells(self) -> list[tuple[slice, slice]]:
        """Return the rows and columns of the map that each patch owns, [P]: those it is nearest to, without overlap."""
        ends = []
        for nearest, count in zip(self.territories(), self.shape, strict=True):
            starts = [*np.searchsorted(nearest, np.arange(count)).tolist(), len(nearest)]
            ends.append([slice(start, stop) for start, stop in pairwise(starts)])
        return [(rows, columns) for rows in ends[0] for columns in ends[1]]

    def tiles(self, source: Floats) -> Floats:
        """All tiles of ``source`` [B, C, rows, columns] as a view [B, n_freq, n_time, C, PF, PT]; nothing is copied."""
        (n_freq, n_time), (batch, channels) = self.shape, source.shape[:2]
        clip, channel, row, column = source.strides
        steps = (clip, row * self.stride[0], column * self.stride[1], channel, row, column)
        shape = (batch, n_freq, n_time, channels, *self.tile)
        if source.flags.c_contiguous:  # as_strided takes ten times as long
            return np.ndarray(shape, source.dtype, source.data, 0, steps)
        return np.lib.stride_tricks.as_strided(source, shape, steps, writeable=False)

    def pick(self, tiles: Floats, clips: NDArray[np.intp], patches: NDArray[np.intp]) -> Floats:
        """Of all tiles, those of M (clip, patch) pairs, [M, C, PF, PT], copied once."""
        n_freq, n_time = tiles.shape[1:3]
        if n_freq > 1:
            row, column = np.divmod(patches, n_time)
            return np.asarray(tiles[clips, row, column])
        return np.asarray(tiles[0, 0][patches] if len(tiles) == 1 else tiles[clips, 0, patches])

    def gather(self, source: Floats, clips: NDArray[np.intp], patches: NDArray[np.intp]) -> Floats:
        """The tiles of M (clip, patch) pairs of ``source``, [M, C, PF, PT], copied once."""
        return self.pick(self.tiles(source), clips, patches)
