"""Recordings as they lie on cards and servers: never finished, cut short, joined, written into a pipe."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from xaimoe_runtime.containers.mpeg import parse_frame

Floats = NDArray[np.float32]


def tone(seconds: float, rate: int = 16_000, seed: int = 0) -> Floats:
    """A tone in noise, [n]."""
    n = round(seconds * rate)
    rng = np.random.default_rng(seed)
    return (0.3 * np.sin(0.3 * np.arange(n)) + 0.02 * rng.standard_normal(n)).astype(np.float32)


def encoded(
    samples: Floats, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None, **options: Any
) -> bytes:
    """A whole recording [n] or [n, channels] as libsndfile writes it."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


def pcm16(samples: Floats, order: str = "<") -> bytes:
    """Samples as 16-bit integers."""
    return (np.clip(samples, -1, 1) * 32_767).astype(f"{order}i2").tobytes()


def chunk(name: bytes, content: bytes, size: int | None = None, order: str = "<") -> bytes:
    """A chunk of RIFF, padded, that states its own size or another."""
    return name + struct.pack(f"{order}I", len(content) if size is None else size) + content + bytes(len(content) % 2)


def fmt(rate: int = 16_000, channels: int = 1, bits: int = 16, order: str = "<") -> bytes:
    """A format chunk for PCM."""
    frame = channels * bits // 8
    return chunk(b"fmt ", struct.pack(f"{order}HHIIHH", 1, channels, rate, rate * frame, frame, bits), order=order)


def riff(body: bytes, size: int | None = None, magic: bytes = b"RIFF", order: str = "<") -> bytes:
    """A WAV file around its chunks."""
    return magic + struct.pack(f"{order}I", 4 + len(body) if size is None else size) + b"WAVE" + body


def wav(samples: Floats, stated: int | None = None, before: bytes = b"", after: bytes = b"", **options: int) -> bytes:
    """A WAV file whose data chunk states its own size in bytes or another."""
    return riff(before + fmt(**options) + chunk(b"data", pcm16(samples), stated) + after)


def mp3(samples: Floats, rate: int = 44_100, info: bool = True, mode: str = "VARIABLE") -> bytes:
    """An MP3, with or without the first frame that states how many follow."""
    data = encoded(samples, rate, "MP3", bitrate_mode=mode, compression_level=0.5)
    return data if info else data[mp3_frames(data)[1] :]


def mp3_frames(data: bytes) -> list[int]:
    """Where the frames of a clean MP3 begin."""
    starts, position = [], 0
    while (frame := parse_frame(data[position : position + 4])) is not None:
        starts.append(position)
        position += frame.size
    return starts


def id3(size: int = 300) -> bytes:
    """A tag as it stands at the beginning of an MP3."""
    return b"ID3\x04\x00\x00" + bytes((0, 0, size >> 7, size & 0x7F)) + bytes(size)


def flac_of_unknown_length(samples: Floats, rate: int = 16_000) -> bytes:
    """A FLAC that an encoder wrote into a pipe."""
    data = bytearray(encoded(samples, rate, "FLAC"))
    data[21] &= 0xF0  # the number of samples has 36 bits
    data[22:26] = bytes(4)
    return bytes(data)


def ogg_pages(data: bytes) -> list[int]:
    """Where the pages of an Ogg file begin."""
    starts, position = [], 0
    while position < len(data):
        starts.append(position)
        segments = data[position + 26]
        position += 27 + segments + sum(data[position + 27 : position + 27 + segments])
    return starts


def ogg_checksum(page: bytes) -> int:
    """CRC-32 of a page whose checksum is 0, as Ogg defines it."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc


def ogg_without_end(data: bytes) -> bytes:
    """An Ogg file whose last page does not say that it is the last."""
    start = ogg_pages(data)[-1]
    page = bytearray(data[start:])
    page[5] &= ~4
    page[22:26] = bytes(4)
    page[22:26] = struct.pack("<I", ogg_checksum(bytes(page)))
    return data[:start] + bytes(page)


def write(path: Path, data: bytes) -> Path:
    """Writes a file and gives its path."""
    path.write_bytes(data)
    return path
