"""The whole model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.bank import ExpertBank
from xaimoe_audio.model.experts import band_fit
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
    """Frontend, glance, router, experts and head, each a graph of its own once exported.

    Args:
        config: of the whole model.
        frontend: the one of this configuration, if there is one already.
    """

    def __init__(self, config: ModelConfig, frontend: Frontend | None = None) -> None:
        super().__init__()
        self.config = config
        self.grid = config.grid
        labels = len(config.labels)
        self.frontend = frontend or Frontend(config.frontend)
        self.glance = Glance(self.grid, labels, config.task, config.detects_background)
        self.router = Router(config.experts, band_fit(config.experts, self.grid), config.router)
        self.bank = ExpertBank(config)
        self.head = Head(config.features, labels, config.task)

    def route(self, spectrogram: Tensor, attributes: Tensor) -> Routed:
        """Glance and router on a spectrogram [B, 1, F, T] and its attributes [B, A]."""
        saliency, context, prior_logits = self.glance(spectrogram)
        gates, dense = self.router(self.attend(saliency, spectrogram), context, attributes)
        return Routed(spectrogram, attributes, saliency, context, prior_logits, gates, dense)

    def attend(self, saliency: Tensor, spectrogram: Tensor) -> Tensor:
        """What the router takes for the importance of the patches, [B, P]: the saliency. Studies choose otherwise."""
        return saliency

    def forward(self, waveform: Tensor, source: Tensor, routing: Routing = "routed") -> tuple[Tensor, Routed]:
        """``waveform`` [B, S], ``source`` [B, 2] (native rate in Hz, clipping rate) -> scores [B, L], routing."""
        routed = self.route(*self.frontend(waveform, source))
        mixture, mass = self.bank(routed.spectrogram, routed.gates_for(routing))
        return self.head(mixture, mass, routed.prior_logits), routed
