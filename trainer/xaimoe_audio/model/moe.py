"""The whole model, and the two ways to compute its mixture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.experts import FAMILIES, Expert, Front, Trunk, band_fit, first_layers, start_alike
from xaimoe_audio.model.glance import Glance
from xaimoe_audio.model.head import Head
from xaimoe_audio.model.router import Router
from xaimoe_audio.spectrogram.frontend import Frontend
from xaimoe_runtime.schema import Routing


@dataclass(frozen=True)
class Routed:
    """What glance and router say about a batch."""

    spectrogram: Tensor
    """[B, 1, F, T]"""
    attributes: Tensor
    """[B, A]"""
    saliency: Tensor
    """[B, P]"""
    context: Tensor
    """[B, C]"""
    prior_logits: Tensor
    """[B, L]"""
    gates: Tensor
    """[B, P, E], sparse"""
    gates_dense: Tensor
    """[B, P, E], before sparsification"""

    def gates_for(self, routing: Routing) -> Tensor:
        """The gates that ``routing`` runs."""
        if routing == "glance":
            return torch.zeros_like(self.gates)
        return self.gates if routing == "routed" else self.gates_dense


class MoEAudioModel(nn.Module):
    """Frontend, glance, router, experts and head, each a graph of its own once exported."""

    positions: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        labels = len(config.labels)
        self.frontend = Frontend(config.frontend)
        self.glance = Glance(self.grid, labels, config.task)
        self.router = Router(config.experts, band_fit(config.experts, self.grid), config.router)
        height, width = self.grid.tile[0], config.expert_width
        full_height = height == self.grid.rows
        fronts = {name: Front(FAMILIES[name], height, full_height, width) for name in config.experts}
        start_alike(fronts.values(), first_layers(1, width))
        self.fronts = nn.ModuleDict(fronts)
        self.trunk = Trunk(width, self.grid)
        self.head = Head(config.features, labels, config.task)
        self.register_buffer("positions", torch.from_numpy(self.grid.positions()), persistent=False)

    @property
    def experts(self) -> dict[str, Expert]:
        """The experts, each a front and the trunk of all."""
        return {name: Expert(front, self.trunk) for name, front in self.fronts.items()}  # type: ignore[arg-type]

    def route(self, spectrogram: Tensor, attributes: Tensor) -> Routed:
        """Glance and router on a spectrogram [B, 1, F, T] and its attributes [B, A]."""
        saliency, context, prior_logits = self.glance(spectrogram)
        gates, dense = self.router(self.attend(saliency, spectrogram), context, attributes)
        return Routed(spectrogram, attributes, saliency, context, prior_logits, gates, dense)

    def attend(self, saliency: Tensor, spectrogram: Tensor) -> Tensor:
        """What the router takes for the importance of the patches, [B, P]: the saliency. Studies choose otherwise."""
        return saliency

    def tiles(self, spectrogram: Tensor) -> Tensor:
        """All patches of a spectrogram, a view: [B, P, 1, PF, PT]."""
        (tile_f, tile_t), (stride_f, stride_t) = self.grid.tile, self.grid.stride
        unfolded = spectrogram.unfold(2, tile_f, stride_f).unfold(3, tile_t, stride_t)
        return unfolded.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)

    def mixture(self, spectrogram: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Runs each front once, on the patches it has a gate for: ``mixture`` [B, D] and ``mass`` [B, 1]."""
        tiles = self.tiles(spectrogram)
        mixture = spectrogram.new_zeros(len(gates), self.config.features)
        experts, clips, patches = torch.nonzero(gates.permute(2, 0, 1), as_tuple=True)  # by expert
        if len(experts):
            counts = torch.bincount(experts, minlength=len(self.fronts)).tolist()
            chosen = torch.split(tiles[clips, patches], counts)
            maps = [front(given) for front, given in zip(self.fronts.values(), chosen, strict=True) if len(given)]
            features = self.trunk(torch.cat(maps), self.positions[patches])
            mixture = mixture.index_add(0, clips, gates[clips, patches, experts, None] * features)
        return mixture, gates.sum((1, 2))[:, None]

    def mixture_reference(self, spectrogram: Tensor, gates: Tensor) -> tuple[Tensor, Tensor]:
        """The same by running every expert on every patch: slow, simple, and what ``mixture`` is tested against."""
        tiles = self.tiles(spectrogram)
        batch, patches = tiles.shape[:2]
        position = self.positions.repeat(batch, 1)
        features = torch.stack([expert(tiles.flatten(0, 1), position) for expert in self.experts.values()], dim=1)
        features = features.reshape(batch, patches, len(self.experts), -1)
        return torch.einsum("bpe,bped->bd", gates, features), gates.sum((1, 2))[:, None]

    def forward(self, waveform: Tensor, source: Tensor, routing: Routing = "routed") -> tuple[Tensor, Routed]:
        """``waveform`` [B, S], ``source`` [B, 2] (native rate in Hz, clipping rate) -> scores [B, L], routing."""
        routed = self.route(*self.frontend(waveform, source))
        mixture, mass = self.mixture(routed.spectrogram, routed.gates_for(routing))
        return self.head(mixture, mass, routed.prior_logits), routed
