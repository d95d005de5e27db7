"""One recording measured at its own rate, in windows, so that its length does not matter."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_audio.profiling.bands import BAND_CENTRES, BAND_EDGES
from xaimoe_audio.profiling.record import FileProfile
from xaimoe_audio.spectrogram.attributes import (
    BANDS,
    INDEX,
    NOISE_BLOCK,
    SILENCE_DB,
    TINY,
    SignalAttributes,
    quiet_power,
)
from xaimoe_audio.spectrogram.dft import PowerSpectrumProjection, hann
from xaimoe_audio.spectrogram.framing import frame_lengths
from xaimoe_audio.spectrogram.frontend import CentralMoments, attribute_bands, offset_bins, project_frames, without_mean
from xaimoe_runtime.audio import Block, open_recording, read_blocks, windows
from xaimoe_runtime.schema import AudioSpec

WINDOW_S = 5.0
"""Recordings are measured in windows of this length, in seconds."""
NOISE_S = 40.0
"""Length of the white noise that they are compared with, in seconds."""
FRAME_S, HOP_S = 0.064, 0.02
"""Length and step of the frames, in seconds."""


class Probe(nn.Module):
    """``waveform`` [1, S] and ``source`` [1, 2] -> ``attributes`` [A], third-octave power and contrast [bands].

    S may vary. The contrast of a band is its mean power over its power in the quietest quarter of the clip, in dB,
    less the most that white noise has in pieces as long: 0 for whatever is steady.
    """

    def __init__(self, rate: int) -> None:
        super().__init__()
        _, self.win_length, self.hop = frame_lengths(rate, FRAME_S, HOP_S)
        self.n_fft = 1 << (self.win_length - 1).bit_length()  # finer lines, for the lowest third octaves
        window_power = float(np.sum(hann(self.win_length) ** 2))
        lines = np.arange(self.n_fft // 2 + 1) * rate / self.n_fft
        lines[: offset_bins(self.n_fft, self.win_length)] = np.nan
        third_octaves = torch.from_numpy(
            ((lines[:, None] >= BAND_EDGES[:-1]) & (lines[:, None] < BAND_EDGES[1:])).astype(np.float64)
        )
        filters = torch.cat([third_octaves, attribute_bands(self.n_fft, self.win_length)], dim=1) * (
            2 / (window_power * self.n_fft)
        )
        self.spectrum = PowerSpectrumProjection(self.n_fft, self.win_length, self.hop, filters)
        self.attributes = SignalAttributes(rate, self.hop)
        self.moments = CentralMoments(self.win_length, self.hop)
        # Low bands are narrower than the spectrum's lines are apart: those tell nothing.
        within = np.less(BAND_CENTRES, rate / 2)
        told = (third_octaves.sum(0).numpy() > 0) | ~within
        self.measured = np.logical_and.accumulate(told[::-1])[::-1] & within
        size = whole_hops(max(round(NOISE_S * rate), self.win_length), self.hop)
        noise = torch.randn(1, size, generator=torch.Generator().manual_seed(0))
        self.noise = self.spectrum(noise)[:, :-BANDS]

    def forward(self, waveform: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        third_octaves, sums = project_frames(without_mean(waveform), self.spectrum, self.moments)
        attributes = self.attributes(sums, source)
        return attributes[0], third_octaves[0].mean(-1), self.contrast(third_octaves)

    def contrast(self, third_octaves: Tensor) -> Tensor:
        """Contrast of third-octave power [1, bands, T] in dB, [bands]."""
        pieces = self.noise[0].unfold(1, min(third_octaves.shape[2], self.noise.shape[2]), third_octaves.shape[2])
        noise = _over_quiet(pieces.transpose(0, 1)).amax(0)
        return torch.relu(_over_quiet(third_octaves)[0] - noise)


def _over_quiet(power: Tensor) -> Tensor:
    """Mean power over that of the quietest quarter, of [B, bands, T] in dB, [B, bands]."""
    quiet = quiet_power(power, min(max(power.shape[2] // NOISE_BLOCK, 1), NOISE_BLOCK))
    mean, floor = (torch.clamp(p, min=TINY) for p in (power.mean(-1), quiet))
    return 10 * torch.log10(mean / floor)


probe_of = lru_cache(maxsize=64)(Probe)


def whole_hops(samples: int, hop: int) -> int:
    """At least so many samples, as a multiple of the hop."""
    return -(-samples // hop) * hop


class _Digest:
    """The blocks of a recording on their way to the windows, hashed."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self.blocks, self.sha256 = blocks, hashlib.sha256()
        self.frames = self.clipped = 0

    def __iter__(self) -> Iterator[Block]:
        for block in self.blocks:
            self.sha256.update(block.samples.tobytes())
            self.frames += block.native_frames
            self.clipped += int(np.count_nonzero(block.clipped[:, 0]))
            yield block


@torch.no_grad()
def measure(path: Path, channel: int | str = "mix") -> FileProfile:
    """Measures a channel of a recording, or the mixture of all, at the recording's own rate.

    Raises:
        AudioError: the file cannot be used.
    """
    if threading.current_thread() is not threading.main_thread():
        torch.set_num_threads(1)  # recordings are measured beside each other
    recording = open_recording(path)
    rate, channels, encoding = recording.samplerate, recording.channels, f"{recording.format} {recording.subtype}"
    probe = probe_of(rate)
    size = whole_hops(max(min(round(WINDOW_S * rate), recording.frames), probe.win_length), probe.hop)
    digest = _Digest(read_blocks(recording, rate, channel))
    spec = AudioSpec(sample_rate=rate, clip_samples=size, frame_hop=probe.hop, window_hop=size)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    peak = 0.0
    for window in windows(digest, spec, rate, name=str(path)):
        found.append(probe(torch.from_numpy(window.samples)[None], torch.tensor([window.source])))
        peak = max(peak, float(np.abs(window.samples).max()))
    attributes, power, contrast = (torch.stack(column).numpy() for column in zip(*found, strict=True))
    level, snr = attributes[:, INDEX["level"]], attributes[:, INDEX["snr"]]
    sounding = level > SILENCE_DB
    counted = sounding if sounding.any() else ~sounding
    mean = dict(zip(INDEX, attributes[counted].mean(0).tolist(), strict=True))

    def by_band(values: NDArray[np.float32]) -> list[float | None]:
        return [float(value) if ok else None for value, ok in zip(values, probe.measured, strict=True)]

    completeness = recording.completeness
    whole = completeness is None or completeness.complete
    return FileProfile(
        audio_sha256=digest.sha256.hexdigest(),
        sample_rate=rate,
        channels=channels,
        encoding=encoding,
        duration_s=digest.frames / rate,
        whole=whole,
        missing="" if completeness is None or whole else completeness.message,
        silent=not sounding.any(),
        silent_share=float(1 - sounding.mean()),
        peak=peak,
        attributes=mean | {"clipping_rate": digest.clipped / digest.frames},
        noise_floor=float(np.mean((level - 10 * np.log10(1 + 10 ** (snr / 10)))[counted])),
        third_octaves=by_band(10 * np.log10(np.maximum(power.mean(0), TINY))),
        contrast=by_band(np.quantile(contrast[counted], 0.9, axis=0)),
    )
