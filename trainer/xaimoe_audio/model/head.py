"""The head: from what the experts found, and the glance's prior, to scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_audio.model.pooling import from_mean
from xaimoe_runtime.schema import TaskKind


class Head(nn.Module):
    """``mixture`` [B, D], ``mass`` [B, 1], ``prior_logits`` [B, L] -> ``scores`` [B, L].

    The mixture over the mass is the experts' mean answer, whatever share of the pairs was run; it corrects what the
    glance guessed. The mass says how far to believe it: without any, the scores are exactly the calibrated prior.
    """

    temperatures: Tensor
    """Of the prior alone and of the whole answer, fitted on the validation split, and so is the doubt."""

    def __init__(self, features: int, labels: int, task: TaskKind) -> None:
        super().__init__()
        self.task = task
        self.experts = nn.Sequential(nn.Dropout(0.2), nn.Linear(features // 2, labels))
        self.doubt = nn.Parameter(torch.tensor(-2.0))
        self.register_buffer("temperatures", torch.ones(2))

    def logits(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        """Calibrated logits, [B, L]."""
        belief = mass / (mass + nn.functional.softplus(self.doubt))
        correction = self.of_experts(mixture, mass) * belief
        return (prior_logits + correction) / torch.lerp(self.temperatures[0], self.temperatures[1], belief)

    def of_experts(self, mixture: Tensor, mass: Tensor) -> Tensor:
        """What the experts alone answer, [B, L]."""
        answer: Tensor = self.experts(from_mean(mixture / torch.clamp(mass, min=1e-6)))
        return answer

    def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        logits = self.logits(mixture, mass, prior_logits)
        return torch.softmax(logits, dim=1) if self.task == "single_label" else torch.sigmoid(logits)
