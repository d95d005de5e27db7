"""MPEG audio (MP3): frames one after the other, without a header for the whole.

A length is stated only by a first frame of its own (Xing, Info, VBRI), which an encoder writes that can go back to it.
Without one libsndfile guesses from the first frame. Here the frames' headers are walked, so that the number is right,
and streams that were joined are split where the next begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO

from xaimoe_runtime.containers.part import Extent, Part, Piece
from xaimoe_runtime.containers.window import WINDOW_BYTES, FileWindow

SUFFIXES = frozenset((".mp1", ".mp2", ".mp3", ".mpga"))
"""Endings of files that are searched for frames whatever they begin with."""
MAX_PARTS = 1_000
"""Streams in one file that are read one after the other."""
MAX_EXTENTS = 1_000
"""Stretches of a stream between which there is something else."""
MAX_SEARCH_BYTES = 1 << 16
"""Before the first frame that are searched for it, tags left out."""
SURE_FRAMES = 3
"""Frames that must follow each other before the first of them is believed."""
TOLERANCE_BYTES = 4_096
"""By which a stated number of bytes may differ from the file's: the next frame, or a tag of another kind."""
MAX_TAGS = 100
LYRICS = b"LYRICSBEGIN"
"""How a Lyrics3 tag begins."""
FOOTERS = ((b"APETAGEX", 32), (b"LYRICS200", 9), (b"LYRICSEND", 9))
"""How tags end that need no header, with the offset from their end."""
ID3V1_BYTES = 128
"""Of a tag at the very end of a file."""
MAX_TRIES = 100_000
"""Places in a file that are tried for a frame after something else; bounds the time that crafted files take."""
OTHERS = (b"fLaC", b"OggS", b"RIFF", b"FORM")
"""How other containers begin, before which programs write tags, too."""
INFO_NAMES = (b"Xing", b"Info")
MAX_GAP_BYTES = 4_096
"""That are no frames and no tag, between frames, before they are taken for lost sound. A frame is smaller."""
VERSIONS = {0: 2.5, 2: 2.0, 3: 1.0}
RATES = {1.0: (44_100, 48_000, 32_000), 2.0: (22_050, 24_000, 16_000), 2.5: (11_025, 12_000, 8_000)}
KBITS = {
    (1.0, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1.0, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1.0, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2.0, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2.0, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2.0, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates by version (2.5 is as 2) and layer; 0 stands for a rate that the header does not state."""


@dataclass(frozen=True)
class Frame:
    """What a frame's header says."""

    size: int
    """Bytes."""
    samples: int
    layer: int
    rate: int
    """Hz"""
    channels: int
    side_bytes: int
    """Between the header and the main data of layer III."""

    @property
    def kind(self) -> tuple[int, int, int]:
        """What does not change within a stream."""
        return self.layer, self.rate, self.channels


def parse_frame(header: bytes) -> Frame | None:
    """Return what the four bytes of a frame's header say; None if they are no header, or state no bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = VERSIONS.get(header[1] >> 3 & 3), 4 - (header[1] >> 1 & 3)
    kbit, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version is None or layer == 4 or kbit in (0, 15) or rate_index == 3:
        return None
    bits, rate = 1_000 * KBITS[min(version, 2.0), layer][kbit], RATES[version][rate_index]
    samples = 384 if layer == 1 else 576 if layer == 3 and version > 1 else 1_152
    size = 4 * (12 * bits // rate + padding) if layer == 1 else samples // 8 * bits // rate + padding
    channels = 1 if header[3] >> 6 == 3 else 2
    side = (17 if channels == 1 else 32) if version == 1 else (9 if channels == 1 else 17)
    return Frame(size, samples, layer, rate, channels, side)


_frame = lru_cache(maxsize=4_096)(parse_frame)
"""A file has a handful of different headers."""


@dataclass
class Stream:
    """Frames of one kind that follow each other."""

    first: Frame
    extents: list[Extent] = field(default_factory=list)
    frames: int = 0
    """Without the one that states their number."""
    stated: int | None = None
    """Frames that the stream's first frame states."""
    info: Extent | None = None
    """Where that frame is."""
    cut: bool = False
    """Whether the file ends within its last frame."""
    lost: bool = False
    """Whether frames are known to be missing."""
    skipped: int = 0
    """Bytes between its frames that are no frames and no tag."""
    trailing: int = 0
    """Bytes after its last frame, at the end of the file, that are no frames, no tag and no padding. They are not
    counted as lost sound: a stream that ends early lacks frames, or ends within one."""


def find_parts(file: BinaryIO, start: int, stop: int) -> list[Part] | None:
    """Return the parts of MPEG audio between two positions of a file; None if it is none, or of bit rates that frames
    do not state.

    Args:
        file: opened for reading.
        start: first byte.
        stop: byte after the last.
    """
    data = FileWindow(file, stop)
    begin = _skip_tags(data, start)
    if data.at(begin, 4) in OTHERS:
        return None
    first = _find_frame(data, begin, min(begin + MAX_SEARCH_BYTES, stop))
    if first is None:
        return None
    if _states_all(data, first, start):
        return [Part(pieces=(Extent(first, stop),), hides_size=True)]
    parts: list[Part] = []
    before = first - begin if any(data.at(begin, first - begin)) else 0  # zeros are padding of a tag
    for stream in _streams(data, first):
        if len(parts) == MAX_PARTS:
            note = f"more than {MAX_PARTS} streams were joined; the others were left out"
            return [*parts[:-1], Part(pieces=parts[-1].pieces, hides_size=True, lost=True, note=note)]
        parts.append(_part(data, stream, 0 if parts else before))
    return parts


def _part(data: FileWindow, stream: Stream, before: int) -> Part:
    """Return a stream as a part that begins with a frame which states how many follow; ``before`` are the bytes in
    front of it that are no tag."""
    notes = []
    if before:
        notes.append(f"{before} bytes before its first frame are no MPEG audio")
    if stream.skipped:
        notes.append(f"{stream.skipped} bytes between its frames are no MPEG audio")
    if stream.trailing:
        notes.append(f"{stream.trailing} bytes after its last frame are no MPEG audio")
    if stream.cut:
        notes.append("cut short within a frame")
    note = "; ".join(notes)
    if stream.info is not None and stream.stated is not None and stream.stated >= stream.frames:
        short = stream.stated > stream.frames
        note = "cut short: the file ends before its header says" if short else note
        pieces: tuple[Piece, ...] = (stream.info, *stream.extents)
        return Part(pieces=pieces, hides_size=True, lost=stream.lost and not short, note=note)
    pieces, frames = tuple(stream.extents), None
    if stream.first.layer == 3:
        pieces = (_info_frame(stream), *pieces)
    else:
        frames = stream.frames * stream.first.samples
    return Part(pieces=pieces, stated_frames=frames, states_length=False, hides_size=True, lost=stream.lost, note=note)


def _info_frame(stream: Stream) -> bytes:
    """Return a frame of layer III that states the number of frames of a stream, as encoders write it (Xing)."""
    first = stream.first
    version = next(version for version, rates in RATES.items() if first.rate in rates)
    number = next(number for number, known in VERSIONS.items() if known == version)
    kbit = KBITS[min(version, 2.0), 3].index(128)  # large enough for what it states
    mode = 0xC0 if first.channels == 1 else 0
    header = bytes((0xFF, 0xE3 | number << 3, kbit << 4 | RATES[version].index(first.rate) << 2, mode))
    size = (144 if version == 1 else 72) * 128_000 // first.rate
    content = header + bytes(first.side_bytes) + b"Xing" + struct.pack(">II", 1, stream.frames)
    return content + bytes(size - len(content))


def _streams(data: FileWindow, position: int) -> Iterator[Stream]:
    """Yield the streams from the frame at a position on: each of frames of one kind, and of no more than it states."""
    stream: Stream | None = None
    following: int | None = position
    while following is not None and (frame := _frame(data.at(following, 4))) is not None:
        stated = _stated_frames(data, following, frame)
        if stream is None or stated is not None or frame.kind != stream.first.kind or stream.frames == stream.stated:
            if stream is not None:
                yield stream
            stream = Stream(frame, stated=stated)
            if stated is not None:
                stream.info = Extent(following, min(following + frame.size, data.stop))
                following = stream.info.stop
        limit = data.stop if stream.stated is None else stream.stated - stream.frames
        stop, count, cut = _run(data, following, frame.kind, limit)
        if count:
            stream.extents.append(Extent(following, stop))
        stream.frames += count
        after = None if cut else _next_frame(data, stop)
        if after is not None:
            stream.skipped += after[1]
        elif not cut:
            stream.trailing = _trailing_bytes(data, stop)
        stream.cut = cut
        stream.lost |= cut or (after is not None and after[1] > MAX_GAP_BYTES) or len(stream.extents) >= MAX_EXTENTS
        following = None if after is None or len(stream.extents) >= MAX_EXTENTS else after[0]
    if stream is not None:
        yield stream


def _run(data: FileWindow, position: int, kind: tuple[int, int, int], limit: int) -> tuple[int, int, bool]:
    """Return where frames of a kind that follow each other end, how many there are, at most ``limit``, and whether the
    file ends within the next one."""
    count = 0
    while count < limit:
        frame = _frame(data.at(position, 4))
        if frame is None or frame.kind != kind or (count and _is_info(data, position, frame)):
            break
        if position + frame.size > data.stop:
            return position, count, True
        position += frame.size
        count += 1
    return position, count, False


def _is_info(data: FileWindow, position: int, frame: Frame) -> bool:
    """Return whether a frame states the number of frames that follow."""
    return frame.layer == 3 and (
        data.at(position + 4 + frame.side_bytes, 4) in INFO_NAMES or data.at(position + 36, 4) == b"VBRI"
    )


def _stated(data: FileWindow, position: int, frame: Frame) -> tuple[int | None, int | None] | None:
    """Return the frames and bytes that a frame states, each None if it does not; None if it is no such frame."""
    if not _is_info(data, position, frame):
        return None
    content = data.at(position + 4 + frame.side_bytes, 16)
    if content[:4] in INFO_NAMES and len(content) == 16:
        flags, first, second = struct.unpack(">III", content[4:])
        frames = first if flags & 1 else None
        return frames, (second if flags & 1 else first) if flags & 2 else None
    content = data.at(position + 36, 18)
    if len(content) == 18:
        stated_bytes, frames = struct.unpack(">II", content[10:])
        return frames, stated_bytes
    return None, None


def _stated_frames(data: FileWindow, position: int, frame: Frame) -> int | None:
    found = _stated(data, position, frame)
    return None if found is None else found[0]


def _states_all(data: FileWindow, position: int, start: int) -> bool:
    """Return whether the first frame states all frames of the file, so that libsndfile reads it well as it is."""
    frame = _frame(data.at(position, 4))
    if start or frame is None or data.at(position + 36, 4) == b"VBRI":
        return False
    frames, stated_bytes = _stated(data, position, frame) or (None, None)
    return bool(frames and stated_bytes and data.stop - position - stated_bytes <= TOLERANCE_BYTES)


def _find_frame(data: FileWindow, position: int, stop: int) -> int | None:
    """Return where the first frame begins that others follow; None if none does before ``stop``."""
    while (position := data.find(b"\xff", position, stop)) < stop and data.tries < MAX_TRIES:
        data.tries += 1
        frame = _frame(data.at(position, 4))
        if frame is not None and _is_followed(data, position, frame.kind):
            return position
        position += 1
    return None


def _is_followed(data: FileWindow, position: int, kind: tuple[int, int, int]) -> bool:
    """Return whether a frame is followed by others of its kind, or by the end of the data."""
    stop, count, cut = _run(data, position, kind, SURE_FRAMES)
    return count == SURE_FRAMES or (count > 0 and (cut or stop == data.stop or _skip_tags(data, stop) > stop))


def _next_frame(data: FileWindow, position: int) -> tuple[int, int] | None:
    """Return where the next frame is after something else, and how many bytes lie between that are no tag; None if
    there is none."""
    begin = _skip_tags(data, position)
    found = _find_frame(data, begin, data.stop)
    return None if found is None else (found, found - begin)


def _trailing_bytes(data: FileWindow, position: int) -> int:
    """Return how many bytes after the last frame are no tag and no padding."""
    begin, end = _skip_tags(data, position), data.stop
    if end - begin >= ID3V1_BYTES and data.at(end - ID3V1_BYTES, 3) == b"TAG":
        end -= ID3V1_BYTES
    is_tag = data.at(begin, len(LYRICS)) == LYRICS
    is_tag |= any(data.at(end - offset, len(name)) == name for name, offset in FOOTERS if offset <= end - begin)
    is_padding = not any(
        any(data.at(start, min(WINDOW_BYTES, end - start))) for start in range(begin, end, WINDOW_BYTES)
    )
    return 0 if is_tag or is_padding else end - begin


def _skip_tags(data: FileWindow, position: int) -> int:
    """Return where the tags end that begin at a position."""
    for _ in range(MAX_TAGS):
        head = data.at(position, 32)
        if head[:3] == b"ID3" and len(head) >= 10:
            size = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
        elif head[:3] == b"TAG":
            size = 128
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size = 32 + struct.unpack("<I", head[12:16])[0]
        else:
            return position
        position = min(position + size, data.stop)
    return position
