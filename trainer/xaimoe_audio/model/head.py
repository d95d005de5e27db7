"""The head: from what the experts found, and the glance's prior, to scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_runtime.schema import TaskKind


class Head(nn.Module):
    """``mixture`` [B, D], ``mass`` [B, 1], ``prior_logits`` [B, L] -> ``scores`` [B, L].

    The mixture over the mass is the experts' mean answer, whatever share of the pairs was run; it corrects what the
    glance guessed. The mass says how far to believe it: without any, the scores are exactly the calibrated prior.
    """

    temperatures: Tensor
    """Of the prior alone and of the whole answer, fitted on the validation split."""

    def __init__(self, features: int, labels: int, task: TaskKind) -> None:
        super().__init__()
        self.task = task
        self.experts = nn.Sequential(nn.Dropout(0.2), nn.Linear(features, labels))
        self.doubt = nn.Parameter(torch.tensor(-2.0))
        self.register_buffer("temperatures", torch.ones(2))

    def logits(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        """Calibrated logits, [B, L]."""
        belief = mass / (mass + nn.functional.softplus(self.doubt))
        correction: Tensor = self.experts(mixture / torch.clamp(mass, min=1e-6)) * belief
        return (prior_logits + correction) / torch.lerp(self.temperatures[0], self.temperatures[1], belief)

    def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        logits = self.logits(mixture, mass, prior_logits)
        return torch.softmax(logits, dim=1) if self.task == "single_label" else torch.sigmoid(logits)
