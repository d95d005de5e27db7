"""The frontend: samples in, normalised spectrogram and signal attributes out, in two stages that a stream can share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from xaimoe_audio.config import FrontendConfig
from xaimoe_audio.spectrogram.attributes import BANDS, SignalAttributes, ramp
from xaimoe_audio.spectrogram.backend import Backend, ClipBackend, FrameBackend, backend_class, decibels
from xaimoe_audio.spectrogram.dft import PowerSpectrumProjection, hann

SILENCE_RAMP = (-130.0, -125.0)
"""Power in dB over which a cell rises from the lower limit: silence looks the same in every band and model."""
SPECTROGRAM_LIMIT = 4.0
"""The normalised spectrogram is kept within this many standard deviations."""


class FrameStage(nn.Module):
    """Waveform [B, N] -> power ``frames`` [B, F, n] and ``frame_sums`` [B, BANDS + 2, n].

    A frame's sums are the power in each of ``BANDS`` equal bands from 0 Hz to Nyquist, then the sums of x**2 and
    x**4 over one hop of samples. Both are all that a stream must keep of a frame. N is a clip's length S, or any
    other that holds whole frames if the backend is streamable.

    A constant offset of the recorder changes neither frames nor sums. Models of version 1 of the attributes do without
    that: they sum the first hop of a frame's samples as they are, and their lowest bands may hold the offset.
    """

    def __init__(self, config: FrontendConfig, backend: Backend) -> None:
        super().__init__()
        self.centred = config.attributes_version > 1
        window_power = float(np.sum(hann(config.win_length) ** 2))
        filters = attribute_bands(config.n_fft, config.win_length) * (2 / (window_power * config.n_fft))
        if isinstance(backend, FrameBackend):
            own = backend.filters()
            if self.centred:
                own = without_offset(own, config.n_fft, config.win_length)
            filters = torch.cat([own / window_power, filters], dim=1)
        self.clip_backend = backend if isinstance(backend, ClipBackend) else None
        self.hop = config.hop
        self.spectrum = PowerSpectrumProjection(config.n_fft, config.win_length, config.hop, filters)
        self.moments = CentralMoments(config.win_length, config.hop)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        if self.centred:
            waveform = without_mean(waveform)
            power, sums = project_frames(waveform, self.spectrum, self.moments)
        else:
            power, sums = project_frames(
                waveform, self.spectrum, lambda columns: raw_moments(waveform, columns.shape[2], self.hop)
            )
        return power if self.clip_backend is None else self.clip_backend.power(waveform), sums


def without_mean(waveform: Tensor) -> Tensor:
    """Return a waveform less its mean.

    The bands have no weight at 0 Hz, but float32 would spread a rounding error of the offset over all of them, and a
    filter that reaches beyond the clip would meet it as a step. The first sample is subtracted before the mean: what a
    dead channel leaves is then exactly 0.

    Args:
        waveform: samples, [B, N]; full scale is 1.

    Returns:
        [B, N], each row with mean 0.
    """
    waveform = waveform - waveform[:, :1]
    return waveform - waveform.mean(1, keepdim=True)


def project_frames(
    waveform: Tensor, spectrum: PowerSpectrumProjection, moments: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the power of each frame in the filters of a projection, and the frame's sums for the signal attributes.

    Args:
        waveform: samples, [B, N], without their mean unless the moments are to include it; full scale is 1.
        spectrum: projection on K filters, of which the last ``BANDS`` are those of :func:`attribute_bands`.
        moments: sums of x**2 and x**4, [B, 2, n], of frames [B, win_length, n], as :class:`CentralMoments` gives them.

    Returns:
        Power [B, K - BANDS, n] in the other filters, and sums [B, BANDS + 2, n].
    """
    columns = spectrum.columns(waveform)
    projected = spectrum.project(columns)
    return projected[:, :-BANDS], torch.cat([projected[:, -BANDS:], moments(columns)], dim=1)


class CentralMoments(nn.Module):
    """Frames [B, win_length, T] -> sums of x**2 and x**4 over the hop in the middle of each frame, [B, 2, T].

    Samples are taken about the frame's mean under the window of the spectrum. That removes what the window spreads over
    the lowest lines, which belong to no band: a constant offset, and a drift. It is removed before samples are
    squared, because float32 cannot subtract an offset of 30 deviations from a sum of fourth powers.

    Args:
        win_length: samples of a frame.
        hop: samples from frame to frame.
    """

    weight: Tensor

    def __init__(self, win_length: int, hop: int) -> None:
        super().__init__()
        window = hann(win_length)
        weight = torch.from_numpy((window / window.sum()).astype(np.float32))
        self.register_buffer("weight", weight[None], persistent=False)
        self.start, self.stop = (win_length - hop) // 2, (win_length + hop) // 2

    def forward(self, frames: Tensor) -> Tensor:
        samples = frames[:, self.start : self.stop] - self.weight @ frames
        square = samples * samples
        return torch.stack([square.sum(1), (square * square).sum(1)], dim=1)


def without_offset(filters: Tensor, n_fft: int, win_length: int) -> Tensor:
    """Return filters without weight on the DFT bins that hold an offset, each with the same sum.

    A filter that has no other bins takes the lowest one that holds no offset.

    Args:
        filters: weight of each DFT bin in each of F filters, [n_fft // 2 + 1, F].
        n_fft: length of the DFT, in samples.
        win_length: length of the Hann window, in samples.

    Returns:
        [n_fft // 2 + 1, F].
    """
    lowest = offset_bins(n_fft, win_length)
    kept = filters.clone()
    kept[:lowest] = 0
    kept[lowest, kept.sum(0) == 0] = 1
    return kept * (filters.sum(0) / kept.sum(0))


def raw_moments(waveform: Tensor, frames: int, hop: int) -> Tensor:
    """Return the sums of x**2 and x**4 over each frame's first hop of samples, offset included.

    Args:
        waveform: samples, [B, N]; full scale is 1.
        frames: how many there are.
        hop: samples from frame to frame.

    Returns:
        [B, 2, frames].
    """
    samples = waveform[:, : frames * hop].reshape(waveform.shape[0], frames, hop)
    square = samples * samples
    return torch.stack([square.sum(-1), (square * square).sum(-1)], dim=1)


def attribute_bands(n_fft: int, win_length: int) -> Tensor:
    """Return 1 for each DFT bin in its band of ``BANDS`` equal ones from 0 Hz to Nyquist, else 0.

    The lowest bins belong to none: see :func:`offset_bins`.

    Args:
        n_fft: length of the DFT, in samples.
        win_length: length of the Hann window, in samples.

    Returns:
        [n_fft // 2 + 1, BANDS].
    """
    bins = n_fft // 2 + 1
    band = torch.clamp(torch.arange(bins) * BANDS // (bins - 1), max=BANDS - 1)
    bands = nn.functional.one_hot(band, BANDS).double()
    bands[: offset_bins(n_fft, win_length)] = 0
    return bands


def offset_bins(n_fft: int, win_length: int) -> int:
    """Return how many DFT bins hold a constant offset of the recorder, which a Hann window spreads over its main lobe.

    Zeros after the window show its side lobes as well, of which the first two count.

    Args:
        n_fft: length of the DFT, in samples.
        win_length: length of the Hann window, in samples; no more than ``n_fft``.
    """
    return 2 if win_length == n_fft else -(-4 * n_fft // win_length)


class WindowStage(nn.Module):
    """The frames of a whole clip -> ``spectrogram`` [B, 1, F, T] and ``attributes`` [B, A].

    The spectrogram is the backend's level, less its mean in each band and over the one deviation that it has in the
    training split, and kept within ± ``SPECTROGRAM_LIMIT``. A silent cell is exactly at the lower limit, and so is one
    whose level is lower than the mean by more than the limit: to the model, which sees the spectrogram alone, both are
    silence (about 0.5 % of the cells of the sonar scenes, ESC-10 and marine_watkins are of the second kind).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FrontendConfig, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.attributes = SignalAttributes(config.sample_rate, config.hop, config.attributes_version)
        self.register_buffer("mean", torch.zeros(config.bins))
        self.register_buffer("deviation", torch.ones(config.bins))

    def level(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """The backend's level of each cell, and how far the cell is sound rather than silence, 0…1."""
        return self.backend.level(frames), ramp(decibels(frames), *SILENCE_RAMP)

    def forward(self, frames: Tensor, frame_sums: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        level, sounding = self.level(frames)
        normalised = (level - self.mean[:, None]) / self.deviation[:, None]
        over_limit = torch.clamp(normalised, -SPECTROGRAM_LIMIT, SPECTROGRAM_LIMIT) + SPECTROGRAM_LIMIT
        spectrogram = over_limit * sounding - SPECTROGRAM_LIMIT
        return spectrogram.unsqueeze(1), self.attributes(frame_sums, source)


class Frontend(nn.Module):
    """``waveform`` [B, S] and ``source`` [B, 2] -> ``spectrogram`` [B, 1, F, T] and ``attributes`` [B, A].

    Raises:
        ConfigError: there is no such backend, or it cannot do what the configuration asks.
    """

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        backend = backend_class(config.spectrogram)(config)
        self.frame = FrameStage(config, backend)
        self.window = WindowStage(config, backend)

    def forward(self, waveform: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        frames, frame_sums = self.frame(waveform)
        spectrogram, attributes = self.window(frames, frame_sums, source)
        return spectrogram, attributes
