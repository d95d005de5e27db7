"""One recording measured at its own rate, in windows, so that its length does not matter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xaimoe_audio.profiling.bands import BAND_CENTRES, BAND_EDGES
from xaimoe_audio.profiling.record import FileProfile
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES, BANDS, SILENCE_DB, TINY, SignalAttributes
from xaimoe_audio.spectrogram.dft import PowerSpectrumProjection, hann
from xaimoe_audio.spectrogram.framing import frame_lengths
from xaimoe_audio.spectrogram.frontend import attribute_bands, offset_bins
from xaimoe_runtime.audio import Block, open_recording, read_blocks, windows
from xaimoe_runtime.schema import AudioSpec

WINDOW_S = 5.0
"""Recordings are measured in windows of this length, in seconds."""
FRAME_S, HOP_S = 0.064, 0.02
"""Length and step of the frames, in seconds."""


class Probe(nn.Module):
    """``waveform`` [1, S] and ``source`` [1, 2] -> ``attributes`` [A], third-octave power [bands]; S may vary."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.n_fft, self.win_length, self.hop = frame_lengths(rate, FRAME_S, HOP_S)
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
        # Low bands are narrower than the spectrum's lines are apart: those tell nothing.
        within = np.less(BAND_CENTRES, rate / 2)
        told = (third_octaves.sum(0).numpy() > 0) | ~within
        self.measured = np.logical_and.accumulate(told[::-1])[::-1] & within

    def forward(self, waveform: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        projected = self.spectrum(waveform).transpose(1, 2)  # [1, bands, T]
        frames = projected.shape[2]
        square = torch.square(waveform[:, : frames * self.hop].reshape(1, frames, self.hop))
        moments = torch.stack([square.sum(-1), torch.square(square).sum(-1)], dim=1)
        attributes = self.attributes(torch.cat([projected[:, -BANDS:], moments], dim=1), source)
        return attributes[0], projected[0, :-BANDS].mean(-1)


probe_of = lru_cache(maxsize=64)(Probe)


class _Digest:
    """The blocks of a recording on their way to the windows, hashed."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self.blocks, self.sha256 = blocks, hashlib.sha256()
        self.frames = self.clipped = 0

    def __iter__(self) -> Iterator[Block]:
        for block in self.blocks:
            self.sha256.update(block.samples.tobytes())
            self.frames += block.native_frames
            self.clipped += int(block.clipped[0])
            yield block


@torch.no_grad()
def measure(path: Path, channel: int | str = "mix") -> FileProfile:
    """Measures a channel of a recording, or the mixture of all, at the recording's own rate.

    Raises:
        AudioError: the file cannot be used.
    """
    with open_recording(path) as recording:
        rate, channels, encoding = recording.samplerate, recording.channels, f"{recording.format} {recording.subtype}"
        length = recording.frames
    probe = probe_of(rate)
    size = min(round(WINDOW_S * rate), max(length, probe.win_length))
    size = -(-size // probe.hop) * probe.hop  # whole hops
    digest = _Digest(read_blocks(path, rate, channel))
    spec = AudioSpec(sample_rate=rate, clip_samples=size, frame_hop=probe.hop, window_hop=size)
    attributes, power, peak = [], [], 0.0
    for window in windows(digest, spec, rate, name=str(path)):
        found, bands = probe(torch.from_numpy(window.samples)[None], torch.tensor([window.source]))
        attributes.append(found.numpy())
        power.append(bands.numpy())
        peak = max(peak, float(np.abs(window.samples).max()))
    names = [name for name, _ in ATTRIBUTES]
    level = np.array([row[names.index("level")] for row in attributes])
    snr = np.array([row[names.index("snr")] for row in attributes])
    sounding = level > SILENCE_DB
    counted = sounding if sounding.any() else ~sounding
    mean = dict(zip(names, np.mean(np.array(attributes)[counted], axis=0).tolist(), strict=True))
    decibels = 10 * np.log10(np.maximum(np.mean(power, axis=0), TINY))
    return FileProfile(
        audio_sha256=digest.sha256.hexdigest(),
        sample_rate=rate,
        channels=channels,
        encoding=encoding,
        duration_s=digest.frames / rate,
        silent=not sounding.any(),
        peak=peak,
        attributes=mean | {"clipping_rate": digest.clipped / digest.frames},
        noise_floor=float(np.mean((level - 10 * np.log10(1 + 10 ** (snr / 10)))[counted])),
        third_octaves=[float(v) if ok else None for v, ok in zip(decibels, probe.measured, strict=True)],
    )
