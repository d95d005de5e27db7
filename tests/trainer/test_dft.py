"""The power spectrum by matrix products: the same numbers as the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from xaimoe_audio.spectrogram.dft import PowerSpectrumProjection, frame_columns, hann
from xaimoe_audio.spectrogram.framing import frame_lengths


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(2, 512),
    share=st.floats(0.51, 1.0),
    step=st.integers(1, 40),
    frames=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_power_of_every_bin_is_that_of_the_fft(rows: int, share: float, step: int, frames: int, seed: int) -> None:
    n_fft = 32 * rows
    win_length = max(32, round(share * n_fft / 32) * 32)
    hop = min(32 * step, win_length)
    count = -(-(win_length + (frames - 1) * hop) // hop) * hop
    samples = noise(count, seed)
    projection = PowerSpectrumProjection(n_fft, win_length, hop, torch.eye(n_fft // 2 + 1))
    found = projection(torch.from_numpy(samples)[None])[0].T.double().numpy()
    starts = range(0, count - win_length + 1, hop)
    window = hann(win_length)
    framed = np.stack([samples[i : i + win_length].astype(np.float64) * window for i in starts])
    wanted = np.abs(np.fft.rfft(framed, n_fft)) ** 2
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() / wanted.max() < 1e-5
    assert np.abs(found - wanted).sum() / wanted.sum() < 1e-5


@pytest.mark.parametrize("samples", [24, 27, 30], ids=["whole hops", "a rest that fits no frame", "a frame more"])
def test_frames_are_columns(samples: int) -> None:
    signal = torch.arange(float(samples))[None]
    found = frame_columns(signal, win_length=10, hop=6, frames=(samples - 10) // 6 + 1)
    assert torch.equal(found, signal.unfold(1, 10, 6).transpose(1, 2))


@pytest.mark.parametrize("rate", [100, 4_000, 5_120, 11_025, 16_000, 22_050, 44_100, 96_000, 192_000, 1_000_000])
@pytest.mark.parametrize(("frame_s", "hop_s"), [(0.064, 0.01), (0.064, 0.02), (0.04, 0.02), (0.016, 0.005)])
def test_frame_lengths_are_near_those_asked_for_and_fast(rate: int, frame_s: float, hop_s: float) -> None:
    n_fft, win_length, hop = frame_lengths(rate, frame_s, hop_s)
    assert n_fft == win_length
    assert win_length % 32 == hop % 32 == 0
    assert hop <= win_length / 2
    assert abs(win_length - max(frame_s * rate, 256)) <= 16
    assert abs(hop - min(max(hop_s * rate, 32), win_length / 2)) <= 16
