"""Where a stream's records go: lines on stdout or at the end of a file, or elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.schema import Record

Warn = Callable[[str], None]
"""Tells a person."""

_encode = msgspec.json.Encoder().encode


class Outlet(Protocol):
    """Takes records; what it cannot pass on it counts."""

    lost: int
    """Records that could not be passed on."""

    def send(self, record: Record) -> None:
        """Passes a record on."""
        ...

    def close(self) -> None:
        """Passes on what waits, and ends."""
        ...


class StdoutLines:
    """JSON Lines on stdout, each flushed at once."""

    lost = 0

    def send(self, record: Record) -> None:
        """Writes a line. A reader that went away ends the program: BrokenPipeError."""
        sys.stdout.buffer.write(_encode(record) + b"\n")
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Nothing waits."""


class FileLines:
    """JSON Lines at the end of a file. While the disk is full, or away, lines are lost and counted; none is cut.

    Args:
        path: of the file; it is made if it is not there.
        warn: tells of an outage, and of its end.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path, warn: Warn) -> None:
        self.path, self.warn, self.lost = path, warn, 0
        self._failing = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another place") from error

    def send(self, record: Record) -> None:
        """Appends a line."""
        line = _encode(record) + b"\n"
        whole = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                self._file.truncate(whole)
                raise OSError("the line did not fit")
        except OSError as error:
            self.lost += 1
            self._failing += 1
            if self._failing == 1:
                self.warn(f"{self.path}: cannot be written ({error}); records are lost until it can")
        else:
            if self._failing:
                self.warn(f"{self.path}: written again; {self._failing} records were lost")
            self._failing = 0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
