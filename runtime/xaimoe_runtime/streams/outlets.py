"""Where a stream's records go: lines on stdout or at the end of a file, or elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.records import Record

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
    """JSON Lines at the end of a file. While the disk is full, or away, lines are lost and counted; none is cut. A file
    that was moved away (log rotation) is begun anew.

    Args:
        path: of the file; it is made if it is not there.
        warn: tells of an outage, and of its end.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: Path, warn: Warn) -> None:
        self.path, self.warn, self.lost = path, warn, 0
        self._failing = 0
        self._file: Any = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another place") from error

    def _open(self) -> None:
        self._file = self.path.open("ab", buffering=0)
        with self.path.open("rb") as file:
            if file.seekable() and file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the machine went down in the middle of a line
                    self._file.write(b"\n")

    def send(self, record: Record) -> None:
        """Appends a line."""
        try:
            self._append(_encode(record) + b"\n")
        except OSError as error:
            self.lost += 1
            self._failing += 1
            if self._failing == 1:
                self.warn(f"{self.path}: cannot be written ({error}); records are lost until it can")
        else:
            if self._failing:
                self.warn(f"{self.path}: written again; {self._failing} records were lost")
            self._failing = 0

    def _append(self, line: bytes) -> None:
        if self._failing or not self._is_there():
            self._file.close()
            self._open()
        whole = os.fstat(self._file.fileno()).st_size
        if self._file.write(line) != len(line):
            self._file.truncate(whole)
            raise OSError("the line did not fit")

    def _is_there(self) -> bool:
        """Whether the path still means the file that is open."""
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
