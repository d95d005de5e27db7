"""Filters of constant relative bandwidth, each at the sampling rate it needs.

The signal is halved in rate again and again; a filter runs at the lowest rate that holds its band, where its kernel is
short. The magnitude is averaged over each hop: sampling it once a hop, as transforms for music do, would miss most
clicks at high frequencies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_audio.config import FrontendConfig
from xaimoe_runtime.errors import ConfigError


@dataclass(frozen=True)
class Filter:
    """One band-pass filter."""

    hz: float
    """Centre frequency."""
    top_hz: float
    """Where its band ends."""
    reach_s: float
    """Seconds from the centre of its impulse response to the end."""
    spacing_s: float
    """Largest step in seconds at which samples of its magnitude still tell the mean power."""
    response: Callable[[NDArray[np.float64]], NDArray[np.complex128]]
    """Impulse response at times in s, of any scale."""


USABLE = 0.3
"""Part of a rate up to which a band may reach at that rate; the halving filter leaves it alone."""
HALVING_TAPS = 39
KAISER_BETA = 9.0
"""The halving filter passes 0.15 of the rate and stops from 0.35 on by 90 dB."""
MAX_KERNEL_VALUES = 1 << 23
"""Values of the filters that run at one rate, 64 MB in double precision."""
BLOCK = 64
"""Samples in a row of the matrix products, about; smaller ones are slow to copy, larger ones waste products."""


class MultirateFilterbank(nn.Module):
    """Mean power of each filter's output in each hop: [B, S] -> [B, F, T]. Beyond the clip lies silence.

    Args:
        config: gives rate, hop, clip length and frames; frame t is centred on sample t * hop + win_length / 2.
        filters: by rising centre frequency.
    """

    def __init__(self, config: FrontendConfig, filters: list[Filter]) -> None:
        super().__init__()
        groups: dict[tuple[int, int], list[Filter]] = defaultdict(list)
        for one in filters:
            level = _halvings(one.top_hz, config)
            groups[level, _step(one, level, config)].append(one)
        self.halving = _Halving()
        self.halvings = [level for level, _ in groups]
        self.groups = nn.ModuleList(_Group(config, level, step, members) for (level, step), members in groups.items())

    def forward(self, waveform: Tensor) -> Tensor:
        signals = [waveform]
        while len(signals) <= max(self.halvings):
            signals.append(self.halving(signals[-1]))
        found = [group(signals[level]) for group, level in zip(self.groups, self.halvings, strict=True)]
        return torch.cat(found, dim=1)


def _halvings(top_hz: float, config: FrontendConfig) -> int:
    """How often the rate may be halved for a band that ends at ``top_hz``; hop and half a window stay whole."""
    count, rate = 0, config.sample_rate
    while top_hz <= USABLE * rate / 2 and config.hop % (2 << count) == 0 and config.win_length % (4 << count) == 0:
        count, rate = count + 1, rate // 2
    return count


def _step(one: Filter, level: int, config: FrontendConfig) -> int:
    """Samples from point to point at a level, a divisor of the hop there."""
    hop, most = config.hop >> level, one.spacing_s * config.sample_rate / (1 << level)
    return max((step for step in range(1, hop + 1) if hop % step == 0 and step <= most), default=1)


class _Halving(nn.Module):
    """Low-pass filter and every second sample: [B, N] -> [B, N / 2], N even."""

    toeplitz: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = np.arange(HALVING_TAPS) - HALVING_TAPS // 2
        low_pass = np.sinc(taps / 2) * np.kaiser(HALVING_TAPS, KAISER_BETA)
        low_pass /= low_pass.sum()
        toeplitz = np.zeros((4 * BLOCK, BLOCK))
        for i in range(BLOCK):
            start = BLOCK + 2 * i - HALVING_TAPS // 2
            toeplitz[start : start + HALVING_TAPS, i] = low_pass
        self.register_buffer("toeplitz", torch.from_numpy(toeplitz.astype(np.float32)), persistent=False)

    def forward(self, signal: Tensor) -> Tensor:
        batch, samples = signal.shape
        blocks = -(-samples // (2 * BLOCK))
        filled = nn.functional.pad(signal, (BLOCK, (2 * blocks + 1) * BLOCK - samples))
        rows = frame_rows(filled, BLOCK, 4, 2, blocks)
        return (rows @ self.toeplitz).reshape(batch, blocks * BLOCK)[:, : samples // 2]


def frame_rows(waveform: Tensor, row: int, count: int, step: int, frames: int) -> Tensor:
    """Overlapping frames of a waveform [B, N]: ``count`` rows of ``row`` samples each, every ``step`` rows.

    Whole rows are copied, which is many times faster than a gather of samples. [B, frames, count * row]
    """
    batch, samples = waveform.shape
    first = torch.arange(frames, device=waveform.device) * step
    index = (first[:, None] + torch.arange(count, device=waveform.device)).flatten()
    rows = waveform.reshape(batch, samples // row, row).index_select(1, index)
    return rows.reshape(batch, frames, count * row)


class _Group(nn.Module):
    """Filters that run at one rate with one step: signal at that rate [B, N] -> mean power [B, filters, T].

    Points lie ``step`` samples apart, in the middle of equal parts of each hop around a frame's centre. A row of the
    matrix product gives a run of points at once, so that whole blocks of samples are copied.
    """

    kernels: Tensor

    def __init__(self, config: FrontendConfig, level: int, step: int, filters: list[Filter]) -> None:
        super().__init__()
        rate, hop = config.sample_rate / (1 << level), config.hop >> level
        self.frames, self.points = config.frames, hop // step
        run = max(n for n in range(1, self.points + 1) if self.points % n == 0 and n * step <= max(BLOCK, step))
        self.block, self.runs = run * step, config.frames * self.points // run
        first = (config.win_length >> level) / 2 - hop / 2 + step / 2  # the first point, in samples
        reach = max(one.reach_s for one in filters) * rate
        start = int(np.floor(first - reach))
        self.rows = -(-int(np.ceil(2 * reach + (run - 1) * step + 2)) // self.block)
        self.pad_left, self.skip = max(-start, 0), max(start, 0)
        values = self.rows * self.block * run * len(filters) * 2
        if values > MAX_KERNEL_VALUES:
            raise ConfigError(
                f"spectrogram {config.spectrogram}: found filters of {values} values, expected at most "
                f"{MAX_KERNEL_VALUES}; raise fmin, or choose fewer bands or a hop that is a multiple of a power of two"
            )
        samples = np.arange(self.rows * self.block) + start
        columns = []
        for point in first + step * np.arange(run):
            for one in filters:
                time = (samples - point) / rate
                response = np.where(np.abs(time) <= one.reach_s, one.response(time), 0)
                # Only 1 / 2**level of white noise is left after as many halvings; the scale makes up for it.
                response *= np.sqrt(2.0**level / np.sum(np.abs(response) ** 2))
                columns += [response.real, response.imag]
        kernels = np.stack(columns, axis=1).astype(np.float32)
        self.register_buffer("kernels", torch.from_numpy(kernels), persistent=False)

    def forward(self, signal: Tensor) -> Tensor:
        batch, samples = signal.shape
        needed = (self.runs - 1 + self.rows) * self.block
        pad_right = max(needed - (samples - self.skip) - self.pad_left, 0)
        filled = nn.functional.pad(signal[:, self.skip :], (self.pad_left, pad_right))[:, :needed]
        response = frame_rows(filled, self.block, self.rows, 1, self.runs) @ self.kernels
        power = (response * response).reshape(batch, self.frames, self.points, -1, 2).sum(4)
        return power.mean(2).transpose(1, 2)
