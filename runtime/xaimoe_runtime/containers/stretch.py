"""Parts of a file made of a header and a stretch of samples: WAV, RF64, Wave64, AIFF, CAF and AU.

A header is written before the samples, so it is wrong wherever a recorder stopped early, went on past what its fields
can hold, or wrote into a pipe. Here the samples' place is taken from the header, and their length from the file.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from xaimoe_runtime.containers import mpeg
from xaimoe_runtime.containers.chunks import MAX_CHUNKS, Layout, find_layout, is_recording, read_at
from xaimoe_runtime.containers.part import Extent, Part

MAX_PARTS = 100
"""Recordings in one file that are read one after the other."""
WRAP = 1 << 32
"""A size of 32 bits starts from 0 here."""
MAX_TAIL_BYTES = 1 << 20
"""Of chunks that may follow the samples of a file whose size wrapped around."""
MAX_PADDING_BYTES = 1 << 16
"""Zeros at the end of a file that are padding and no samples."""
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"3DI")
"""Beginnings of tags that programs append to any file."""


def find_parts(file: BinaryIO) -> list[Part] | None:
    """Return the parts of a file of one of these containers; None if it is none, or its header is not understood."""
    size = file.seek(0, os.SEEK_END)
    parts: list[Part] = []
    begin: int | None = 0
    while begin is not None and len(parts) < MAX_PARTS:
        layout = find_layout(file, begin, size)
        if layout is None or layout.start > size:
            break
        if layout.mpeg:
            stop = size if layout.stated is None else min(layout.start + layout.stated, size)
            found = mpeg.find_parts(file, layout.start, stop)
            return None if found is None or parts else found
        part, begin = _judge(file, layout, begin, size)
        parts.append(part)
    return parts or None


def _judge(file: BinaryIO, layout: Layout, begin: int, size: int) -> tuple[Part, int | None]:
    """Return the part whose header is at ``begin``, and where another recording begins after it, if one does."""
    held, stated = size - layout.start, layout.stated
    sound = layout.clamps and begin == 0  # libsndfile reads it as it is
    if stated is None:
        fits = sound and held < WRAP - 1
        return _part(layout, held, fits, f"the {layout.name} header states no length", states_length=False), None
    if layout.frame_bytes and stated > held and stated // layout.frame_bytes == held // layout.frame_bytes:
        stated = held  # nothing but padding is missing
    if stated > held:
        return _part(layout, held, sound, "cut short: the file ends before its header says", stated=stated), None
    rest, another = _rest(file, layout, layout.start + stated, size)
    if another is not None:
        return _part(layout, stated, False, "", stated=stated), another
    if not rest:
        return _part(layout, stated, sound or begin == 0, "", stated=stated), None
    wrapped = stated + (held - stated) // WRAP * WRAP
    if layout.wraps and wrapped > stated and held - wrapped <= MAX_TAIL_BYTES:
        note = f"the {layout.name} header's size wrapped around at 4 GiB; the samples were read to their end"
        return _part(layout, wrapped, False, note, stated=stated), None
    when = "was never finished" if stated == 0 else "was written before the recording ended"
    note = f"the {layout.name} header {when}; the samples were read to the end of the file"
    return _part(layout, held, False, note, stated=stated), None


def _part(layout: Layout, length: int, as_it_is: bool, note: str, stated: int = 0, states_length: bool = True) -> Part:
    """Return a part of ``length`` bytes of samples of which the header states others."""
    frames = stated // layout.frame_bytes if layout.frame_bytes else None
    ratio = stated / length if length else 1.0
    header = None if as_it_is else layout.header(length)
    if header is not None:
        pieces = (header, Extent(layout.start, layout.start + length))
        return Part(pieces=pieces, stated_frames=frames, stated_ratio=ratio, states_length=states_length, note=note)
    if as_it_is:
        return Part(stated_frames=frames, stated_ratio=ratio, states_length=states_length, note=note)
    return Part(note=f"the {layout.name} header is wrong and cannot be mended in this coding", lost=True)


def _rest(file: BinaryIO, layout: Layout, end: int, size: int) -> tuple[bool, int | None]:
    """Return whether samples go on after the end that the header states, and where another recording begins."""
    for first in (end, end + 1):  # a chunk of odd size may be padded or not
        position = first
        for _ in range(MAX_CHUNKS):
            if position >= size - 1:
                return False, None
            if is_recording(read_at(file, position, 40)):
                return False, position
            following = layout.chunk_end(position)
            if following is None:
                break
            position = following
        if position > first:  # chunks, and then what is none: no samples in any case
            return False, None
    return _are_samples(file, layout, end, size), None


def _are_samples(file: BinaryIO, layout: Layout, end: int, size: int) -> bool:
    """Return whether what follows the stated end looks like samples, and not like a tag, text or padding."""
    start = read_at(file, end, 4_096)
    if start.startswith(TAGS) or size - end < max(layout.frame_bytes, 1):
        return False
    if layout.stated and size - end <= MAX_PADDING_BYTES and not any(read_at(file, end, MAX_PADDING_BYTES)):
        return False
    return not all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
