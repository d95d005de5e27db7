"""What is fitted on the validation split once the training is over: how far the experts are believed, temperatures, and
thresholds of several labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve
from torch import Tensor, nn

from xaimoe_audio.data.dataset import LabelledRecording
from xaimoe_audio.engine import audio_spec
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.assess import batches, sounding_shares
from xaimoe_runtime.schema import TaskKind

Floats = NDArray[np.float32]
TEMPERATURES: list[float] = np.logspace(-2, 2, 81, base=2.0).tolist()
"""Candidates, 1/4 … 4."""
USUAL_SPREAD = 0.5
"""Standard deviation of the logarithm of a temperature about 0, before any recording is seen. Twenty recordings that
are all recognised would ask for the lowest temperature there is: on ESC-10 with so few (folds 1 and 3) the test's
negative log-likelihood was 0.32 and 0.39 without this, 0.28 and 0.25 with it, and 0.28 and 0.25 at best."""
DOUBTS = (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125)
"""Candidates: the mass at which the experts' answer counts half. Trainings on ESC-10 learned 0.4."""
LEAST_SCORE = 1e-7
LEAST_VOTES = 1e-7
"""Sum of the votes of a recording's windows that is divided by; one that is silent has scores of 0."""
THRESHOLD = 0.5
"""Score from which a class counts as present, unless the validation split says better."""


@torch.no_grad()
def fit_head(model: MoEAudioModel, items: list[LabelledRecording], targets: Floats, device: torch.device) -> None:
    """Sets the head's doubt and its two temperatures to the likeliest ones, given the validation split; the first of
    these is the glance's, too.

    The doubt is learned on recordings that the glance knows by heart: it believes the glance too much. On ESC-10 (folds
    1 to 4) less of it took the test's negative log-likelihood from 0.153 to 0.137, and left with half and a quarter of
    the pairs as much accuracy as with all.

    The likelihood is of the recordings' scores, pooled over their windows as they are given to the user (the mean,
    weighted by what is not silent), and of the temperature itself (``USUAL_SPREAD``). The first temperature is fitted
    on the glance alone, the second with each of some doubts on the routed answer with the first in place (temperature
    scaling; C. Guo et al., "On calibration of modern neural networks", 2017).

    Args:
        model: is set in place.
        items: N recordings of the validation split.
        targets: [N, L], 1 for each class of a recording.
        device: that the model is on.
    """
    model.eval()
    shares = sounding_shares(items, audio_spec(model.config))
    heard: list[tuple[Tensor, Tensor]] = []
    for owners, waveform, source in batches(model, items, device):
        heard.append((owners.to(device), model.glance(model.frontend(waveform, source)[0])[2]))
    owner, prior = (torch.cat(column) for column in zip(*heard, strict=True))
    truth = torch.from_numpy(targets).to(device)
    votes = torch.from_numpy(shares).to(device)[:, None]
    all_votes = torch.zeros_like(truth[:, :1]).index_add(0, owner, votes).clamp(min=LEAST_VOTES)
    nothing = prior.new_zeros(len(prior), model.config.features), prior.new_zeros(len(prior), 1)
    head = model.head

    def surprise(index: int, mix: Tensor, weight: Tensor, temperature: float) -> float:
        head.temperatures[index] = temperature
        pooled = torch.zeros_like(truth).index_add(0, owner, votes * head(mix, weight, prior)) / all_votes
        return _surprise(pooled, truth, model.config.task)

    head.temperatures[0], _ = likeliest(partial(surprise, 0, *nothing))
    model.glance.temperature.copy_(head.temperatures[0])  # which says where experts are asked
    parts = []
    for _, waveform, source in batches(model, items, device):  # computed anew: all spectrograms may not fit into memory
        routed = model.route(*model.frontend(waveform, source))
        parts.append(model.bank(routed.spectrogram, routed.gates))
    mixture, mass = (torch.cat(column) for column in zip(*parts, strict=True))
    found: list[tuple[float, float, float]] = []
    for doubt in DOUBTS:
        head.doubt.fill_(math.log(math.expm1(doubt)))
        temperature, surprised = likeliest(partial(surprise, 1, mixture, mass))
        found.append((surprised, doubt, temperature))
    _, doubt, head.temperatures[1] = min(found)
    head.doubt.fill_(math.log(math.expm1(doubt)))


def likeliest(surprise: Callable[[float], float]) -> tuple[float, float]:
    """The temperature at which ``surprise``, the negative log-likelihood of all recordings, and its own are least, and
    what they are there."""
    surprises = {t: surprise(t) + 0.5 * (math.log(t) / USUAL_SPREAD) ** 2 for t in TEMPERATURES}
    best = min(surprises, key=surprises.__getitem__)
    return best, surprises[best]


def _surprise(scores: Tensor, truth: Tensor, task: TaskKind) -> float:
    """Negative log-likelihood of scores [N, L], summed."""
    scores = scores.clamp(LEAST_SCORE, 1 - LEAST_SCORE)
    if task == "single_label":
        return float(nn.functional.nll_loss(torch.log(scores), truth.argmax(1), reduction="sum"))
    return float(nn.functional.binary_cross_entropy(scores, truth, reduction="sum"))


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
