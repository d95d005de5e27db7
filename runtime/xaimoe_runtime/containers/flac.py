"""FLAC: a header that states the number of samples, or 0 for an unknown one, and frames that know their place."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import BinaryIO

from xaimoe_runtime.containers.flacframe import StreamInfo, find_last_frame
from xaimoe_runtime.containers.part import Extent, Part
from xaimoe_runtime.containers.window import WINDOW_BYTES, FileWindow

MAGIC = b"fLaC"
STREAMINFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
"""How the first block of metadata begins."""
MAX_PARTS = 1_000
"""Streams in one file that are read one after the other."""
MAX_TRIES = 100_000
MAX_CHECKSUM_ZEROS = 2
"""Zeros that may belong to the checksum at the end of a frame."""
TAG_BYTES = 128
"""Of a tag (ID3v1) at the end of a file."""


def find_parts(file: BinaryIO, stop: int) -> list[Part]:
    """Return the parts of a FLAC file: one for each of the streams that were joined.

    Args:
        file: opened for reading.
        stop: its size in bytes.
    """
    data = FileWindow(file, stop)
    starts = [0]
    position = len(MAGIC)
    while len(starts) <= MAX_PARTS and data.tries < MAX_TRIES:
        position = data.find(MAGIC, position, stop)
        if position >= stop:
            break
        data.tries += 1
        if data.at(position + 4, 4) in STREAMINFO:
            starts.append(position)
        position += len(MAGIC)
    edges = [*starts[: MAX_PARTS + 1], stop][: MAX_PARTS + 1]
    parts = [_part(data, *edge, alone=len(starts) == 1) for edge in pairwise(edges)]
    if len(starts) > MAX_PARTS:
        note = f"more than {MAX_PARTS} streams were joined; the others were left out"
        parts[-1] = replace(parts[-1], lost=True, note=note)
    return parts


def _part(data: FileWindow, start: int, stop: int, alone: bool) -> Part:
    """Return the stream between two positions as a part."""
    info = StreamInfo.parse(data, start)
    pieces = () if alone else (Extent(start, stop),)
    if info is None:
        return Part(pieces=pieces)
    if info.total == 0 and data.at(max(stop - TAG_BYTES, start), 3) == b"TAG":  # else the decoder trips over it
        stop -= TAG_BYTES
        pieces = (Extent(start, stop),)
    if info.total == 0 and (padded := _without_padding(data, start, stop, info)) != stop:
        stop = padded
        pieces = (Extent(start, stop),)
    last = find_last_frame(data, start, stop, info, check=info.total == 0)
    if info.total == 0:
        is_cut = last is not None and not last.whole
        note = "cut short within a frame" if is_cut else ""
        return Part(pieces=pieces, states_length=False, lost=is_cut, note=note)
    if last is None or last.end <= info.total:
        return Part(pieces=pieces)
    # A total of 0 makes the decoder go on to the end.
    head = bytearray(data.at(start, 26))
    head[21] &= 0xF0
    head[22:26] = bytes(4)
    note = "the FLAC header states fewer samples than there are; they were read to their end"
    return Part(pieces=(bytes(head), Extent(start + 26, stop)), stated_frames=info.total, note=note)


def _without_padding(data: FileWindow, start: int, stop: int, info: StreamInfo) -> int:
    """Return where a stream ends that zeros follow; ``stop`` if none do, or no frame ends before them."""
    end = stop
    while end > start:
        first = max(end - WINDOW_BYTES, start)
        rest = data.at(first, end - first).rstrip(b"\0")
        end = first + len(rest)
        if rest:
            break
    for zeros in range(min(MAX_CHECKSUM_ZEROS, stop - end) + 1):
        last = find_last_frame(data, start, end + zeros, info, check=True)
        if last is not None and last.whole:
            return end + zeros
    return stop
