"""What is known of one recording, and its place in the cache: named by the content of the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from xaimoe_audio.data.remember import remembered
from xaimoe_runtime.errors import AudioError

VERSION = 8
"""Part of every key; raise it when a measurement changes."""


class FileProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recording at its own rate: one channel of it, or the mixture of all."""

    audio_sha256: str
    """Of the decoded samples: the same for the same sound in another file."""
    sample_rate: int
    """Hz"""
    channels: int
    encoding: str
    """libsndfile's names of format and sample encoding."""
    duration_s: float
    whole: bool
    """Whether the file is as long as its header says; if not, it is used as far as it goes."""
    missing: str
    """What could not be decoded, in words; empty if all was."""
    silent: bool
    """No window is louder than -90 dB re full scale."""
    silent_share: float
    """Share of the windows that are not."""
    peak: float
    """Largest magnitude of a sample."""
    attributes: dict[str, float]
    """Signal attributes, mean over the windows that are not silent; the clipping rate is that of all samples."""
    noise_floor: float
    """Level of what the SNR takes for noise, in dB re full scale."""
    third_octaves: list[float | None]
    """Power in each of ``bands.BAND_CENTRES`` in dB re full scale; None where the recording has none."""
    contrast: list[float | None]
    """How far the power in each band stands over that of the quietest quarter of a window, in dB, less the most
    that white noise has: 0 for what is steady. Exceeded in a tenth of the windows."""


def file_profile(path: Path, channel: int | str = "mix") -> FileProfile:
    """The profile of a recording's channel, or of the mixture of all; from the cache if it was measured before.

    Raises:
        AudioError: the file cannot be used.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AudioError(
            f"{path}: cannot be read ({error.strerror}); check that it is there and may be read"
        ) from error

    def find() -> FileProfile:
        from xaimoe_audio.profiling.measure import measure  # here, so that a cached profile needs no torch

        return measure(path, channel)

    return remembered(f"profiles/{digest}.{channel}.{VERSION}.json", FileProfile, find)
