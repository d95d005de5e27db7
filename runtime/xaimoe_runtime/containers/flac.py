"""FLAC: a header that states the number of samples, or 0 for an unknown one, and frames that know their place."""

from __future__ import annotations

from typing import BinaryIO

from xaimoe_runtime.containers.part import Extent, Part
from xaimoe_runtime.containers.window import FileWindow

MAGIC = b"fLaC"
STREAMINFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
"""How the first block of metadata begins."""
MAX_PARTS = 1_000
"""Streams in one file that are read one after the other."""
MAX_TRIES = 100_000


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
    if len(starts) == 1:
        return [Part(states_length=_states_length(data, 0))]
    parts = [
        Part(pieces=(Extent(start, following),), states_length=_states_length(data, start))
        for start, following in zip(starts, [*starts[1:], stop], strict=True)
    ]
    if len(parts) > MAX_PARTS:
        note = f"more than {MAX_PARTS} streams were joined; the others were left out"
        parts[MAX_PARTS - 1 :] = [Part(pieces=parts[MAX_PARTS - 1].pieces, lost=True, note=note)]
    return parts


def _states_length(data: FileWindow, start: int) -> bool:
    """Return whether the stream's header states a number of samples (36 bits that are not all 0)."""
    field = data.at(start + 21, 5)
    return len(field) == 5 and (field[0] & 0x0F != 0 or any(field[1:]))
