"""What a datagram holds besides samples: nothing, a header of fixed length, or that of RTP (RFC 3550)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.streams.pcm import Encoding

RTP_HEADER_BYTES = 12
RTP_STATIC: dict[int, tuple[Encoding, int, int]] = {
    0: ("mulaw", 8_000, 1),
    8: ("alaw", 8_000, 1),
    10: ("s16be", 44_100, 2),
    11: ("s16be", 44_100, 1),
}
"""Encoding, rate and channels of the payload types that RFC 3551 fixes and that are raw samples."""
FIRST_DYNAMIC = 35
"""Payload types under this one that are not in the table are codecs."""
RTCP_TYPES = range(64, 96)
"""Payload types that RTCP takes where it shares a port with RTP (RFC 5761)."""


@dataclass(frozen=True)
class Packet:
    """The parts of a datagram."""

    payload: bytes
    number: int | None = None
    """Of the packet, or of its first frame; it wraps."""
    timestamp: int | None = None
    """Of RTP: position of the first frame, modulo 2^32."""
    stream: int = 0
    """Of RTP: the identifier of the sender (SSRC)."""
    payload_type: int | None = None
    """Of RTP."""


class Layout(Protocol):
    """How datagrams are laid out."""

    modulus: int
    """The number after the largest that packets have; 0 if they have none."""
    counts_frames: bool
    """Whether numbers count frames rather than packets."""
    header: str
    """What comes before the samples, in words for messages."""

    def parse(self, data: bytes) -> Packet | None:
        """Return the parts of a datagram; None if it is laid out otherwise."""
        ...

    def ignores(self, data: bytes) -> bool:
        """Return whether a datagram belongs to the protocol but has no samples."""
        ...


@dataclass(frozen=True)
class Counter:
    """Where a header counts packets or frames."""

    offset: int
    bytes: int
    order: Literal["little", "big"]
    counts_frames: bool

    @classmethod
    def parse(cls, text: str) -> Counter:
        """Return the counter that ``OFFSET:FORMAT[:frames]`` describes, as ``4:u32be`` or ``8:u64le:frames``.

        Raises:
            ConfigError: the text is no such description.
        """
        match = re.fullmatch(r"(\d{1,5}):(u8|u(16|32|64)(le|be))(:frames)?", text)
        if match is None:
            raise ConfigError(
                f"--counter: found {text!r}, expected OFFSET:FORMAT or OFFSET:FORMAT:frames, with a format of u8, "
                "u16le, u16be, u32le, u32be, u64le or u64be"
            )
        bits = int(match[3] or 8)
        return cls(int(match[1]), bits // 8, "big" if match[4] == "be" else "little", match[5] is not None)


class FixedLayout:
    """Datagrams with a header of fixed length, or none.

    Args:
        header_bytes: before the samples.
        counter: in the header, if there is one.

    Raises:
        ConfigError: the counter reaches beyond the header.
    """

    def __init__(self, header_bytes: int = 0, counter: Counter | None = None) -> None:
        self.header_bytes, self.counter = header_bytes, counter
        if counter is not None and counter.offset + counter.bytes > header_bytes:
            raise ConfigError(
                f"--counter: found {counter.bytes} byte(s) at offset {counter.offset}, expected them inside of the "
                f"header; --header-bytes is {header_bytes}"
            )
        self.modulus = 0 if counter is None else 256**counter.bytes
        self.counts_frames = counter is not None and counter.counts_frames
        self.header = f"a header of {header_bytes} bytes and " if header_bytes else ""

    def parse(self, data: bytes) -> Packet | None:
        """Return the parts of a datagram; None if it is shorter than the header."""
        if len(data) < self.header_bytes:
            return None
        number = None
        if self.counter is not None:
            begin = self.counter.offset
            number = int.from_bytes(data[begin : begin + self.counter.bytes], self.counter.order)
        return Packet(data[self.header_bytes :], number)

    def ignores(self, data: bytes) -> bool:
        """Return False: every datagram has samples."""
        return False


class RtpLayout:
    """Datagrams of RTP, version 2."""

    modulus, counts_frames, header = 65_536, False, "a header of RTP and "

    def parse(self, data: bytes) -> Packet | None:
        """Return the parts of a datagram; None if it is no RTP packet."""
        if len(data) < RTP_HEADER_BYTES or data[0] >> 6 != 2:
            return None
        begin, end = RTP_HEADER_BYTES + 4 * (data[0] & 0x0F), len(data)  # after the list of contributing sources
        if data[0] & 0x10:  # an extension: identifier, length in words of 32 bits
            if begin + 4 > end:
                return None
            begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4], "big")
        if data[0] & 0x20:  # padding, whose last byte is its length
            if data[-1] == 0:
                return None
            end -= data[-1]
        if begin > end:
            return None
        return Packet(
            payload=data[begin:end],
            number=int.from_bytes(data[2:4], "big"),
            timestamp=int.from_bytes(data[4:8], "big"),
            stream=int.from_bytes(data[8:12], "big"),
            payload_type=data[1] & 0x7F,
        )

    def ignores(self, data: bytes) -> bool:
        """Return whether a datagram is RTCP."""
        return len(data) >= 8 and data[0] >> 6 == 2 and (data[1] & 0x7F) in RTCP_TYPES


def check_payload_type(payload_type: int | None, encoding: Encoding, rate: int, channels: int) -> str:
    """Return what is wrong with a payload type of RTP for samples of this format; empty if nothing is."""
    if payload_type is None:
        return ""
    expected = f"expected {encoding}, {rate} Hz, {channels} channel(s)"
    stated = RTP_STATIC.get(payload_type)
    if stated is None:
        is_codec = payload_type < FIRST_DYNAMIC
        return f"found RTP payload type {payload_type}, which is no raw samples; {expected}" if is_codec else ""
    if stated == (encoding, rate, channels):
        return ""
    return (
        f"found RTP payload type {payload_type}, which is {stated[0]}, {stated[1]} Hz, {stated[2]} channel(s); "
        f"{expected}; give --encoding {stated[0]} --rate {stated[1]} --channels {stated[2]}"
    )
