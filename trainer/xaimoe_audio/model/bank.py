"""The bank of experts: one for each family, and their mixture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.experts import FAMILIES, Expert, Front, Trunk, first_layers, start_alike


class ExpertBank(nn.Module):
    """``spectrogram`` [B, 1, F, T] and ``gates`` [B, P, E] -> ``mixture`` [B, D] and ``mass`` [B, 1].

    The mixture is the sum of the experts' features, each times its gate, the mass that of the gates. A pair whose gate
    is 0 is not run: each front hears in one batch the patches it has a gate for, and the trunk what all fronts found.
    """

    positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.grid, self.features = config.grid, config.features
        height, width = self.grid.tile[0], config.expert_width
        full_height = height == self.grid.rows
        fronts = {name: Front(FAMILIES[name], height, full_height, width) for name in config.experts}
        start_alike(fronts.values(), first_layers(1, width))
        self.fronts = nn.ModuleDict(fronts)
        self.trunk = Trunk(width, self.grid)
        self.register_buffer("positions", torch.from_numpy(self.grid.positions()), persistent=False)

    @property
    def experts(self) -> dict[str, Expert]:
        """The experts by family, each a front and the trunk of all."""
        return {name: Expert(front, self.trunk) for name, front in self.fronts.items()}  # type: ignore[arg-type]

    def tiles(self, spectrogram: Tensor) -> Tensor:
        """All patches of a spectrogram, a view: [B, P, 1, PF, PT]."""
        (tile_f, tile_t), (stride_f, stride_t) = self.grid.tile, self.grid.stride
        unfolded = spectrogram.unfold(2, tile_f, stride_f).unfold(3, tile_t, stride_t)
        return unfolded.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)

    def forward(self, spectrogram: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        tiles = self.tiles(spectrogram)
        mixture = spectrogram.new_zeros(len(gates), self.features)
        experts, clips, patches = torch.nonzero(gates.permute(2, 0, 1), as_tuple=True)  # by expert
        if len(experts):
            counts = torch.bincount(experts, minlength=len(self.fronts)).tolist()
            chosen = torch.split(tiles[clips, patches], counts)
            maps = [front(given) for front, given in zip(self.fronts.values(), chosen, strict=True) if len(given)]
            features = self.trunk(torch.cat(maps), self.positions[patches])
            mixture = mixture.index_add(0, clips, gates[clips, patches, experts, None] * features)
        return mixture, gates.sum((1, 2))[:, None]

    def reference(self, spectrogram: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """The same by running every expert on every patch: slow, simple, and what the bank is tested against."""
        tiles = self.tiles(spectrogram)
        batch, patches = tiles.shape[:2]
        position = self.positions.repeat(batch, 1)
        features = torch.stack([expert(tiles.flatten(0, 1), position) for expert in self.experts.values()], dim=1)
        features = features.reshape(batch, patches, len(self.experts), -1)
        return torch.einsum("bpe,bped->bd", gates, features), gates.sum((1, 2))[:, None]
