"""Configurations of models, as the policy would build them from a few facts."""

from __future__ import annotations

from typing import Any

from xaimoe_audio.config import ATTRIBUTES_VERSION, Budget, FrontendConfig, ModelConfig, Overrides
from xaimoe_audio.model.experts import FAMILIES
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
