"""From datagrams to frames of raw samples: who sent them, in which order, and which are missing."""

from __future__ import annotations

from collections.abc import Iterator

from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.streams.pcm import Encoding, decode, frame_bytes
from xaimoe_runtime.streams.sources.base import REPORT_S, Item, Missing, Trouble
from xaimoe_runtime.streams.sources.headers import check_wav_header, find_container, read_wav_header
from xaimoe_runtime.streams.sources.packets import FixedLayout, Layout, Packet, RtpLayout, check_payload_type
from xaimoe_runtime.streams.sources.senders import SenderFilter
from xaimoe_runtime.streams.sources.sequence import UNKNOWN, Sequencer
from xaimoe_runtime.streams.throttle import Throttle

ODD_REPORT_S = 1.0
"""Seconds from one report of datagrams that cannot be decoded to the next."""
TAKEOVER_S = 1.0
"""Seconds that a sender is silent before another one may take its place."""
SLACK_S = 1.0
"""Seconds that numbers may jump over beyond the time in which nothing came; further jumps are a sender's restart."""
MIN_JUMP = 16
"""Packets that numbers may always jump over."""
MAX_PAUSE_S = 60.0
"""Longest pause that timestamps of RTP are believed."""
NUM_SNIFFED = 8
"""Datagrams in succession that look like RTP where none is expected, before this is reported."""


class DatagramDecoder:
    """Decode datagrams. The time is given with each of them, in seconds of any steady clock.

    One sender is listened to at a time: datagrams of another one are left out as long as it sends.

    Args:
        rate: Hz.
        channels: interleaved.
        encoding: of the samples.
        layout: of a datagram.
        senders: that are accepted.
    """

    def __init__(
        self, rate: int, channels: int, encoding: Encoding, layout: Layout, senders: SenderFilter | None = None
    ) -> None:
        self.rate, self.channels, self.encoding, self.layout = rate, channels, encoding, layout
        self.senders = senders or SenderFilter()
        self.size = frame_bytes(encoding, channels)
        """Bytes of a frame."""
        self._sequencer: Sequencer[Packet] = Sequencer(layout.modulus)
        self._sender: tuple[str, int] | None = None  # address and, of RTP, the identifier
        self._last = 0.0  # when it sent last
        self._room_s = 0.0  # seconds that passed beyond the samples that came: as many may be missing
        self._frames = 0  # in the last packet
        self._timestamp: int | None = None  # of RTP, that the next packet should have
        self._is_timestamp_right = False  # whether timestamps have counted frames so far
        self._drop_counter = 0  # of the kernel, as last seen
        self._sniffed: Packet | None = None
        self._num_sniffed = 0
        self._odd, self._odd_example = Throttle(ODD_REPORT_S), ""
        self._notes: dict[str, tuple[Throttle, str]] = {}  # by kind; the text is of the last one
        self._lost = Throttle(REPORT_S)  # datagrams
        self._lost_frames = self._dropped = self._late = 0

    def push(
        self, data: bytes, sender: str, now: float, drop_counter: int | None = None, truncated: bool = False
    ) -> Iterator[Item]:
        """Yield what a datagram brings.

        Args:
            data: the datagram.
            sender: its address.
            now: its arrival.
            drop_counter: datagrams that the kernel had dropped before it, modulo 2^32; None if that is unknown.
            truncated: whether its end is missing.
        """
        if drop_counter is not None:
            yield from self._count_dropped(drop_counter)
        if not self.senders.accepts(sender):
            expected = f"expected senders are {self.senders} (--from)"
            self._note("foreign", f"{{count}} datagram(s) like one from {sender} were left out; {expected}")
        elif not self.layout.ignores(data):
            yield from self._accept(None if truncated else self.layout.parse(data), len(data), sender, now)
        yield from self._reports(now)

    def idle(self, now: float) -> Iterator[Item]:
        """Yield what is due although nothing comes."""
        yield from self._deliver(self._sequencer.expire(now))
        yield from self._reports(now)

    def finish(self, now: float) -> Iterator[Item]:
        """Yield what still waits."""
        yield from self._deliver(self._sequencer.flush())
        yield from self._reports(now, is_last=True)

    def _accept(self, packet: Packet | None, size: int, sender: str, now: float) -> Iterator[Item]:
        """Take in the parts of a datagram of an accepted sender."""
        if packet is not None and find_container(packet.payload):
            packet = self._skip_header(packet)
            if packet is None:
                return
        is_empty = packet is not None and not packet.payload and packet.number is None
        if packet is None or is_empty or len(packet.payload) % self.size:
            self._odd.add()
            self._odd_example = f"{size} bytes from {sender}"
            return
        source = (sender, packet.stream)
        if source != self._sender:
            if self._sender is not None and now - self._last < TAKEOVER_S:
                busy = f"while {self._sender[0]} sends; choose one with --from"
                self._note("rival", f"{{count}} datagram(s) like one from {sender} were left out, {busy}")
                return
            yield from self._change_sender(source, now)
        frames = len(packet.payload) // self.size
        self._room_s = max(self._room_s + (now - self._last) - frames / self.rate, 0.0)
        self._last = now
        self._look_for_rtp(packet)
        if packet.number is None:
            yield from self._deliver([(0, packet)])
        else:
            yield from self._deliver(self._in_order(packet, packet.number, frames, now))

    def _in_order(self, packet: Packet, number: int, frames: int, now: float) -> list[tuple[int, Packet]]:
        """Return the packets that are in order once this one has come."""
        unit = 1 if self.layout.counts_frames else max(frames, self._frames, 1)
        jump = max(int((self._room_s + SLACK_S) * self.rate / unit), MIN_JUMP)
        if jump >= self.layout.modulus // 2:  # numbers may have wrapped meanwhile
            jump = self.layout.modulus // 2 - 1
            if self._room_s * self.rate / unit >= jump:
                self._sequencer.reset()
                self._timestamp = None
        return self._sequencer.push(number, frames if self.layout.counts_frames else 1, packet, now, jump)

    def _change_sender(self, source: tuple[str, int], now: float) -> Iterator[Item]:
        yield from self._deliver(self._sequencer.flush())
        if self._sender is not None:
            what = f"samples come from {source[0]} now, before from {self._sender[0]}"
            yield Trouble(what if source[0] != self._sender[0] else "the sender began anew", gap=True)
        self._sequencer.reset()
        self._sender, self._last, self._room_s = source, now, 0.0
        self._timestamp, self._is_timestamp_right = None, False

    def _deliver(self, released: list[tuple[int, Packet]]) -> Iterator[Item]:
        """Yield the samples of packets, and what is missing before each."""
        for missing, packet in released:
            frames = len(packet.payload) // self.size
            if missing == UNKNOWN:
                yield Trouble("the sender began to count anew", gap=True)
                self._timestamp, self._is_timestamp_right = None, False
            elif lost := self._frames_missing(packet, missing, self._frames or frames):
                if missing:
                    unit = max(self._frames or frames, 1) if self.layout.counts_frames else 1
                    self._lost.add(max(round(missing / unit), 1))
                    self._lost_frames += lost
                self._room_s = max(self._room_s - lost / self.rate, 0.0)
                yield Missing(lost)
            self._frames = frames
            if note := check_payload_type(packet.payload_type, self.encoding, self.rate, self.channels):
                self._note("payload type", note)
            if packet.timestamp is not None:
                self._timestamp = (packet.timestamp + frames) % 2**32
            if frames:
                yield decode(packet.payload, self.encoding, self.channels)

    def _frames_missing(self, packet: Packet, missing: int, frames: int) -> int:
        """Return how many frames are missing before a packet, given the numbers that are."""
        if packet.timestamp is not None and self._timestamp is not None:
            step = (packet.timestamp - self._timestamp) % 2**32
            is_pause = 0 < step <= MAX_PAUSE_S * self.rate
            was_right = self._is_timestamp_right
            if not missing:
                self._is_timestamp_right = step == 0
            if was_right and is_pause:
                return step
        return missing if self.layout.counts_frames else missing * frames

    def _count_dropped(self, counter: int) -> Iterator[Item]:
        """Count the datagrams that the kernel dropped. Numbered ones are known to be missing in any case."""
        dropped, self._drop_counter = (counter - self._drop_counter) % 2**32, counter
        self._dropped += dropped
        if dropped and not self.layout.modulus:
            self._lost.add(dropped)
            if lost := dropped * self._frames:
                self._lost_frames += lost
                yield Missing(lost)

    def _skip_header(self, packet: Packet) -> Packet | None:
        """Return a packet without the header of a WAV file; None if what follows is not as expected."""
        kind = find_container(packet.payload)
        try:
            header = read_wav_header(packet.payload) if kind == "WAV" else None
            if header is None:
                raise AudioError(f"found the beginning of a {kind} file, expected raw samples")
            check_wav_header(header, self.rate, self.channels, self.encoding)
        except AudioError as error:
            self._note("header", str(error))
            return None
        self._note("header", f"found a WAV header ({header}), which was skipped; send raw samples")
        return Packet(packet.payload[header.size :], packet.number, packet.timestamp, packet.stream)

    def _look_for_rtp(self, packet: Packet) -> None:
        """Note datagrams that are taken for samples although they have headers of RTP."""
        if not isinstance(self.layout, FixedLayout) or self.layout.header_bytes or self._num_sniffed >= NUM_SNIFFED:
            return
        before, self._sniffed = self._sniffed, RtpLayout().parse(packet.payload)
        after = self._sniffed
        if after is None or after.number is None:
            self._num_sniffed = NUM_SNIFFED
        elif before is None or before.number is None:
            self._num_sniffed = 1
        elif after.stream == before.stream and after.number == (before.number + 1) % 65_536:
            self._num_sniffed += 1
            if self._num_sniffed == NUM_SNIFFED:
                self._note("rtp", "found headers of RTP, expected samples alone; listen to rtp://HOST:PORT")
        else:
            self._num_sniffed = NUM_SNIFFED

    def _note(self, kind: str, text: str) -> None:
        """Count an observation, which is reported from time to time."""
        throttle, _ = self._notes.get(kind, (Throttle(REPORT_S), ""))
        throttle.add()
        self._notes[kind] = throttle, text

    def _reports(self, now: float, is_last: bool = False) -> Iterator[Trouble]:
        """Yield the reports that are due."""

        def due(throttle: Throttle) -> int:
            return throttle.flush(now) if is_last else throttle.due(now)

        if odd := due(self._odd):
            what = f"found {odd} datagram(s) like one of {self._odd_example}"
            yield Trouble(f"{what}, expected {self.layout.header}whole frames of {self.size} bytes; left out")
        for throttle, text in self._notes.values():
            if count := due(throttle):
                yield Trouble(text.replace("{count}", str(count)))
        if lost := due(self._lost):
            yield self._loss_report(lost)

    def _loss_report(self, lost: int) -> Trouble:
        """Return the report of lost datagrams, and begin to count anew."""
        text = f"{lost} datagram(s) were lost, {self._lost_frames / self.rate:.2f} s"
        if not self.layout.modulus:
            text = f"{lost} datagram(s) were lost, about {self._lost_frames / self.rate:.2f} s"
        if self._dropped:
            text += f"; the kernel dropped {self._dropped} for want of room in the receive buffer"
        if late := self._sequencer.late - self._late:
            text += f"; {late} came too late"
        self._late = self._sequencer.late
        self._dropped = self._lost_frames = 0
        return Trouble(text)
