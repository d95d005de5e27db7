"""The spectrogram by matrix products: the same numbers as the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio
from data import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from xaimoe_audio.config import FrontendConfig, ModelConfig, Overrides, choose
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.spectrogram.frontend import FrameStage, Frontend, PowerSpectrumProjection


def frontend(rate: int, n_fft: int, hop: int, n_mels: int = 48) -> FrontendConfig:
    return FrontendConfig(
        sample_rate=rate, clip_samples=hop * 40, n_fft=n_fft, hop=hop, n_mels=n_mels, fmin=50.0, fmax=rate / 2
    )


@pytest.mark.parametrize(
    ("rate", "n_fft", "hop"),
    [
        (8_000, 256, 32),
        (8_000, 512, 96),
        (16_000, 1024, 160),
        (16_000, 1024, 320),
        (16_000, 512, 256),
        (96_000, 8192, 960),
    ],
)
def test_mel_power_is_that_of_torchaudio(rate: int, n_fft: int, hop: int) -> None:
    config = frontend(rate, n_fft, hop)
    window = torch.hann_window(n_fft, periodic=True, dtype=torch.float64)
    textbook = torchaudio.transforms.MelSpectrogram(
        rate,
        n_fft,
        hop_length=hop,
        f_min=config.fmin,
        f_max=config.fmax,
        n_mels=config.bins,
        window_fn=lambda length: torch.hann_window(length, periodic=True),
        power=2,
        center=False,
        norm="slaney",
        mel_scale="htk",
    ).double()
    waveform = torch.from_numpy(noise(config.clip_samples))[None]
    wanted = textbook(waveform.double()) * rate / (2 * torch.square(window).sum())
    found, _ = FrameStage(config)(waveform)
    assert found.shape == wanted.shape == (1, config.bins, config.frames)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    exponent=st.integers(6, 13),
    step=st.integers(1, 40),
    frames=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_power_of_every_bin_is_that_of_the_fft(exponent: int, step: int, frames: int, seed: int) -> None:
    n_fft, hop = 2**exponent, min(32 * step, 2**exponent)
    count = -(-(n_fft + (frames - 1) * hop) // hop) * hop
    samples = noise(count, seed)
    bins = n_fft // 2 + 1
    found = PowerSpectrumProjection(n_fft, hop, torch.eye(bins))(torch.from_numpy(samples)[None])[0].double().numpy()
    starts = range(0, count - n_fft + 1, hop)
    window = np.hanning(n_fft + 1)[:-1]
    wanted = np.stack([np.abs(np.fft.rfft(samples[i : i + n_fft].astype(np.float64) * window)) ** 2 for i in starts])
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() / wanted.max() < 1e-5
    assert np.abs(found - wanted).sum() / wanted.sum() < 1e-5


def test_a_full_scale_sine_reads_its_power_at_its_frequency() -> None:
    config = frontend(16_000, 1024, 160)
    time = torch.arange(config.clip_samples) / config.sample_rate
    frames, sums = FrameStage(config)(torch.sin(2 * torch.pi * 2_000 * time)[None])
    bands = sums[0, :32].mean(1)
    # 2000 Hz is the edge of two bands of 250 Hz, which share the power of 1/2.
    assert bands[7:9].sum().item() == pytest.approx(0.5, rel=0.01)
    assert bands.sum().item() == pytest.approx(0.5, rel=0.01)
    assert frames[0].mean(1).argmax().item() == pytest.approx(24, abs=3)


def test_moments_are_sums_over_each_frames_first_hop() -> None:
    config = frontend(16_000, 1024, 160)
    samples = noise(config.clip_samples)
    _, sums = FrameStage(config)(torch.from_numpy(samples)[None])
    hops = samples[: config.frames * 160].reshape(-1, 160).astype(np.float64)
    np.testing.assert_allclose(sums[0, 32], (hops**2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(sums[0, 33], (hops**4).sum(1), rtol=1e-5)


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
    stage, hop = FrameStage(config.frontend), config.frontend.hop
    clip = config.frontend.clip_samples
    samples = torch.from_numpy(noise(clip + 5 * hop))
    whole, whole_sums = stage(samples[None])
    part, part_sums = stage(samples[None, 5 * hop :])
    torch.testing.assert_close(whole[:, :, 5:], part, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(whole_sums[:, :, 5:], part_sums, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("rate", [4_000, 22_050, 44_100, 192_000])
def test_every_rate_gets_a_frontend_that_runs(rate: int) -> None:
    config = choose("latency", "single_label", ("a", "b"), 0.5, frozenset(FAMILIES), Overrides(sample_rate=rate))
    spectrogram, _ = Frontend(config.frontend)(
        torch.zeros(1, config.frontend.clip_samples), torch.tensor([[float(rate), 0.0]])
    )
    assert spectrogram.shape[3] == config.frontend.frames
