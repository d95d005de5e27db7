"""Parts of a file that are decoded one after the other, and a file-like view of one."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BUFFER_BYTES = 1 << 16


@dataclass(frozen=True)
class Extent:
    """Bytes ``start`` to ``stop`` of a file."""

    start: int
    stop: int


Piece = bytes | Extent


@dataclass(frozen=True, kw_only=True)
class Part:
    """What libsndfile decodes at one go: a file, or pieces of it that are presented as a file of their own."""

    pieces: tuple[Piece, ...] = ()
    """None: the file itself."""
    stated_frames: int | None = None
    """Native frames that the headers state; None if it is the number that libsndfile gives, times ``stated_ratio``."""
    max_frames: int | None = None
    """Native frames that are decoded at most, since what follows is not there or is no sound; None for no limit."""
    stated_ratio: float = 1.0
    """Length that the header states over the length that is there."""
    states_length: bool = True
    """Whether the headers state a length at all."""
    hides_size: bool = False
    """Whether libsndfile is not to know the size before the format (see :class:`PartView`)."""
    lost: bool = False
    """Whether data are known to be missing although their amount is not stated."""
    note: str = ""
    """What is wrong with the file, in words."""


class PartView(io.RawIOBase):
    """Pieces of a file as a file that libsndfile reads.

    Before libsndfile tests for MPEG audio it opens the file ``._NAME`` next to the recording (in the working directory
    for a view, which has no name), where macOS keeps attributes, and takes MPEG audio for Sound Designer II if there is
    one. It does so only where it knows a size over 0.

    Args:
        path: of the file.
        pieces: bytes, and extents of the file.
        hides_size: whether the size is 0 where it is asked for first, which is before the format is known.
    """

    def __init__(self, path: Path, pieces: tuple[Piece, ...], hides_size: bool = False) -> None:
        self._file: BinaryIO = path.open("rb", buffering=BUFFER_BYTES)
        self._pieces: list[tuple[int, int, Piece]] = []  # with the positions at which each begins and ends
        self._size = 0
        for piece in pieces:
            begin = self._size
            self._size += len(piece) if isinstance(piece, bytes) else max(piece.stop - piece.start, 0)
            self._pieces.append((begin, self._size, piece))
        self._position = 0
        self._current = 0
        self._hides_size = hides_size
        self.error: OSError | None = None
        """What went wrong in a read: libsndfile cannot pass it on."""

    def readinto(self, buffer: object) -> int:
        """Fill the buffer as far as the data go."""
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        done = 0
        while done < len(target) and self._position < self._size:
            begin, end, piece = self._at(self._position)
            offset, count = self._position - begin, min(end - self._position, len(target) - done)
            if isinstance(piece, bytes):
                target[done : done + count] = piece[offset : offset + count]
            else:
                count = self._read(piece.start + offset, target[done : done + count])
            if not count:  # the file became shorter
                break
            done += count
            self._position += count
        return done

    def _at(self, position: int) -> tuple[int, int, Piece]:
        """Return the piece that holds a position within the view; most reads stay in the piece of the one before."""
        begin, end, _ = self._pieces[self._current]
        if not begin <= position < end:
            self._current = next(i for i, (start, stop, _) in enumerate(self._pieces) if start <= position < stop)
        return self._pieces[self._current]

    def _read(self, start: int, target: memoryview) -> int:
        try:
            self._file.seek(start)
            return int(self._file.readinto(target))  # type: ignore[attr-defined]
        except OSError as error:
            self.error = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position; one before the beginning is the beginning."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        """Return the position; 0 once for the end, if the size is hidden."""
        if self._hides_size and self._position == self._size:
            self._hides_size = False
            return 0
        return self._position

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
