"""Decoding datagrams on a simulated clock: losses, senders, headers where none is expected."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from xaimoe_runtime.streams.pcm import decode
from xaimoe_runtime.streams.sources.base import REPORT_S, Item, Missing, Trouble
from xaimoe_runtime.streams.sources.datagrams import DatagramDecoder
from xaimoe_runtime.streams.sources.packets import Counter, FixedLayout, Layout, RtpLayout
from xaimoe_runtime.streams.sources.senders import SenderFilter

from .test_packets import rtp

RATE, FRAMES = 8_000, 160
STEP_S = FRAMES / RATE


def payload(i: int) -> bytes:
    """160 frames whose first is the number of the datagram."""
    return np.full(FRAMES, i % 30_000, "<i2").tobytes()


def decoder(layout: Layout | None = None, **options: object) -> DatagramDecoder:
    return DatagramDecoder(RATE, 1, "s16", layout or FixedLayout(), **options)  # type: ignore[arg-type]


def positions(items: list[Item]) -> dict[int, int]:
    """Frame at which each datagram's samples lie, by its number; missing frames count."""
    at, found = 0, {}
    for item in items:
        if isinstance(item, Missing):
            at += item.frames
        elif isinstance(item, np.ndarray):
            found[round(float(item[0, 0]) * 32_768)] = at
            at += len(item)
    return found


def missing(items: list[Item]) -> int:
    return sum(item.frames for item in items if isinstance(item, Missing))


def messages(items: list[Item]) -> list[str]:
    return [item.message for item in items if isinstance(item, Trouble)]


def send(
    one: DatagramDecoder, datagrams: list[tuple[int, bytes]], sender: str = "10.0.0.1", begin_s: float = 0.0
) -> list[Item]:
    """All that datagrams bring that were sent at the steps they are given with."""
    items: list[Item] = []
    for step, data in datagrams:
        items += one.push(data, sender, begin_s + step * STEP_S)
    return items


COUNTED = [
    pytest.param(FixedLayout(4, Counter.parse("0:u32be")), lambda i: i.to_bytes(4, "big"), id="u32be"),
    pytest.param(
        FixedLayout(6, Counter.parse("2:u16le")), lambda i: b"ab" + (i % 65_536).to_bytes(2, "little") + b"cd", id="u16"
    ),
    pytest.param(FixedLayout(1, Counter.parse("0:u8")), lambda i: bytes([i % 256]), id="u8"),
    pytest.param(
        FixedLayout(8, Counter.parse("0:u64be:frames")), lambda i: (i * FRAMES).to_bytes(8, "big"), id="frames"
    ),
    pytest.param(RtpLayout(), lambda i: rtp(i, i * FRAMES, b""), id="rtp"),
]


@pytest.mark.parametrize(("layout", "header"), COUNTED)
def test_every_lost_datagram_is_known_for_an_hour(layout: Layout, header) -> None:  # type: ignore[no-untyped-def]
    """A fifth is lost, one in a hundred is overtaken, and the numbers wrap."""
    draw, one = random.Random(1), decoder(layout)
    first, count = 65_000, 5_000
    kept = [i for i in range(count) if i == 0 or draw.random() >= 0.2]
    order = [i + (1.5 if draw.random() < 0.01 else 0) for i in kept]
    sent = [(i, header(first + i) + payload(i)) for _, i in sorted(zip(order, kept, strict=True))]
    items = send(one, sent) + list(one.finish(count * STEP_S))
    found = positions(items)
    assert found == {i: i * FRAMES for i in kept}
    assert missing(items) == (kept[-1] + 1 - len(kept)) * FRAMES
    reports = messages(items)
    assert count * STEP_S / REPORT_S * 0.8 <= len(reports) <= count * STEP_S / REPORT_S + 2
    assert all("datagram(s) were lost" in text for text in reports)
    assert sum(int(text.split()[0]) for text in reports) == kept[-1] + 1 - len(kept)


def test_an_outage_is_measured_by_the_numbers_of_the_datagrams() -> None:
    one = decoder(RtpLayout())
    sent = [(i, rtp(i, i * FRAMES, payload(i))) for i in [*range(50), *range(550, 600)]]
    items = send(one, sent)
    assert missing(items) == 500 * FRAMES
    assert positions(items)[599] == 599 * FRAMES


def test_a_stall_of_the_reader_is_no_restart_of_the_sender() -> None:
    """For 10 s nothing is read; then 2 s of datagrams come at once, and 8 s had no room."""
    one = decoder(FixedLayout(2, Counter.parse("0:u16be")))
    items = send(one, [(i, i.to_bytes(2, "big") + payload(i)) for i in range(10)])
    items += send(one, [(510, i.to_bytes(2, "big") + payload(i)) for i in range(10, 110)])
    items += send(one, [(i, i.to_bytes(2, "big") + payload(i)) for i in range(510, 520)])
    assert missing(items) == 400 * FRAMES
    assert not any(isinstance(item, Trouble) and item.gap for item in items)


def test_a_sender_that_begins_anew_is_a_gap_and_not_a_loss() -> None:
    one = decoder(RtpLayout())
    items = send(one, [(i, rtp(40_000 + i, i * FRAMES, payload(i))) for i in range(50)])
    items += send(one, [(50 + i, rtp(i, 77 + i * FRAMES, payload(i))) for i in range(50)])
    assert missing(items) == 0
    (gap,) = [item for item in items if isinstance(item, Trouble)]
    assert gap.gap and "began to count anew" in gap.message


def test_timestamps_show_a_pause_of_the_sender() -> None:
    one = decoder(RtpLayout())
    times = [i * FRAMES + (RATE if i >= 20 else 0) for i in range(40)]
    items = send(one, [(i + (50 if i >= 20 else 0), rtp(i, times[i], payload(i))) for i in range(40)])
    assert missing(items) == RATE


def test_timestamps_of_another_clock_are_not_believed() -> None:
    one = decoder(RtpLayout())
    sent = [(i, rtp(i, i * 1_800, payload(i))) for i in range(100) if i not in (30, 31)]
    assert missing(send(one, sent)) == 2 * FRAMES


def test_datagrams_that_the_kernel_drops_are_counted_where_they_are_missing() -> None:
    one, items = decoder(), list[Item]()
    for i in range(20):
        items += one.push(payload(i), "10.0.0.1", i * STEP_S, drop_counter=0 if i < 10 else 3)
    assert positions(items)[9] == 9 * FRAMES
    assert positions(items)[10] == 13 * FRAMES
    (report,) = messages(items)
    assert report.startswith("3 datagram(s) were lost, about 0.06 s; the kernel dropped 3")


def test_the_kernels_counter_wraps() -> None:
    one = decoder()
    items = [*one.push(payload(0), "10.0.0.1", 0.0, drop_counter=0)]
    one._drop_counter = 2**32 - 2
    items += one.push(payload(1), "10.0.0.1", 0.02, drop_counter=1)
    assert missing(items) == 3 * FRAMES


def test_of_numbered_datagrams_drops_of_the_kernel_are_not_counted_twice() -> None:
    one, items = decoder(RtpLayout()), list[Item]()
    for i in [*range(10), *range(15, 30)]:
        items += one.push(rtp(i, i * FRAMES, payload(i)), "10.0.0.1", i * STEP_S, drop_counter=5 * (i >= 15))
    assert missing(items) == 5 * FRAMES
    (report,) = messages(items)
    assert report == "5 datagram(s) were lost, 0.10 s; the kernel dropped 5 for want of room in the receive buffer"


def test_foreign_datagrams_are_left_out_and_reported_once_in_a_while() -> None:
    one, items = decoder(senders=SenderFilter(["10.0.0.0/30", "fd00::1"])), list[Item]()
    for i in range(1_000):
        items += one.push(payload(i), "10.0.0.1", i * STEP_S)
        items += one.push(b"intruder", f"192.0.2.{i % 250}", i * STEP_S)
    assert [item for item in items if isinstance(item, np.ndarray)] and len(positions(items)) == 1_000
    reports = messages(items)
    assert len(reports) == 2
    assert "1 datagram(s) like one from 192.0.2.0" in reports[0] and "10.0.0.0/30, fd00::1 (--from)" in reports[0]
    assert "499 datagram(s)" in reports[1]


def test_two_senders_at_a_time_are_not_mixed() -> None:
    one, items = decoder(), list[Item]()
    for i in range(100):
        items += one.push(payload(1), "10.0.0.1", i * STEP_S)
        items += one.push(payload(2), "10.0.0.2", i * STEP_S)
    assert set(positions(items)) == {1}
    (report,) = messages(items)
    assert "from 10.0.0.2 were left out, while 10.0.0.1 sends; choose one with --from" in report
    items = send(one, [(i, payload(2)) for i in range(200, 210)], "10.0.0.2")
    assert set(positions(items)) == {2}
    (takeover, *_) = [item for item in items if isinstance(item, Trouble)]
    assert takeover.gap and "come from 10.0.0.2 now" in takeover.message


def test_datagrams_that_are_no_whole_frames_are_reported_once_a_second() -> None:
    one, items = decoder(), list[Item]()
    for i in range(200):
        items += one.push(b"odd", "10.0.0.1", i * STEP_S)
        items += one.push(b"", "10.0.0.1", i * STEP_S)
    items += one.push(payload(7), "10.0.0.1", 200 * STEP_S, truncated=True)
    assert positions(items) == {}
    assert 4 <= len(messages(items)) <= 5
    assert "expected whole frames of 2 bytes" in messages(items)[0]


def test_an_empty_packet_of_rtp_is_no_loss() -> None:
    one = decoder(RtpLayout())
    sent = [(i, rtp(i, min(i, 10) * FRAMES, payload(i) if i < 10 else b"")) for i in range(12)]
    assert missing(send(one, sent)) == 0 and messages(send(one, sent)) == []


def test_rtp_where_samples_alone_are_expected_is_named() -> None:
    items = send(decoder(), [(i, rtp(i, i * FRAMES, payload(i))) for i in range(50)])
    assert messages(items) == ["found headers of RTP, expected samples alone; listen to rtp://HOST:PORT"]
    assert messages(send(decoder(), [(i, payload(i)) for i in range(50)])) == []


def test_a_payload_type_of_another_format_is_named() -> None:
    items = send(decoder(RtpLayout()), [(i, rtp(i, i * FRAMES, payload(i), payload_type=0)) for i in range(50)])
    (report,) = messages(items)
    assert "payload type 0, which is mulaw" in report


def test_a_wav_header_in_a_datagram_is_skipped_or_named() -> None:
    import io

    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.zeros(100, np.float32), RATE, format="WAV", subtype="PCM_16")
    one = decoder()
    items = send(one, [(0, file.getvalue()), (1, payload(1))])
    assert len(items[0]) == 100  # type: ignore[arg-type]
    assert "found a WAV header (8000 Hz, 1 channel(s), s16), which was skipped" in messages(items)[0]
    other = DatagramDecoder(48_000, 1, "s16", FixedLayout())
    items = [*other.push(file.getvalue(), "10.0.0.1", 0.0)]
    assert "give --rate 8000 --channels 1 --encoding s16" in messages(items)[0]
    assert positions(items) == {}


def test_big_endian_samples_are_decoded() -> None:
    for encoding in ("s16be", "s24be", "s32be", "f32be", "f64be"):
        dtype = {"s16be": ">i2", "s24be": ">i4", "s32be": ">i4", "f32be": ">f4", "f64be": ">f8"}[encoding]
        values: NDArray[np.float64] = np.array([0.5, -0.25])
        scaled = values if dtype[1] == "f" else values * 2.0 ** (int(encoding[1:3]) - 1)
        data = scaled.astype(dtype).tobytes()
        if encoding == "s24be":
            data = data[1:4] + data[5:8]
        np.testing.assert_allclose(decode(data, encoding, 1)[:, 0], values)  # type: ignore[arg-type]


def test_no_datagrams_at_all_break_it() -> None:
    draw = random.Random(0)
    for layout in (FixedLayout(), RtpLayout(), FixedLayout(8, Counter.parse("2:u32le"))):
        one, now, items = decoder(layout), 0.0, list[Item]()
        for _ in range(3_000):
            now += draw.random() * 0.1
            data = bytearray(draw.randbytes(draw.randrange(60)))
            if data and draw.random() < 0.7:
                data[0] = 0x80
            items += one.push(bytes(data), f"10.0.0.{draw.randrange(3)}", now, draw.randrange(2**32))
        items += one.finish(now)
        assert all(item.frames > 0 for item in items if isinstance(item, Missing))
