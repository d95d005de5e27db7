"""Signal attributes: what a clip is like, before anybody asks what it is.

The same module serves the trainer and, exported inside the frontend graph, the device. Every definition is
continuous, so rounding cannot flip a routing decision, and finite for silence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_audio.config import ATTRIBUTES_VERSION, AttributesVersion

BANDS = 32
"""Equal bands from 0 Hz to Nyquist in which the power is followed."""
NOISE_BLOCK = 8
"""Frames averaged before the noise floor is read off; steadies the estimate."""
EMPTY_DB = 60.0
"""A band this far under the loudest one carries nothing: the effective band ends there."""
SILENCE_DB = -90.0
"""Level in dB re full scale under which a clip has no quality at all."""
QUALITY_SNR: dict[AttributesVersion, tuple[float, float]] = {1: (3.0, 4.0), 2: (-5.0, 2.2)}
"""SNR in dB at which the quality is one half, and the width in dB of its rise, by version of the attributes. In version
2 a clip with as much power over its noise floor as in it has 0.9, and steady noise of any spectrum, which reads around
-6 dB, 0.35: noise, but noise that is to be recognised. With 0.1 rain, boats and ships of the sonar scenes had too few
experts: 0.872 right with all pairs, 0.838 with those of the router."""
MIN_QUALITY_SNR_DB = -6.5
"""SNR that counts for the quality at least, about that of white noise: a steady hum reads lower still, since it does
not even fluctuate, but is no worse a recording. So the quality of a recording that is neither clipped nor nearly silent
is 0.336 or more."""
TINY = 1e-12
"""Power that counts as nothing. It is clamped to, never added: graph optimisers take the addition of so little for
none."""

ATTRIBUTES: tuple[tuple[str, str], ...] = (
    ("snr", "dB"),
    ("flatness", "1"),
    ("transient_rate", "log10"),
    ("clipping_rate", "1"),
    ("fmin_eff", "Hz"),
    ("fmax_eff", "Hz"),
    ("level", "dBFS"),
    ("quality", "1"),
)
"""Names and units, in the order of the columns of ``attributes`` [B, A]."""
INDEX = {name: i for i, (name, _) in enumerate(ATTRIBUTES)}


def ramp(x: Tensor, low: float, high: float) -> Tensor:
    """0 up to ``low``, 1 from ``high``, a straight line between; exactly 0 and 1 outside."""
    return torch.clamp((x - low) / (high - low), 0.0, 1.0)


def quiet_power(bands: Tensor, block: int = NOISE_BLOCK) -> Tensor:
    """Power [B, bands, T] in the quietest quarter of blocks of frames, [B, bands]: what a band has without a sound."""
    _, count, frames = bands.shape
    blocks = max(frames // block, 1)
    length = min(block, frames)
    blocked = bands[:, :, : blocks * length].reshape(-1, count, blocks, length).mean(-1)
    return torch.topk(blocked, max(blocks // 4, 1), dim=2, largest=False).values.mean(-1)


class SignalAttributes(nn.Module):
    """``frame_sums`` [B, BANDS + 2, T] and ``source`` [B, 2] -> ``attributes`` [B, A].

    * ``snr``: power over the noise floor against the noise floor, in the effective band, -20…60 dB. The floor of a
      band is the mean of its quietest quarter of blocks, the floor of the clip the mean over bands, so that steady
      noise reads -8…-4 dB whatever its spectrum. A proxy: for a tone that comes and goes in white noise at 0…30 dB it
      reads up to 4 dB too high and 1 dB too low.
    * ``flatness``: geometric over arithmetic mean of the power density in the effective band, 0…1
      (J. D. Johnston, 1988).
    * ``transient_rate``: log10(kurtosis / 3) of the samples about their local mean, -0.5…3; 0 for Gaussian noise,
      higher the rarer and stronger the peaks.
    * ``clipping_rate``: share of native samples at full scale, as the loader counted them.
    * ``fmin_eff``, ``fmax_eff``: the band that holds power within 60 dB of the loudest band; ``fmax_eff`` never
      exceeds half the native rate.
    * ``level``: mean power about the local mean in dB re full scale, -120…20.
    * ``quality``: 0…1; high when SNR is high, and neither clipped nor silent. Steady noise has 0.34 to 0.53 (white and
      sea noise around 0.35, pink 0.40, brown 0.44), a clip with as much sound as noise 0.9; only clipping and silence
      take it under 0.33.

    Models keep the definition that they were trained with. In version 1 the floor of a clip was the geometric mean over
    bands, which reads steady noise the higher the steeper its spectrum is (red noise 12 to 18 dB, white noise -6.5 dB);
    quality followed that scale, and moments included a constant offset (``frontend.raw_moments``).

    Args:
        sample_rate: of the clips, in Hz.
        hop: samples from frame to frame.
        version: of the definition.
    """

    low: Tensor
    high: Tensor

    def __init__(self, sample_rate: int, hop: int, version: AttributesVersion = ATTRIBUTES_VERSION) -> None:
        super().__init__()
        self.hop, self.version = hop, version
        edges = torch.linspace(0, sample_rate / 2, BANDS + 1)
        self.register_buffer("low", edges[:-1], persistent=False)
        self.register_buffer("high", edges[1:], persistent=False)

    def forward(self, frame_sums: Tensor, source: Tensor) -> Tensor:
        bands, square, fourth = frame_sums[:, :BANDS], frame_sums[:, BANDS], frame_sums[:, BANDS + 1]
        frames = frame_sums.shape[2]
        power = bands.mean(-1)  # [B, BANDS]
        loudest = power.amax(1, keepdim=True)
        relative_db = 10 * torch.log10(torch.clamp(power, min=TINY * 1e-3) / torch.clamp(loudest, min=TINY * 1e-3))
        held = ramp(relative_db, -EMPTY_DB - 6, -EMPTY_DB)
        fmax = torch.minimum((held * self.high).amax(1), source[:, 0] / 2)
        fmin = torch.minimum((self.low + (1 - held) * self.high[-1]).amin(1), fmax)

        share = held / held.sum(1, keepdim=True)
        floor = torch.clamp(quiet_power(bands), min=TINY)
        noise = (share * floor).sum(1) if self.version > 1 else torch.exp((share * torch.log(floor)).sum(1))
        total = (share * power).sum(1)
        snr = 10 * torch.log10(torch.clamp(total - noise, min=TINY) / noise)
        flatness = torch.exp((share * torch.log(torch.clamp(power, min=TINY))).sum(1)) / torch.clamp(total, min=TINY)

        count = frames * self.hop
        mean_square = torch.clamp(square.sum(-1) / count, min=TINY)
        kurtosis = torch.clamp(fourth.sum(-1) / count, min=3 * TINY * TINY) / torch.square(mean_square)
        transient = torch.log10(torch.clamp(kurtosis / 3, min=TINY))
        level = 10 * torch.log10(mean_square)
        clipping = source[:, 1]
        middle, width = QUALITY_SNR[self.version]
        steady = torch.clamp(snr, min=MIN_QUALITY_SNR_DB) if self.version > 1 else snr
        clear = torch.sigmoid((steady - middle) / width)
        quality = clear * (1 - ramp(clipping, 0.0, 0.2)) * ramp(level, SILENCE_DB, SILENCE_DB + 20)
        return torch.stack(
            [
                torch.clamp(snr, -20.0, 60.0),
                torch.clamp(flatness, 0.0, 1.0),
                torch.clamp(transient, -0.5, 3.0),
                clipping,
                fmin,
                fmax,
                torch.clamp(level, -120.0, 20.0),
                quality,
            ],
            dim=1,
        )
