"""Bytes of a file by their position, of which a window is in memory."""

from __future__ import annotations

from typing import BinaryIO

WINDOW_BYTES = 1 << 20
"""That are in memory at once."""


class FileWindow:
    """Reads a file by position, mostly forwards.

    Args:
        file: opened for reading.
        stop: byte after the last that is looked at.
    """

    def __init__(self, file: BinaryIO, stop: int) -> None:
        self.file, self.stop = file, stop
        self._first, self._bytes = 0, b""
        self.tries = 0
        """Places that were tried for the beginning of something, counted by the caller."""

    def at(self, position: int, count: int) -> bytes:
        """Return up to ``count`` bytes, at most a window; fewer at the end."""
        offset = position - self._first
        if offset < 0 or (offset + count > len(self._bytes) and self._first + len(self._bytes) < self.stop):
            self.file.seek(position)
            self._bytes = self.file.read(max(min(WINDOW_BYTES, self.stop - position), 0))
            self._first, offset = position, 0
        return self._bytes[offset : offset + count]

    def find(self, pattern: bytes, position: int, stop: int) -> int:
        """Return where a pattern begins next before ``stop``; else ``stop``."""
        while position < stop and len(self.at(position, len(pattern))) == len(pattern):
            offset = position - self._first
            found = self._bytes.find(pattern, offset, offset + stop - position + len(pattern) - 1)
            if found >= 0:
                return self._first + found
            position = max(self._first + len(self._bytes) - len(pattern) + 1, position + 1)
        return stop
