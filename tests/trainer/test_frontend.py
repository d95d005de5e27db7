"""The frontend: what a frame keeps, and how the spectrogram is normalised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import noise
from data.configs import frontend_config, model_config

from xaimoe_audio.config import FrontendConfig, ModelConfig
from xaimoe_audio.spectrogram import backend_class
from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT, FrameStage, Frontend


def stage_of(config: FrontendConfig) -> FrameStage:
    return FrameStage(config, backend_class(config.spectrogram)(config))


def test_a_full_scale_sine_reads_its_power_at_its_frequency() -> None:
    config = frontend_config(hop_s=0.01)
    time = torch.arange(config.clip_samples) / config.sample_rate
    frames, sums = stage_of(config)(torch.sin(2 * torch.pi * 2_000 * time)[None])
    bands = sums[0, :32].mean(1)
    # 2000 Hz is the edge of two bands of 250 Hz, which share the power of 1/2.
    assert bands[7:9].sum().item() == pytest.approx(0.5, rel=0.01)
    assert bands.sum().item() == pytest.approx(0.5, rel=0.01)
    assert frames[0].mean(1).argmax().item() == pytest.approx(24, abs=3)


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_moments_are_sums_about_the_frames_mean_over_the_hop_in_its_middle(offset: float) -> None:
    config = frontend_config(hop_s=0.01)
    samples = noise(config.clip_samples)
    _, sums = stage_of(config)(torch.from_numpy(samples)[None] + offset)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 1_024)[::160][: config.frames]
    window = np.hanning(1_025)[:-1]
    middle = frames[:, 432:592] - (frames @ window / window.sum())[:, None]
    np.testing.assert_allclose(sums[0, 32], (middle**2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(sums[0, 33], (middle**4).sum(1), rtol=1e-4)


@pytest.mark.parametrize("fmin", [0.0, 10.0, 50.0])
@pytest.mark.parametrize("name", ["logmel", "logmel+pcen", "stft", "cqt", "fcwt"])
def test_no_band_of_any_backend_holds_a_constant_offset(name: str, fmin: float) -> None:
    if name in ("cqt", "fcwt"):
        fmin = max(fmin, 50.0)  # a lower one would not fit into the clip
    config = frontend_config(name, fmin=fmin)
    frontend = Frontend(config)
    sound = torch.from_numpy(noise(config.clip_samples, level=0.01))[None]
    source = torch.tensor([[16_000.0, 0.0]])
    plain, offset = (frontend(waveform, source)[0] for waveform in (sound, sound + 0.31))
    torch.testing.assert_close(offset, plain, atol=2e-3, rtol=0)
    dead = frontend(torch.full_like(sound, 0.9), source)[0]
    assert (dead == -SPECTROGRAM_LIMIT).all()


def test_the_spectrogram_is_limited_and_finite_whatever_comes(config: ModelConfig) -> None:
    stage = Frontend(config.frontend)
    clip = config.frontend.clip_samples
    waveform = torch.stack([torch.zeros(clip), torch.ones(clip), 1e-20 * torch.ones(clip), 1e4 * torch.rand(clip)])
    spectrogram, attributes = stage(waveform, torch.tensor([[16_000.0, 0.0]] * 4))
    assert spectrogram.shape == (4, 1, config.frontend.bins, config.frontend.frames)
    assert torch.isfinite(spectrogram).all()
    assert spectrogram.abs().max() <= 4
    assert torch.isfinite(attributes).all()


def test_frames_of_a_window_do_not_depend_on_what_surrounds_it(config: ModelConfig) -> None:
    """Framing is not centred, so a stream's frames are a clip's frames."""
    stage, hop = stage_of(config.frontend), config.frontend.hop
    clip = config.frontend.clip_samples
    samples = torch.from_numpy(noise(clip + 5 * hop))
    whole, whole_sums = stage(samples[None])
    part, part_sums = stage(samples[None, 5 * hop :])
    torch.testing.assert_close(whole[:, :, 5:], part, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(whole_sums[:, :, 5:], part_sums, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("rate", [2_000, 4_000, 22_050, 44_100, 192_000])
def test_every_rate_gets_a_frontend_that_runs(rate: int) -> None:
    config = model_config("latency", facts={"duration": 0.5}, sample_rate=rate)
    spectrogram, _ = Frontend(config.frontend)(
        torch.zeros(1, config.frontend.clip_samples), torch.tensor([[float(rate), 0.0]])
    )
    assert spectrogram.shape[3] == config.frontend.frames
