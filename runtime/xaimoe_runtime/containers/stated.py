"""Lengths that the headers of rarer containers state: VOC, MAT4, MAT5, SDS, AVR, MPC2K, 8SVX, WVE and XI.

libsndfile takes the length of most of them from the size of the file, so a file that was cut short looks whole.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from xaimoe_runtime.containers.chunks import read_at
from xaimoe_runtime.containers.part import Part

HEADER_BYTES = 4_096
"""From the beginning of a file in which its samples begin."""
MAX_BLOCKS = 100
"""Blocks, chunks or matrices that are looked at before the samples."""
VOC_WRAP = 1 << 24
"""The size of a VOC block has 24 bits: programs that write more let it start from 0 again."""
MAT4_BYTES = (8, 4, 4, 2, 2, 1)
"""Bytes of a number by MATLAB 4's digit for its type."""
MAT5_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8}
"""Bytes of a number by MATLAB 5's type."""
MAT5_MATRIX, MAT5_DIMENSIONS = 14, 5
SDS_HEADER_BYTES, SDS_PACKET_BYTES = 21, 127
SDS_PACKET = b"\xf0\x7e"
"""How a packet of SDS begins."""


@dataclass(frozen=True)
class Samples:
    """Where a header says that the samples are."""

    start: int
    """First byte."""
    stated: int
    """Bytes that the header states; 0 if it was never finished."""
    frame_bytes: int
    """Bytes of one sample of all channels."""
    is_bounded: bool = False
    """Whether what follows is something else than samples."""


def find_part(file: BinaryIO, size: int) -> Part | None:
    """Return a file of one of these containers as a part; None if it is none, or its header is not understood.

    Args:
        file: opened for reading.
        size: of the file, in bytes.
    """
    head = read_at(file, 0, HEADER_BYTES)
    try:
        if head[:2] == SDS_PACKET:
            return _sds_part(file, head, size)
        for name, matches, parse in CONTAINERS:
            if matches(head):
                samples = parse(head)
                return None if samples is None else _part(name, samples, size)
    except struct.error:  # ends within the header
        return None
    return None


def _part(name: str, samples: Samples, size: int) -> Part | None:
    """Return a file of so many bytes as a part."""
    if samples.frame_bytes < 1 or samples.start > size:
        return None
    if not samples.stated:
        note = f"the {name} header states no length; the samples were read to the end of the file"
        return Part(states_length=False, note=note)
    stated, held = (count // samples.frame_bytes for count in (samples.stated, size - samples.start))
    if name == "VOC" and held * samples.frame_bytes >= VOC_WRAP:
        return Part(states_length=False, note="a VOC file of this size cannot state its length; it was read to its end")
    if stated > held:
        return Part(stated_frames=stated, note="cut short: the file ends before its header says")
    if samples.is_bounded:
        return Part(stated_frames=stated, max_frames=stated)
    more = held > stated
    note = f"the {name} header states fewer samples than the file has; they were read to its end" if more else ""
    return Part(stated_frames=stated, note=note)


def _sds_part(file: BinaryIO, head: bytes, size: int) -> Part | None:
    """Return a MIDI sample dump as a part: libsndfile gives zeros for packets that are missing."""
    if len(head) < SDS_HEADER_BYTES or head[3] != 1:
        return None
    bits, length = head[6], head[10] | head[11] << 7 | head[12] << 14
    if not 8 <= bits <= 28:
        return None
    frames = 60 if bits <= 14 else 40 if bits <= 21 else 30  # of a packet, whose samples take 2, 3 or 4 bytes
    held = (size - SDS_HEADER_BYTES) // SDS_PACKET_BYTES * frames
    if held < length:
        return Part(stated_frames=length, max_frames=held, note="cut short: the file ends before its header says")
    behind = SDS_HEADER_BYTES + -(-length // frames) * SDS_PACKET_BYTES
    if read_at(file, behind, 2) == SDS_PACKET:
        return Part(stated_frames=length, lost=True, note="the SDS header states fewer samples than the file has")
    return Part(stated_frames=length)


def _voc(head: bytes) -> Samples | None:
    """Creative Voice: blocks of a type and a size of 24 bits."""
    position = struct.unpack_from("<H", head, 20)[0]
    channels = 1
    for _ in range(MAX_BLOCKS):
        kind, *length = struct.unpack_from("4B", head, position)
        size = length[0] | length[1] << 8 | length[2] << 16
        position += 4
        if kind == 1:  # 8-bit samples behind a rate and a coding
            return Samples(position + 2, max(size - 2, 0), channels, is_bounded=True)
        if kind == 9:
            bits, channels = struct.unpack_from("2B", head, position + 4)
            return Samples(position + 12, max(size - 12, 0), channels * bits // 8, is_bounded=True)
        if kind == 8:
            channels = 1 + struct.unpack_from("4B", head, position)[3]
        position += size
    return None


def _mat4(head: bytes) -> Samples | None:
    """MATLAB 4: the matrix ``wavedata`` [channels, frames] stands behind another one."""
    position = 0
    order = "<" if head[:4] == bytes(4) else ">"
    while position < len(head):
        kind, rows, columns, _, length = struct.unpack_from(f"{order}5I", head, position)
        name = head[position + 20 : position + 20 + length].rstrip(b"\0")
        digit = kind % 100 // 10
        if digit >= len(MAT4_BYTES):
            return None
        position += 20 + length
        if name == b"wavedata":
            return Samples(position, rows * columns * MAT4_BYTES[digit], rows * MAT4_BYTES[digit], is_bounded=True)
        position += rows * columns * MAT4_BYTES[digit]
    return None


def _mat5(head: bytes) -> Samples | None:
    """MATLAB 5: the matrix ``wavedata`` [channels, frames] is an element made of flags, dimensions, name and data."""
    order = "<" if head[126:128] == b"IM" else ">"
    position = 128
    for _ in range(MAX_BLOCKS):
        kind, size = struct.unpack_from(f"{order}2I", head, position)
        if kind == MAT5_MATRIX:
            dimensions, _, channels, _ = struct.unpack_from(f"{order}4I", head, position + 24)
            tag, length = struct.unpack_from(f"{order}2I", head, position + 40)
            name, data = position + 48, position + 48 + (length + 7) // 8 * 8
            if tag >> 16:  # a short name stands in the tag itself
                name, length, data = position + 44, tag >> 16, position + 48
            if dimensions == MAT5_DIMENSIONS and head[name : name + length] == b"wavedata":
                number, stated = struct.unpack_from(f"{order}2I", head, data)
                return Samples(data + 8, stated, channels * MAT5_BYTES.get(number, 0), is_bounded=True)
        position += 8 + size
    return None


def _avr(head: bytes) -> Samples:
    """Audio Visual Research: a header of 128 bytes."""
    stereo, bits = struct.unpack_from(">HH", head, 12)
    frame_bytes = bits // 8 * (2 if stereo else 1)
    return Samples(128, struct.unpack_from(">I", head, 26)[0] * frame_bytes, frame_bytes)


def _mpc2k(head: bytes) -> Samples:
    """Akai MPC 2000: a header of 42 bytes, 16-bit samples."""
    frame_bytes = 4 if head[21] else 2
    return Samples(42, struct.unpack_from("<I", head, 30)[0] * frame_bytes, frame_bytes)


def _svx(head: bytes) -> Samples | None:
    """Amiga IFF: chunks, the samples in BODY. Several channels are left to libsndfile."""
    position = 12
    for _ in range(MAX_BLOCKS):
        name, size = struct.unpack_from(">4sI", head, position)
        if name == b"CHAN":
            return None
        if name == b"BODY":
            return Samples(position + 8, size, 1 if head[8:12] == b"8SVX" else 2, is_bounded=True)
        position += 8 + size + (size & 1)
    return None


def _wve(head: bytes) -> Samples:
    """Psion: a header of 32 bytes, A-law samples."""
    return Samples(32, struct.unpack_from(">I", head, 18)[0], 1)


def _xi(head: bytes) -> Samples | None:
    """FastTracker 2: the samples of one instrument; of several, libsndfile reads what it can."""
    count, size, kind = struct.unpack_from("<HI10xB", head, 296)
    return Samples(338, size, 2 if kind & 0x10 else 1) if count == 1 else None


CONTAINERS: tuple[tuple[str, Callable[[bytes], bool], Callable[[bytes], Samples | None]], ...] = (
    ("VOC", lambda head: head.startswith(b"Creative Voice File\x1a"), _voc),
    ("MAT4", lambda head: head[20:31] == b"samplerate\0", _mat4),
    ("MAT5", lambda head: head.startswith(b"MATLAB 5.0 MAT-file"), _mat5),
    ("AVR", lambda head: head.startswith(b"2BIT"), _avr),
    ("MPC2K", lambda head: head[:2] == b"\x01\x04" and head[21:22] in (b"\0", b"\1"), _mpc2k),
    ("8SVX", lambda head: head[:4] == b"FORM" and head[8:12] in (b"8SVX", b"16SV"), _svx),
    ("WVE", lambda head: head.startswith(b"ALawSoundFile**"), _wve),
    ("XI", lambda head: head.startswith(b"Extended Instrument: "), _xi),
)
"""Name of each container, whether a file's first bytes are those of one, and where its samples are."""
