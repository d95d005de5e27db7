"""Running a model over a whole split, as a device would, and what is read off the answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_audio.data.dataset import LabelledRecording, windows_of
from xaimoe_audio.engine import audio_spec
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES
from xaimoe_runtime.console import progress
from xaimoe_runtime.inference import BATCH, run_windows
from xaimoe_runtime.result import Engine, Outputs, pool
from xaimoe_runtime.schema import AttributeSpec, Routing

Floats = NDArray[np.float32]
WINDOWS_COUNTED = 4
"""Windows of a recording that count for the normalisation, so that a few very long ones do not outweigh the rest."""
LEAST_DEVIATION = 0.1
"""Of a spectrogram's level; a dataset in which nothing happens must not be blown up either."""
TEMPERATURES = torch.logspace(-2, 2, 81, base=2.0)
"""Candidates, 1/4 … 4."""


@dataclass(frozen=True)
class Answers:
    """A model's answers for the recordings of a split."""

    scores: Floats
    """[N, L], pooled over the windows of each recording."""
    outputs: Outputs
    """Of all windows."""


def answer(engine: Engine, items: list[LabelledRecording], routing: Routing) -> Answers:
    """The engine's answers for ``items``, with a progress bar on stderr; windows and pooling are the runtime's own."""
    parts: list[Outputs] = []
    owners: list[int] = []
    source = windows_of(items, engine.audio)
    with progress(f"classifying, {routing}", len(items)) as advance:
        while group := list(islice(source, BATCH)):
            parts.append(run_windows(engine, [window for _, window in group], routing))
            for owner, _ in group:
                if not owners or owner != owners[-1]:
                    advance()
                owners.append(owner)
    outputs, owner_of = Outputs.join(parts), np.asarray(owners)
    scores = np.stack([pool(outputs.scores[owner_of == i]) for i in range(len(items))])
    return Answers(scores, outputs)


def expert_usage(answers: Answers, experts: tuple[str, ...]) -> dict[str, Any]:
    """How the router spread its work over the experts.

    ``selection_rate``: share of windows in which an expert runs; ``pair_share``: its share of all pairs run;
    ``k_histogram``: windows by number of experts used; ``pairs_per_window``: mean; ``load_balance``: 1 when all
    experts run equally many pairs, E when one runs all.
    """
    gates = answers.outputs.gates
    used = gates > 0
    pairs = used.sum(axis=(0, 1)).astype(float)
    share = pairs / max(pairs.sum(), 1)
    k = used.any(axis=1).sum(axis=1)
    return {
        "selection_rate": dict(zip(experts, used.any(axis=1).mean(axis=0).tolist(), strict=True)),
        "pair_share": dict(zip(experts, share.tolist(), strict=True)),
        "k_histogram": {str(n): int((k == n).sum()) for n in range(len(experts) + 1)},
        "k_mean": float(k.mean()),
        "pairs_per_window": float(used.sum(axis=(1, 2)).mean()),
        "pairs_possible": int(used[0].size),
        "load_balance": float(len(experts) * np.square(share).sum()),
    }


def describe_usage(split: str, usage: dict[str, Any]) -> str:
    """What ``expert_usage`` found, as text for a terminal."""
    lines = [
        f"{split}: {usage['pairs_per_window']:.1f} of {usage['pairs_possible']} pairs and {usage['k_mean']:.2f} "
        f"experts a window, load balance {usage['load_balance']:.2f} (1 is even)"
    ]
    lines += [
        f"  {name:<24} in {rate:6.1%} of windows, {usage['pair_share'][name]:6.1%} of pairs"
        for name, rate in usage["selection_rate"].items()
    ]
    histogram = ", ".join(f"{k} in {n}" for k, n in usage["k_histogram"].items())
    return "\n".join([*lines, f"  experts used: {histogram} windows"])


def attribute_quantiles(answers: Answers) -> tuple[AttributeSpec, ...]:
    """How each signal attribute is distributed over the windows."""
    low, middle, high = np.quantile(answers.outputs.attributes, [0.05, 0.5, 0.95], axis=0)
    return tuple(
        AttributeSpec(name=name, unit=unit, q05=float(low[i]), q50=float(middle[i]), q95=float(high[i]))
        for i, (name, unit) in enumerate(ATTRIBUTES)
    )


def _batches(
    model: MoEAudioModel, items: list[LabelledRecording], device: torch.device, most: int | None = None
) -> Iterator[tuple[Tensor, ...]]:
    """(recordings' indices, waveform, source) of all windows, or the first ``most`` of each recording, by batches."""
    source = windows_of(items, audio_spec(model.config), most)
    while group := list(islice(source, BATCH)):
        yield (
            torch.tensor([owner for owner, _ in group]),
            torch.from_numpy(np.stack([window.samples for _, window in group])).to(device),
            torch.tensor([window.source for _, window in group], dtype=torch.float32).to(device),
        )


@torch.no_grad()
def fit_normalisation(model: MoEAudioModel, items: list[LabelledRecording], device: torch.device) -> None:
    """Sets the spectrogram's mean in each band and its one deviation from the training recordings.

    Silent cells do not count, and of each recording only the first ``WINDOWS_COUNTED`` windows.
    """
    total = square = count = torch.zeros((), dtype=torch.float64)
    window = model.frontend.window
    for _, waveform, _ in _batches(model, items, device, WINDOWS_COUNTED):
        level, sounding = (part.cpu().double() for part in window.level(model.frontend.frame(waveform)[0]))
        total = total + (level * sounding).sum((0, 2))
        square = square + (torch.square(level) * sounding).sum((0, 2))
        count = count + sounding.sum((0, 2))
    count = torch.clamp(count, min=1.0)
    mean = total / count
    spread = torch.sqrt(torch.clamp((square / count - torch.square(mean)).mean(), min=0))
    window.mean.copy_(mean)
    # One deviation for all bands: a band in which nothing happens must not be blown up.
    window.deviation.fill_(max(float(spread), LEAST_DEVIATION))


@torch.no_grad()
def fit_temperatures(
    model: MoEAudioModel, items: list[LabelledRecording], targets: Floats, device: torch.device
) -> None:
    """Sets the head's two temperatures to those with the least negative log-likelihood on the validation split.

    The prior's is fitted on the glance alone, the experts' on the routed answer with the prior's in place
    (temperature scaling, C. Guo et al., "On calibration of modern neural networks", 2017).
    """
    model.eval()
    parts: list[tuple[Tensor, ...]] = []
    for owners, waveform, source in _batches(model, items, device):
        routed = model.route(*model.frontend(waveform, source))
        mixture, mass = model.mixture(routed.feature_map, routed.gates)
        parts.append((torch.from_numpy(targets)[owners].to(device), mixture, mass, routed.prior_logits))
    truth, mixture, mass, prior = (torch.cat(column) for column in zip(*parts, strict=True))
    nothing = torch.zeros_like(mixture), torch.zeros_like(mass)
    temperatures = model.head.temperatures
    for index, (mix, weight) in enumerate((nothing, (mixture, mass))):
        losses: list[float] = []
        for candidate in TEMPERATURES:
            temperatures[index] = candidate
            logits = model.head.logits(mix, weight, prior)
            if model.config.task == "single_label":
                losses.append(float(nn.functional.cross_entropy(logits, truth)))
            else:
                losses.append(float(nn.functional.binary_cross_entropy_with_logits(logits, truth)))
        temperatures[index] = TEMPERATURES[int(np.argmin(losses))]
