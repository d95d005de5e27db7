"""Headers of audio files where raw samples are expected."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.streams.pcm import Encoding

MAGIC_BYTES = 12
"""Bytes from which every container below is recognised."""
MAX_HEADER_BYTES = 1 << 20
"""A WAV file whose samples begin later than this is refused."""
MIN_UNKNOWN_SIZE = 0x7FFF0000
"""From this size of the data chunk on, the program that wrote the header into a pipe did not know the size."""
WAV_CODECS: dict[tuple[int, int], Encoding] = {
    (1, 8): "u8",
    (1, 16): "s16",
    (1, 24): "s24",
    (1, 32): "s32",
    (3, 32): "f32",
    (3, 64): "f64",
    (6, 8): "alaw",
    (7, 8): "mulaw",
}
"""Encoding by format tag and bits of a sample."""
EXTENSIBLE = 0xFFFE
"""Format tag of a WAV file whose real tag stands in the extension of the chunk."""


@dataclass(frozen=True)
class WavHeader:
    """The format that a WAV file states."""

    rate: int
    """Hz"""
    channels: int
    encoding: Encoding | None
    """None for a codec that is not raw samples."""
    size: int
    """Bytes of the header; the samples follow."""
    data_bytes: int | None
    """Bytes of samples; None if the header does not know."""

    def __str__(self) -> str:
        return f"{self.rate} Hz, {self.channels} channel(s), {self.encoding or 'a compressed encoding'}"


def find_container(data: bytes) -> str:
    """Return the name of the file format that begins with these bytes; empty if they may be raw samples."""
    kind = data[8:12]
    if data[:4] in (b"RIFF", b"RF64", b"BW64") and kind == b"WAVE":
        return "WAV"
    if data[:4] == b"FORM" and kind in (b"AIFF", b"AIFC"):
        return "AIFF"
    if data[:3] == b"ID3" and len(data) > 3 and data[3] in (2, 3, 4):
        return "MP3"
    names = {b"fLaC": "FLAC", b"OggS": "Ogg", b".snd": "AU", b"caff": "CAF"}
    return names.get(data[:4], "")


def read_wav_header(data: bytes) -> WavHeader | None:
    """Return the header of a WAV file; None if the samples begin after the end of these bytes.

    Raises:
        AudioError: the samples begin before their format is stated, or too late.
    """
    position, fmt = MAGIC_BYTES, None
    while position + 8 <= len(data):
        name, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if name == b"data":
            if fmt is None:
                raise AudioError("found a WAV header without a format, expected raw samples")
            # In RF64 and BW64 this size is 0xFFFFFFFF; the real one is not needed.
            known = 0 < size < MIN_UNKNOWN_SIZE
            return WavHeader(*fmt, position + 8, size if known else None)
        if name == b"fmt " and size >= 16 and position + 24 <= len(data):
            tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, position + 8)
            if tag == EXTENSIBLE and size >= 26 and position + 34 <= len(data):
                (tag,) = struct.unpack_from("<H", data, position + 32)
            fmt = rate, channels, WAV_CODECS.get((tag, bits))
        position += 8 + size + size % 2  # chunks begin at even positions
        if position > MAX_HEADER_BYTES:
            raise AudioError(f"found a WAV header of over {MAX_HEADER_BYTES} bytes, expected raw samples")
    return None


def check_wav_header(header: WavHeader, rate: int, channels: int, encoding: Encoding) -> None:
    """Check that a WAV header states the format of the raw samples that are expected.

    Raises:
        AudioError: it states another one.
    """
    if (header.rate, header.channels, header.encoding) == (rate, channels, encoding):
        return
    do = "decode it first"
    if header.encoding is not None:
        do = f"give --rate {header.rate} --channels {header.channels} --encoding {header.encoding}"
    raise AudioError(
        f"found a WAV header that states {header}; expected {rate} Hz, {channels} channel(s), {encoding}; {do}, or "
        "send raw samples of the expected format"
    )
