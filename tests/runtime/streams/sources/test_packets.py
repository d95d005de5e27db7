"""Layouts of datagrams: RTP with all its options, fixed headers, counters."""

from __future__ import annotations

import random
import struct

import pytest

from xaimoe_runtime import ConfigError
from xaimoe_runtime.streams.sources.packets import Counter, FixedLayout, RtpLayout, check_payload_type

PAYLOAD = bytes(range(40))


def rtp(
    number: int,
    timestamp: int = 0,
    payload: bytes = PAYLOAD,
    *,
    stream: int = 7,
    payload_type: int = 96,
    sources: int = 0,
    extension: bytes | None = None,
    padding: int = 0,
    version: int = 2,
) -> bytes:
    """An RTP packet."""
    first = version << 6 | (padding > 0) << 5 | (extension is not None) << 4 | sources
    packet = struct.pack(">BBHII", first, payload_type, number % 65_536, timestamp % 2**32, stream) + bytes(4 * sources)
    if extension is not None:
        packet += struct.pack(">HH", 0xBEDE, len(extension) // 4) + extension
    packet += payload
    return packet + (bytes(padding - 1) + bytes([padding]) if padding else b"")


@pytest.mark.parametrize("sources", [0, 1, 15])
@pytest.mark.parametrize("extension", [None, b"", bytes(8)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_rtp_is_parsed_with_all_its_options(sources: int, extension: bytes | None, padding: int) -> None:
    packet = RtpLayout().parse(rtp(65_535, 123, sources=sources, extension=extension, padding=padding))
    assert packet is not None
    assert packet.payload == PAYLOAD
    assert (packet.number, packet.timestamp, packet.stream, packet.payload_type) == (65_535, 123, 7, 96)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        rtp(1)[:11],
        rtp(1, version=1),
        rtp(1, version=3),
        rtp(1, payload=b"", padding=3)[:-1] + b"\xff",  # more padding than there is
        rtp(1, padding=1)[:-1] + b"\x00",
        bytes([0x8F]) + rtp(1, payload=b"")[1:],  # fifteen sources, and none there
        bytes([0x90]) + rtp(1, payload=b"\x00\x00\xff\xff")[1:],  # an extension that reaches beyond the end
    ],
)
def test_what_is_no_rtp_is_refused(data: bytes) -> None:
    assert RtpLayout().parse(data) is None


def test_no_bytes_at_all_break_the_parser() -> None:
    draw = random.Random(0)
    layouts = [RtpLayout(), FixedLayout(8, Counter.parse("4:u32be"))]
    for _ in range(5_000):
        data = bytes([draw.randrange(256) & 0xBF | 0x80]) + draw.randbytes(draw.randrange(60))
        for layout in layouts:
            packet = layout.parse(data)
            assert packet is None or data.endswith(packet.payload) or data[0] & 0x20


def test_control_packets_are_ignored() -> None:
    report = struct.pack(">BBHI", 0x80, 200, 1, 7)
    assert RtpLayout().ignores(report)
    assert not RtpLayout().ignores(rtp(1))


@pytest.mark.parametrize(
    ("text", "header", "number"),
    [
        ("0:u8", b"\x05\xff\xff\xff", 5),
        ("2:u16be", b"\x00\x00\x01\x02", 0x0102),
        ("2:u16le", b"\x00\x00\x01\x02", 0x0201),
        ("0:u32be", b"\x01\x02\x03\x04", 0x01020304),
        ("0:u32le", b"\x01\x02\x03\x04", 0x04030201),
        ("4:u64be:frames", bytes(10) + b"\x01\x00", 256),
    ],
)
def test_counters_are_read_from_headers(text: str, header: bytes, number: int) -> None:
    layout = FixedLayout(len(header), Counter.parse(text))
    packet = layout.parse(header + PAYLOAD)
    assert packet is not None and (packet.number, packet.payload) == (number, PAYLOAD)
    assert layout.counts_frames == text.endswith("frames")
    assert layout.parse(header[:-1]) is None


@pytest.mark.parametrize("text", ["4", "4:u24be", "u32be", "-1:u8", "4:u16", "4:u32be:samples", "4:u8be"])
def test_counters_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--counter"):
        Counter.parse(text)


def test_a_counter_beyond_the_header_is_refused() -> None:
    with pytest.raises(ConfigError, match="--header-bytes is 6"):
        FixedLayout(6, Counter.parse("4:u32be"))


def test_payload_types_that_say_another_format_are_named() -> None:
    assert check_payload_type(96, "s16be", 48_000, 1) == ""
    assert check_payload_type(11, "s16be", 44_100, 1) == ""
    assert "mulaw, 8000 Hz, 1 channel(s)" in check_payload_type(0, "s16be", 48_000, 1)
    assert "no raw samples" in check_payload_type(9, "s16be", 16_000, 1)
