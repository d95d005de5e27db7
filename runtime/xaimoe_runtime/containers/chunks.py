"""Containers made of a header and a stretch of samples: where the header says that the samples are."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_CHUNKS = 1_000
"""Chunks that are looked at before the samples, and again after them."""
MAX_HEADER_BYTES = 1 << 16
"""Size of a format chunk that is copied into a repaired header."""
MAX_32 = 0xFFFFFFFF
NO_LENGTH = ((0x7FFFF000, 0x80000000), (0xFFFFF000, MAX_32))
"""Sizes, first and last, that programs write into a pipe, since they do not know the size yet."""
COMMON_CHUNKS = {
    b"LIST",
    b"bext",
    b"iXML",
    b"id3 ",
    b"ID3 ",
    b"cue ",
    b"guan",
    b"wamd",
    b"JUNK",
    b"PAD ",
    b"FLLR",
    b"_PMX",
}
"""Names of chunks that are believed even where the file ends within them."""
SAMPLE_TAGS = {1, 3, 6, 7}
"""WAV formats whose samples lie one by one: PCM, floating point, A-law, µ-law."""
MPEG_TAGS = {0x50, 0x55}
"""WAV formats that are MPEG audio."""
EXTENSIBLE = 0xFFFE
AIFC_BYTES = {b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1, b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8}
"""Bytes of a sample; other compressions are listed in ``AIFC_PCM`` or work in blocks."""
AIFC_PCM = {b"NONE", b"twos", b"sowt", b"in24", b"in32", b"raw "}
AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
"""Bytes of a sample by AU's number of the encoding."""
W64_RIFF = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000")
W64_LIST = b"list" + bytes.fromhex("2f91cf11a5d628db04c10000")
W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
"""How names of Wave64's other chunks end, after four letters."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a header says that the samples are."""

    name: str
    start: int
    """First byte of the samples."""
    stated: int | None
    """Bytes of samples that the header states; None if it states that it does not know."""
    frame_bytes: int
    """Bytes of one sample of all channels; 0 if samples are coded in blocks."""
    header: Callable[[int], bytes | None]
    """A header for so many bytes of samples; None if the container cannot have one."""
    chunk_end: Callable[[int], int | None]
    """End of the chunk that begins at a position, its padding included; None if none does."""
    wraps: bool = True
    """Whether the size has 32 bits."""
    clamps: bool = True
    """Whether libsndfile reads a file that is shorter than stated."""
    mpeg: bool = False
    """Whether the samples are coded as MPEG audio."""


def read_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Return up to ``count`` bytes from a position; none for a count under 0, as crafted headers state."""
    file.seek(position)
    return file.read(max(count, 0))


def is_recording(magic: bytes) -> bool:
    """Return whether the first 40 bytes are those of such a container."""
    riff = magic[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and magic[8:12] == b"WAVE"
    form = magic[:4] == b"FORM" and magic[8:12] in (b"AIFF", b"AIFC")
    w64 = magic[:16] == W64_RIFF and magic[24:40] == b"wave" + W64_TAIL
    return riff or form or w64 or magic[:4] in (b"caff", b".snd", b"dns.")


def find_layout(file: BinaryIO, begin: int, size: int) -> Layout | None:
    """Return the layout of the recording that begins at a position; None if it is of no such container, or its header
    cannot be understood.

    Args:
        file: opened for reading.
        begin: position.
        size: of the file, in bytes.
    """
    magic = read_at(file, begin, 40)
    if not is_recording(magic):
        return None
    try:
        if magic[8:12] == b"WAVE":
            return _wave(file, begin, size, magic[:4])
        if magic[:4] == b"FORM":
            return _aiff(file, begin, size, magic[8:12])
        if magic[:4] == b"caff":
            return _caf(file, begin, size)
        if magic[:4] == b"riff":
            return _w64(file, begin, size)
        return _au(file, begin, magic)
    except struct.error:  # ends within a chunk
        return None


def _walk(
    file: BinaryIO, position: int, size: int, head: str, size_of: Callable[[int], int]
) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, position of the content and size of chunks.

    Args:
        file: opened for reading.
        position: of the first chunk.
        size: of the file, in bytes.
        head: name and size as ``struct`` describes them.
        size_of: gives the bytes from a chunk's content to the next chunk, padding included, for its size.
    """
    width = struct.calcsize(head)
    for _ in range(MAX_CHUNKS):
        if position + width > size:
            return
        name, length = struct.unpack(head, read_at(file, position, width))
        yield name, position + width, length
        position += width + max(size_of(length), 0)


def _even(length: int) -> int:
    return length + (length & 1)


def _printable(name: bytes) -> bool:
    return all(32 <= byte < 127 for byte in name)


def _chunk_end(file: BinaryIO, size: int, head: str) -> Callable[[int], int | None]:
    """Return the ``chunk_end`` of a container whose chunks have a name of four letters and a size of 32 bits."""

    def end(position: int) -> int | None:
        data = read_at(file, position, 8)
        if len(data) < 8 or not _printable(data[:4]):
            return None
        stop = position + 8 + _even(int(struct.unpack(head, data)[1]))
        return stop if stop <= size + 1 or data[:4] in COMMON_CHUNKS else None

    return end


def _stated(length: int, held: int) -> int | None:
    """Return the size of 32 bits that a header states, or None if it stands for an unknown one."""
    unknown = any(first <= length <= last for first, last in NO_LENGTH)
    return None if unknown and (length > held or length >= NO_LENGTH[1][0]) else length


def _wave(file: BinaryIO, begin: int, size: int, magic: bytes) -> Layout | None:
    order = ">" if magic == b"RIFX" else "<"
    large = magic in (b"RF64", b"BW64")
    fmt, data64 = b"", None
    for name, start, length in _walk(file, begin + 12, size, order + "4sI", _even):
        if name == b"ds64" and large:
            data64 = struct.unpack_from("<Q", read_at(file, start, 16), 8)[0]
        elif name == b"fmt " and not fmt and length <= MAX_HEADER_BYTES:
            fmt = read_at(file, start, length)
        elif name == b"data":
            break
    else:
        return None
    tag, channels, _, _, _, bits = struct.unpack_from(order + "HHIIHH", fmt)
    if tag == EXTENSIBLE and len(fmt) >= 26:
        tag = struct.unpack_from(order + "H", fmt, 24)[0]
    frame_bytes = channels * ((bits + 7) // 8) if tag in SAMPLE_TAGS else 0
    stated = data64 if length == MAX_32 and data64 is not None else _stated(length, size - start)

    def header(count: int) -> bytes | None:
        format_chunk = b"fmt " + struct.pack(order + "I", len(fmt)) + fmt + bytes(len(fmt) & 1)
        total = 4 + len(format_chunk) + 8 + count
        if total < MAX_32 and not large:
            sizes = (struct.pack(order + "I", length) for length in (total, count))
            return magic + next(sizes) + b"WAVE" + format_chunk + b"data" + next(sizes)
        if order == ">" or not frame_bytes:
            return None
        ds64 = b"ds64" + struct.pack("<IQQQI", 28, total + 36, count, count // frame_bytes, 0)
        unknown = struct.pack("<I", MAX_32)
        return b"RF64" + unknown + b"WAVE" + ds64 + format_chunk + b"data" + unknown

    return Layout(
        name="RF64" if large else "WAV",
        start=start,
        stated=stated,
        frame_bytes=frame_bytes,
        header=header,
        chunk_end=_chunk_end(file, size, order + "4sI"),
        wraps=not large,
        clamps=magic != b"BW64",
        mpeg=tag in MPEG_TAGS,
    )


def _aiff(file: BinaryIO, begin: int, size: int, kind: bytes) -> Layout | None:
    comm, frames = b"", 0
    for name, start, length in _walk(file, begin + 12, size, ">4sI", _even):
        if name == b"COMM" and not comm and length <= MAX_HEADER_BYTES:
            comm = read_at(file, start, length)
        elif name == b"SSND":
            break
    else:
        return None
    channels, frames, bits = struct.unpack_from(">hIh", comm)
    offset = struct.unpack(">I", read_at(file, start, 4))[0]
    coding = b"NONE" if kind == b"AIFF" else comm[18:22]
    sample_bytes = AIFC_BYTES.get(coding, (bits + 7) // 8 if coding in AIFC_PCM else 0)
    frame_bytes = max(channels * sample_bytes, 0)
    start += 8 + offset
    known = _stated(length, size - start)
    stated = None if known is None else max(known - 8 - offset, frames * frame_bytes, 0)

    def header(count: int) -> bytes | None:
        if not frame_bytes or count + 1_000 + len(comm) >= MAX_32:
            return None
        common = comm[:2] + struct.pack(">I", count // frame_bytes) + comm[6:] + bytes(len(comm) & 1)
        body = kind + b"COMM" + struct.pack(">I", len(comm)) + common + b"SSND" + struct.pack(">III", count + 8, 0, 0)
        return b"FORM" + struct.pack(">I", len(body) + count) + body

    return Layout(
        name="AIFF",
        start=start,
        stated=stated,
        frame_bytes=frame_bytes,
        header=header,
        chunk_end=_chunk_end(file, size, ">4sI"),
    )


def _caf(file: BinaryIO, begin: int, size: int) -> Layout | None:
    desc = b""
    for name, start, length in _walk(file, begin + 8, size, ">4sq", lambda length: length):
        if name == b"desc" and not desc and length <= MAX_HEADER_BYTES:
            desc = read_at(file, start, length)
        elif name == b"data":
            break
    else:
        return None
    packet_bytes, packet_frames = struct.unpack_from(">II", desc, 16)
    if packet_frames != 1 or not packet_bytes:  # the table of packets lies behind the samples: nothing to mend here
        return None

    def header(count: int) -> bytes:
        description = b"desc" + struct.pack(">q", len(desc)) + desc
        return b"caff" + struct.pack(">HH", 1, 0) + description + b"data" + struct.pack(">qI", count + 4, 0)

    def chunk_end(position: int) -> int | None:
        data = read_at(file, position, 12)
        if len(data) < 12 or not _printable(data[:4]):
            return None
        following = struct.unpack(">4sq", data)[1]
        return position + 12 + following if 0 <= following <= size - position - 12 else None

    return Layout(
        name="CAF",
        start=start + 4,
        stated=None if length < 0 else max(length - 4, 0),
        frame_bytes=packet_bytes,
        header=header,
        chunk_end=chunk_end,
        wraps=False,
        clamps=False,
    )


def _w64(file: BinaryIO, begin: int, size: int) -> Layout | None:
    fmt = b""

    def size_of(length: int) -> int:  # the size includes name and size
        return (length + 7) // 8 * 8 - 24

    for name, start, length in _walk(file, begin + 40, size, "<16sQ", size_of):
        if name == b"fmt " + W64_TAIL and not fmt and length <= MAX_HEADER_BYTES:
            fmt = read_at(file, start, length - 24)
        elif name == b"data" + W64_TAIL:
            break
    else:
        return None
    tag, channels, _, _, _, bits = struct.unpack_from("<HHIIHH", fmt)
    if tag == EXTENSIBLE and len(fmt) >= 26:
        tag = struct.unpack_from("<H", fmt, 24)[0]

    def header(count: int) -> bytes:
        padded = fmt + bytes(-len(fmt) % 8)
        format_chunk = b"fmt " + W64_TAIL + struct.pack("<Q", 24 + len(fmt)) + padded
        total = 40 + len(format_chunk) + 24 + count
        data = b"data" + W64_TAIL + struct.pack("<Q", 24 + count)
        return W64_RIFF + struct.pack("<Q", total) + b"wave" + W64_TAIL + format_chunk + data

    def chunk_end(position: int) -> int | None:
        data = read_at(file, position, 24)
        if len(data) < 24 or not (data[4:16] == W64_TAIL or data[:16] == W64_LIST):
            return None
        following = struct.unpack("<Q", data[16:])[0]
        return position + max((following + 7) // 8 * 8, 24) if following <= size - position else None

    return Layout(
        name="Wave64",
        start=start,
        stated=max(length - 24, 0),
        frame_bytes=channels * ((bits + 7) // 8) if tag in SAMPLE_TAGS else 0,
        header=header,
        chunk_end=chunk_end,
        wraps=False,
    )


def _au(file: BinaryIO, begin: int, magic: bytes) -> Layout | None:
    order = ">" if magic[:4] == b".snd" else "<"
    offset, length, encoding, _, channels = struct.unpack_from(order + "IIIII", magic, 4)
    if not 24 <= offset <= MAX_HEADER_BYTES:
        return None
    original = read_at(file, begin, offset)

    def header(count: int) -> bytes:
        return original[:8] + struct.pack(order + "I", min(count, MAX_32)) + original[12:]

    return Layout(
        name="AU",
        start=begin + offset,
        stated=None if length >= NO_LENGTH[1][0] else length,
        frame_bytes=channels * AU_BYTES.get(encoding, 0),
        header=header,
        chunk_end=lambda _: None,
    )
