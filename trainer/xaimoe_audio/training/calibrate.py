"""What is fitted on the validation split once the training is over: temperatures, and thresholds of several labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve
from torch import Tensor, nn

from xaimoe_audio.data.dataset import LabelledRecording
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.assess import batches
from xaimoe_runtime.schema import TaskKind

Floats = NDArray[np.float32]
TEMPERATURES = torch.logspace(-2, 2, 81, base=2.0)
"""Candidates, 1/4 … 4."""
LEAST_SCORE = 1e-7
THRESHOLD = 0.5
"""Score from which a class counts as present, unless the validation split says better."""


@torch.no_grad()
def fit_temperatures(
    model: MoEAudioModel, items: list[LabelledRecording], targets: Floats, device: torch.device
) -> None:
    """Sets the head's two temperatures to those with the least negative log-likelihood on the validation split.

    That is of the recordings' scores, pooled over their windows as they are given to the user. The first temperature
    is fitted on the glance alone, the second on the routed answer with the first in place (temperature scaling; C. Guo
    et al., "On calibration of modern neural networks", 2017).
    """
    model.eval()
    parts: list[tuple[Tensor, ...]] = []
    for owners, waveform, source in batches(model, items, device):
        routed = model.route(*model.frontend(waveform, source))
        mixture, mass = model.mixture(routed.spectrogram, routed.gates)
        parts.append((owners.to(device), mixture, mass, routed.prior_logits))
    owner, mixture, mass, prior = (torch.cat(column) for column in zip(*parts, strict=True))
    truth = torch.from_numpy(targets).to(device)
    windows = torch.bincount(owner, minlength=len(truth))[:, None]
    nothing = torch.zeros_like(mixture), torch.zeros_like(mass)
    temperatures = model.head.temperatures
    for index, (mix, weight) in enumerate((nothing, (mixture, mass))):
        losses: list[float] = []
        for candidate in TEMPERATURES:
            temperatures[index] = candidate
            pooled = torch.zeros_like(truth).index_add(0, owner, model.head(mix, weight, prior)) / windows
            losses.append(_surprise(pooled, truth, model.config.task))
        temperatures[index] = TEMPERATURES[int(np.argmin(losses))]


def _surprise(scores: Tensor, truth: Tensor, task: TaskKind) -> float:
    """Mean negative log-likelihood of scores [N, L]."""
    scores = scores.clamp(LEAST_SCORE, 1 - LEAST_SCORE)
    if task == "single_label":
        return float(nn.functional.nll_loss(torch.log(scores), truth.argmax(1)))
    return float(nn.functional.binary_cross_entropy(scores, truth))


def fit_thresholds(scores: Floats, targets: Floats) -> tuple[float, ...]:
    """For each class the threshold with the highest F1 on N validation recordings: scores and targets [N, L].

    Between two scores the middle is taken, of several thresholds as good the one next to ``THRESHOLD``. A class that
    is in every recording, or in none, keeps ``THRESHOLD``.
    """
    return tuple(_best_threshold(scores[:, i], targets[:, i]) for i in range(scores.shape[1]))


def _best_threshold(scores: Floats, present: Floats) -> float:
    if present.all() or not present.any():
        return THRESHOLD
    precision, recall, at = precision_recall_curve(present, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    under = np.concatenate([[0.0], at[:-1]])
    candidates = ((at + under) / 2)[np.isclose(f1[:-1], f1[:-1].max())]
    return float(min(candidates, key=lambda threshold: abs(threshold - THRESHOLD)))
