"""The whole line in PyTorch, simple and slow: every expert on every patch. What a bundle is compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xaimoe_export.graphs import CONTRACT, GraphModule
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.schema import ROUTINGS, PatchSpec, Routing

Floats = NDArray[np.float32]


class Reference:
    """The modules of a model, run by hand."""

    def __init__(self, graphs: tuple[GraphModule, ...], patches: PatchSpec) -> None:
        self.graphs, self.patches = graphs, patches
        by_role = {graph.role: graph for graph in graphs if graph.role != "expert"}
        self.frontend, self.saliency = by_role["frontend"], by_role["saliency"]
        self.router, self.head = by_role["router"], by_role["head"]
        self.experts = [graph for graph in graphs if graph.role == "expert"]

    def answers(self, waveform: Tensor, source: Tensor) -> dict[str, Tensor]:
        """Every graph's inputs and outputs, named ``graph/tensor``, and the scores by routing, named ``line/routing``.

        An expert is given all patches; the head is given the routed mixture.
        """
        found: dict[str, Tensor] = {}

        def run(graph: GraphModule, *inputs: Tensor) -> dict[str, Tensor]:
            outputs = graph(*inputs)
            names = zip(CONTRACT[graph.role][0], inputs, strict=True)
            found.update({f"{graph.name}/{name}": value for name, value in (*names, *outputs.items())})
            return outputs

        heard = run(self.frontend, waveform, source)
        glance = run(self.saliency, heard["spectrogram"])
        gates = run(self.router, glance["saliency"], glance["context"], heard["attributes"])
        patch_source = glance["feature_map"] if self.patches.source == "feature_map" else heard["spectrogram"]
        tiles, position = all_tiles(patch_source, self.patches.grid)
        features = torch.stack([run(expert, tiles, position)["features"] for expert in self.experts], dim=1)
        features = features.reshape(len(waveform), self.patches.grid.count, len(self.experts), -1)
        for routing in (*(r for r in ROUTINGS if r != "routed"), "routed"):
            chosen = chosen_gates(gates, routing)
            mixture = torch.einsum("bpe,bped->bd", chosen, features)
            mass = chosen.sum((1, 2))[:, None]
            found[f"line/{routing}"] = run(self.head, mixture, mass, glance["prior_logits"])["scores"]
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


def golden_clip(samples: int, sample_rate: int, seed: int) -> Floats:
    """A synthetic clip [samples]: noise, a rising tone and clicks, something to do for every part of the model."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / sample_rate
    duration = samples / sample_rate
    sweep = np.sin(2 * np.pi * (0.02 * sample_rate * time + 0.2 * sample_rate * time**2 / duration))
    clicks = np.where(rng.random(samples) < 8 / sample_rate, rng.standard_normal(samples), 0)
    noise = 0.02 * rng.standard_normal(samples)
    clip: Floats = (0.2 * sweep * (time > duration / 3) + 0.8 * clicks + noise).astype(np.float32)
    return np.clip(clip, -1, 1)
