"""Ogg: pages one after the other, and streams that may be chained: where one ends, another begins.

libsndfile reads the first stream only. Here the pages' headers are walked, so that each stream becomes a part, and
pages that are missing are noticed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from xaimoe_runtime.containers.part import Extent, Part
from xaimoe_runtime.containers.window import FileWindow

MAGIC = b"OggS"
BEGINS, ENDS = 2, 4
"""Flags of the first and of the last page of a stream."""
MAX_PARTS = 10_000
"""Chained streams that are read one after the other."""
MAX_STREAMS = 100
"""Streams side by side, as of sound and pictures."""
MAX_TRIES = 100_000
"""Places that are tried for a page after something else; bounds the time that crafted files take."""


@dataclass(frozen=True)
class Page:
    """The header of a page."""

    start: int
    stop: int
    flags: int
    serial: int
    number: int


@dataclass
class Link:
    """Streams that begin together, alone in most files."""

    start: int
    stop: int = 0
    numbers: dict[int, int] = field(default_factory=dict)
    """The next page's number, by stream."""
    open: set[int] = field(default_factory=set)
    """Streams without a last page."""
    beginning: bool = True
    """Whether all pages so far are first pages."""
    missing: int = 0
    """Pages that are missing."""
    skipped: int = 0
    """Bytes that are no page."""


def find_parts(file: BinaryIO, stop: int) -> list[Part]:
    """Return the parts of an Ogg file: one for each of the streams that are chained.

    Args:
        file: opened for reading.
        stop: its size in bytes.
    """
    links: list[Link] = []
    cut = False
    for page in _pages(FileWindow(file, stop)):
        cut = page.stop > stop
        if cut:
            break
        if not links or (page.flags & BEGINS and not links[-1].beginning):
            if len(links) == MAX_PARTS:
                break
            links.append(Link(start=links[-1].stop if links else 0))
        link = links[-1]
        if link.stop:
            link.skipped += page.start - link.stop
        _add(link, page)
    alone = len(links) == 1
    parts = [_part(link, alone, stop) for link in links]
    if len(links) == MAX_PARTS:
        note = f"more than {MAX_PARTS} streams were chained; the others were left out"
        parts[-1] = Part(pieces=parts[-1].pieces, states_length=False, lost=True, note=note)
    elif cut and parts:
        pieces = parts[-1].pieces
        parts[-1] = Part(pieces=pieces, states_length=False, lost=True, note="cut short within a page")
    return parts


def _add(link: Link, page: Page) -> None:
    """Add a page to the streams that it may belong to."""
    link.stop = page.stop
    link.beginning &= bool(page.flags & BEGINS)
    if page.serial not in link.numbers and len(link.numbers) >= MAX_STREAMS:
        return
    expected = link.numbers.get(page.serial, page.number)
    link.missing += max(page.number - expected, 0)
    link.numbers[page.serial] = page.number + 1
    if page.flags & ENDS:
        link.open.discard(page.serial)
    else:
        link.open.add(page.serial)


def _part(link: Link, alone: bool, size: int) -> Part:
    notes = []
    if link.missing:
        notes.append(f"{link.missing} of its pages are missing")
    if link.skipped:
        notes.append(f"{link.skipped} bytes between its pages are none")
    if link.open:
        notes.append("cut short: no page says that it is the last")
    pieces = () if alone else (Extent(link.start, link.stop),)
    return Part(pieces=pieces, states_length=False, lost=bool(notes), note="; ".join(notes))


def _pages(data: FileWindow) -> Iterator[Page]:
    """Yield the pages; the last one may be cut."""
    position = 0
    while data.tries < MAX_TRIES:
        position = data.find(MAGIC, position, data.stop)
        head = data.at(position, 27)
        if len(head) < 27:
            return
        version, flags, _, serial, number, _, segments = struct.unpack("<4xBBqIIIB", head)
        lacing = data.at(position + 27, segments)
        if version != 0 or len(lacing) < segments:
            data.tries += 1
            position += 1
            continue
        stop = position + 27 + segments + sum(lacing)
        yield Page(position, stop, flags, serial, number)
        position = stop
