"""The last frame of a FLAC stream: frames state their position, and end with a checksum."""

from __future__ import annotations

from dataclasses import dataclass

from xaimoe_runtime.containers.window import WINDOW_BYTES, FileWindow

MAX_CANDIDATES = 1_000
"""Places that are tried for a header, from the end backwards."""
BLOCK_SIZES = {1: 192, **{2 + i: 576 << i for i in range(4)}, **{8 + i: 256 << i for i in range(8)}}
"""Samples of a frame by their code; 6 and 7 stand for a number behind the position."""
RATE_BYTES = {12: 1, 13: 2, 14: 2}
"""Bytes of a sampling rate that stands in the header, by its code."""


@dataclass(frozen=True)
class StreamInfo:
    """The first block of metadata."""

    max_block: int
    """Samples of the largest frame."""
    channels: int
    bits: int
    total: int
    """Samples; 0 if their number is not known."""

    @classmethod
    def parse(cls, data: FileWindow, start: int) -> StreamInfo | None:
        """Return the block of the stream that begins at a position; None if the data end in it."""
        block = data.at(start + 8, 18)
        if len(block) < 18:
            return None
        packed = int.from_bytes(block[10:18], "big")  # 20 bits of rate, 3 of channels, 5 of bits, 36 of the total
        max_block = int.from_bytes(block[2:4], "big")
        return cls(max_block, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1)

    @property
    def max_frame_bytes(self) -> int:
        """Bytes of a frame that could not be compressed, at most."""
        return self.max_block * self.channels * ((self.bits + 8) // 8) + 64


@dataclass(frozen=True)
class LastFrame:
    """Where a stream really ends."""

    end: int
    """Sample after its last."""
    whole: bool
    """Whether its checksum is right."""


def find_last_frame(data: FileWindow, start: int, stop: int, info: StreamInfo, check: bool) -> LastFrame | None:
    """Return the last frame between two positions of a file; None if none is found.

    Args:
        data: the file.
        start: of the stream.
        stop: byte after its last.
        info: what it says of itself.
        check: whether to look at the checksum, which takes a millisecond.
    """
    if data.at(max(stop - 128, start), 3) == b"TAG":
        stop -= 128
    begin = max(stop - min(info.max_frame_bytes, WINDOW_BYTES), start)
    tail = data.at(begin, stop - begin)
    last: LastFrame | None = None
    position = len(tail)
    for _ in range(MAX_CANDIDATES):
        position = tail.rfind(b"\xff", 0, position)
        if position < 0:
            break
        end = _end_of_frame(tail[position : position + 16], info)
        if end is None:
            continue
        frame = tail[position:]
        if not check or _crc16(frame[:-2]) == int.from_bytes(frame[-2:], "big"):
            return LastFrame(end, True)
        last = last or LastFrame(end, False)
    return last


def _end_of_frame(head: bytes, info: StreamInfo) -> int | None:
    """Return the sample after a frame whose header these bytes begin with; None if they are no header."""
    if len(head) < 6 or head[1] not in (0xF8, 0xF9) or head[3] & 1 or head[3] >> 4 > 10:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    number, at = _coded_number(head)
    if number is None or size_code == 0 or rate_code == 15:
        return None
    size = BLOCK_SIZES.get(size_code, 0)
    if size_code in (6, 7):
        width = size_code - 5
        size = int.from_bytes(head[at : at + width], "big") + 1
        at += width
    at += RATE_BYTES.get(rate_code, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    return (number if head[1] == 0xF9 else number * info.max_block) + size


def _coded_number(head: bytes) -> tuple[int | None, int]:
    """Return the number of a frame or sample, coded as UTF-8 codes characters, and where it ends."""
    first = head[4]
    extra = next((i for i in range(8) if not first >> (7 - i) & 1), 8) - 1
    if extra < 0:
        return first, 5
    if extra in (0, 7) or len(head) < 5 + extra:
        return None, 0
    number = first & (0x3F >> extra)
    for byte in head[5 : 5 + extra]:
        if byte >> 6 != 2:
            return None, 0
        number = number << 6 | byte & 0x3F
    return number, 5 + extra


def _crc8(content: bytes) -> int:
    """Return the checksum of a frame's header (polynomial 0x07)."""
    crc = 0
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc


def _crc16(content: bytes) -> int:
    """Return the checksum of a frame (polynomial 0x8005)."""
    crc = 0
    for byte in content:
        crc = (crc << 8 & 0xFFFF) ^ _CRC16[crc >> 8 ^ byte]
    return crc


def _table() -> list[int]:
    """Return the checksums of single bytes."""
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005) & 0xFFFF if crc & 0x8000 else crc << 1
        table.append(crc)
    return table


_CRC16 = _table()
