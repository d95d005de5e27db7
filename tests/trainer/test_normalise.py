"""The normalisation: a mean for each band and one deviation, of the first windows of each recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data import noise, write_wav
from data.configs import model_config

from xaimoe_audio.data.dataset import load_dataset
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.normalise import LEAST_DEVIATION, fit_normalisation

RATE = 8_000


@torch.no_grad()
def test_the_first_four_windows_of_each_recording_count(tmp_path: Path) -> None:
    """Each window has another sound: noise under a steeper and steeper low-pass, then a loud tone."""
    model = MoEAudioModel(model_config("latency", ("a", "b"), sample_rate=RATE, clip_s=0.5))
    clip = model.config.frontend.clip_samples
    frequency = np.fft.rfftfreq(clip, 1 / RATE)
    windows = [
        np.fft.irfft(np.fft.rfft(noise(clip, seed)) / (1 + frequency / 200) ** seed, clip).astype(np.float32)
        for seed in range(4)
    ]
    tones = [0.5 * np.sin(2 * np.pi * 1_000 * np.arange(clip) / RATE).astype(np.float32)] * 6
    write_wav(tmp_path / "a.wav", np.concatenate([*windows, *tones]), RATE)
    (tmp_path / "metadata.csv").write_text("filepath,split,label\na.wav,train,a\n")
    items = load_dataset(tmp_path, tmp_path / "metadata.csv", "single_label", RATE, required=("train",)).items
    fit_normalisation(model, list(items), torch.device("cpu"))
    window = model.frontend.window
    levels = torch.cat([window.level(model.frontend.frame(torch.from_numpy(one)[None])[0])[0] for one in windows], 2)[0]
    torch.testing.assert_close(window.mean, levels.mean(1), atol=0.05, rtol=0)
    assert window.deviation.unique().numel() == 1
    assert float(window.deviation[0]) == pytest.approx(float(levels.var(1, unbiased=False).mean().sqrt()), rel=0.01)


@torch.no_grad()
def test_silence_does_not_count_and_blows_nothing_up(tmp_path: Path) -> None:
    model = MoEAudioModel(model_config("latency", ("a", "b"), sample_rate=RATE, clip_s=0.5))
    write_wav(tmp_path / "a.wav", np.zeros(RATE, np.float32), RATE)
    (tmp_path / "metadata.csv").write_text("filepath,split,label\na.wav,train,a\n")
    items = load_dataset(tmp_path, tmp_path / "metadata.csv", "single_label", RATE, required=("train",)).items
    fit_normalisation(model, list(items), torch.device("cpu"))
    assert float(model.frontend.window.deviation[0]) == pytest.approx(LEAST_DEVIATION)
    assert not model.frontend.window.mean.any()
