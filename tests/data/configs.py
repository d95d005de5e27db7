"""Configurations of models, as the policy would build them from a few facts."""

from __future__ import annotations

from typing import Any

import torch

from xaimoe_audio.config import ATTRIBUTES_VERSION, Budget, FrontendConfig, ModelConfig, Overrides
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.policy import Facts, decide
from xaimoe_audio.policy.build import build
from xaimoe_audio.spectrogram import BACKENDS
from xaimoe_audio.spectrogram.framing import frame_lengths


def model_config(
    budget: Budget = "accuracy",
    labels: tuple[str, ...] = ("a", "b"),
    facts: dict[str, Any] | None = None,
    **overrides: Any,
) -> ModelConfig:
    """What is built from facts (those of a dataset not yet seen, but for ``facts``) and overrides."""
    policy = decide(Facts(budget=budget, **(facts or {})), Overrides(**overrides))
    return build(policy.made, "single_label", labels, FAMILIES, BACKENDS)


def frontend_config(
    spectrogram: str = "logmel",
    rate: int = 16_000,
    frame_s: float = 0.064,
    hop_s: float = 0.02,
    bins: int = 48,
    frames: int = 64,
    fmin: float = 50.0,
    **other: Any,
) -> FrontendConfig:
    """A spectrogram of so many frames."""
    n_fft, win_length, hop = frame_lengths(rate, frame_s, hop_s)
    lengths = {"n_fft": n_fft, "win_length": win_length, "hop": hop, "attributes_version": ATTRIBUTES_VERSION} | other
    clip = -(-(lengths["win_length"] + (frames - 1) * lengths["hop"]) // lengths["hop"]) * lengths["hop"]
    return FrontendConfig(
        sample_rate=rate, clip_samples=clip, spectrogram=spectrogram, bins=bins, fmin=fmin, fmax=rate / 2, **lengths
    )


def random_model(config: ModelConfig) -> MoEAudioModel:
    """Random weights, in evaluation mode; the router's are large enough for clips to differ in their experts."""
    torch.manual_seed(5)
    model = MoEAudioModel(config).eval()
    with torch.no_grad():
        model.router.clip_affinity.weight.mul_(6)
        model.router.patch_affinity.weight.mul_(6)
        model.glance.saliency[-1].weight.mul_(100)
        model.frontend.window.mean.fill_(-60)
        model.frontend.window.deviation.fill_(15)
        model.head.temperatures.copy_(torch.tensor([1.7, 0.6]))
    return model
