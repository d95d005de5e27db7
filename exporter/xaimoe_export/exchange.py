"""What lies between the split graphs on a GPU: patches out of the spectrogram, and answers into the mixture.

With them nothing but the gates and the scores returns to the host.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from xaimoe_export.graphs import GraphModule
from xaimoe_runtime.schema import PatchSpec


class Gather(nn.Module):
    """``spectrogram`` [B, C, rows, columns] and ``pair_index`` [M], clip * P + patch -> ``patches`` [M, C, PF, PT] and
    ``position`` [M, 2]. Indices are float32 like all that graphs take; they are exact up to 16 million."""

    rows: Tensor
    columns: Tensor
    positions: Tensor

    def __init__(self, patches: PatchSpec) -> None:
        super().__init__()
        grid = patches.grid
        self.tile = grid.tile
        for name, axis in (("rows", 0), ("columns", 1)):
            starts = np.arange(grid.shape[axis])[:, None] * grid.stride[axis]
            self.register_buffer(name, torch.from_numpy(starts + np.arange(grid.tile[axis])))
        self.register_buffer("positions", torch.from_numpy(grid.positions()))

    def forward(self, spectrogram: Tensor, pair_index: Tensor) -> tuple[Tensor, Tensor]:
        index = pair_index.long()
        tiles = spectrogram[:, :, self.rows][:, :, :, :, self.columns].permute(0, 2, 4, 1, 3, 5)
        every = tiles.reshape(-1, spectrogram.shape[1], *self.tile)
        positions = self.positions.expand(spectrogram.shape[0], -1, -1).reshape(-1, 2)
        return every[index], positions[index]


class Scatter(nn.Module):
    """``features`` [M, D], ``weights`` [B, M] and the mixture ``so_far`` [B, D] -> ``mixture`` [B, D]."""

    def forward(self, features: Tensor, weights: Tensor, so_far: Tensor) -> Tensor:
        return so_far + weights @ features


def exchange(patches: PatchSpec) -> tuple[GraphModule, ...]:
    """Both graphs; none for patches that are cut from a feature map, which the runtime gathers on the host."""
    if patches.source != "spectrogram":
        return ()
    return GraphModule("gather", Gather(patches)), GraphModule("scatter", Scatter())
