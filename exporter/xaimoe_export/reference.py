"""The whole line in PyTorch, simple and slow: every expert on every patch. What a bundle is compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xaimoe_export.graphs import GraphModule
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.schema import CONTRACT, ROUTINGS, PatchSpec, Role, Routing

Floats = NDArray[np.float32]
CHUNK = 8
"""Frames of a stream's chunk."""


class Reference:
    """The modules of a model, run by hand."""

    def __init__(self, graphs: tuple[GraphModule, ...], patches: PatchSpec) -> None:
        self.graphs, self.patches = graphs, patches
        by_role: dict[Role, GraphModule] = {graph.role: graph for graph in graphs}
        self.frontend, self.saliency = by_role["frontend"], by_role["saliency"]
        self.router, self.head = by_role["router"], by_role["head"]
        self.frames, self.window = by_role.get("frames"), by_role.get("window")
        self.gather, self.scatter = by_role.get("gather"), by_role.get("scatter")
        self.experts = [graph for graph in graphs if graph.role == "expert"]

    def answers(self, waveform: Tensor, source: Tensor) -> dict[str, Tensor]:
        """Every graph's inputs and outputs for clips [B, S], by their golden names.

        An expert is given all patches; what the head is given is the routed mixture.
        """
        found: dict[str, Tensor] = {}

        def run(graph: GraphModule, *inputs: Tensor) -> dict[str, Tensor]:
            outputs = graph(*inputs)
            named = dict(zip(CONTRACT[graph.role][0], inputs, strict=True)) | outputs
            found.update({graph.golden(name): value for name, value in named.items()})
            return outputs

        if self.frames is not None and self.window is not None and self.frames.framing is not None:
            seen, hop = self.frames.framing
            run(self.frames, waveform[:, : seen + (CHUNK - 1) * hop])
            whole = self.frames(waveform)
            run(self.window, whole["frames"], whole["frame_sums"], source)
        heard = run(self.frontend, waveform, source)
        glance = run(self.saliency, heard["spectrogram"])
        gates = run(self.router, glance["saliency"], glance["context"], heard["attributes"])
        patch_source = glance["feature_map"] if self.patches.source == "feature_map" else heard["spectrogram"]
        tiles, position = all_tiles(patch_source, self.patches.grid)
        if self.gather is not None:
            run(self.gather, patch_source, torch.arange(len(tiles), dtype=torch.float32))
        features = torch.stack([run(expert, tiles, position)["features"] for expert in self.experts], dim=1)
        if self.scatter is not None:  # the first expert's answers, as if each patch had a gate of its own size
            owners = torch.arange(len(tiles)) // self.patches.grid.count
            weights = torch.eye(len(waveform))[owners].T * torch.linspace(0.1, 1.0, len(tiles))
            run(self.scatter, features[:, 0], weights, features[: len(waveform)].mean(1))
        features = features.reshape(len(waveform), self.patches.grid.count, len(self.experts), -1)
        for routing in (*(r for r in ROUTINGS if r != "routed"), "routed"):
            chosen = chosen_gates(gates, routing)
            mixture = torch.einsum("bpe,bped->bd", chosen, features)
            mass = chosen.sum((1, 2))[:, None]
            found[f"scores/{routing}"] = run(self.head, mixture, mass, glance["prior_logits"])["scores"]
        return found


def chosen_gates(gates: dict[str, Tensor], routing: Routing | str) -> Tensor:
    """The gates that a routing runs, [B, P, E]."""
    if routing == "glance":
        return torch.zeros_like(gates["gates"])
    return gates["gates"] if routing == "routed" else gates["gates_dense"]


def all_tiles(source: Tensor, grid: PatchGrid) -> tuple[Tensor, Tensor]:
    """All patches of ``source`` [B, C, rows, columns]: [B * P, C, PF, PT], and their positions [B * P, 2]."""
    tiles = np.ascontiguousarray(grid.tiles(source.numpy()))
    position = np.tile(grid.positions(), (len(source), 1))
    return torch.from_numpy(tiles.reshape(-1, source.shape[1], *grid.tile)), torch.from_numpy(position)
