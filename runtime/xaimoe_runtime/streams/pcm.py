"""Raw samples without a header, as they come from a pipe or a network."""

from __future__ import annotations

import io
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

Encoding = Literal[
    "u8", "s8", "s16", "s24", "s32", "f32", "f64", "s16be", "s24be", "s32be", "f32be", "f64be", "mulaw", "alaw"
]
"""Of raw samples, channels interleaved: little-endian unless it ends in ``be``; full scale at 1 for floating point."""
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
SUBTYPES: dict[Encoding, tuple[str, int]] = {
    "u8": ("PCM_U8", 1),
    "s8": ("PCM_S8", 1),
    "s16": ("PCM_16", 2),
    "s24": ("PCM_24", 3),
    "s32": ("PCM_32", 4),
    "f32": ("FLOAT", 4),
    "f64": ("DOUBLE", 8),
    "s16be": ("PCM_16", 2),
    "s24be": ("PCM_24", 3),
    "s32be": ("PCM_32", 4),
    "f32be": ("FLOAT", 4),
    "f64be": ("DOUBLE", 8),
    "mulaw": ("ULAW", 1),
    "alaw": ("ALAW", 1),
}
"""libsndfile's name of each, and bytes of a sample."""


def decode(data: bytes, encoding: Encoding, channels: int) -> Floats:
    """Whole frames of raw samples, [n, channels] with full scale at 1."""
    import soundfile

    frames: Floats = soundfile.read(
        io.BytesIO(data),
        format="RAW",
        subtype=SUBTYPES[encoding][0],
        endian="BIG" if encoding.endswith("be") else "LITTLE",
        samplerate=48_000,  # does not matter
        channels=channels,
        dtype="float32",
        always_2d=True,
    )[0]
    return frames


def frame_bytes(encoding: Encoding, channels: int) -> int:
    """Bytes of one sample of all channels."""
    return SUBTYPES[encoding][1] * channels
