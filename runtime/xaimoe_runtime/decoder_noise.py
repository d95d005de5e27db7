"""Keep what C libraries print apart from the records and messages of a command.

Decoders print warnings to the process's descriptors 1 and 2, hundreds of lines for one damaged file, and some of them
between the JSON Lines of stdout. A command therefore writes to private copies of both descriptors, and the descriptors
themselves lead to a thread that counts the lines of decoders and passes everything else on to stderr. Only the entry
points of the command lines do this: a program that uses the library keeps its descriptors as they are.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, TextIO

DECODER_LINE = re.compile(
    rb"Note: (Illegal Audio-MPEG-Header|Trying to resync|Skipped \d+ bytes|Hit end of|missing \d+ bytes)"
    rb"|(Warning|Error): .*(mpg123|layer|frame|header|stream|resync|ID3|bitrate|Xing)"
    rb"|\[[^\]]*\.c:[^\]]*\] (error|warning|note|debug): "
    rb"|Error [A-Z0-9]{1,2} : "
)
"""Start of a line that libmpg123 or libsndfile print about a recording."""
MAX_EXAMPLE = 100
"""Characters of the first such line that the closing message quotes."""
MAX_LINE = 4096
"""Bytes after which a line without end is taken for one."""
DRAIN_S = 1.0
"""Seconds that the last lines are waited for; processes that were started may still hold the descriptors."""


@dataclass
class DecoderNoise:
    """The lines of decoders that were caught."""

    lines: int = 0
    example: str = ""
    _stderr: BinaryIO | None = field(default=None, repr=False)

    def take(self, line: bytes) -> None:
        """Count a line of a decoder; pass any other line on to stderr."""
        if DECODER_LINE.match(line):
            self.lines += 1
            self.example = self.example or line.decode("utf-8", "replace").strip()[:MAX_EXAMPLE]
        elif self._stderr is not None and line.strip(b"\0\r\n\t "):
            self._stderr.write(line)
            self._stderr.flush()

    def describe(self) -> str:
        """Return one line for a person, empty if nothing was caught."""
        return f"decoders printed {self.lines} line(s), first: {self.example}" if self.lines else ""


@contextmanager
def private_streams() -> Iterator[DecoderNoise]:
    """Give ``sys.stdout`` and ``sys.stderr`` private descriptors, and catch what is printed to descriptors 1 and 2.

    At the end the number of caught lines goes to stderr. Nothing is redirected where the process has no such
    descriptors, and on Windows, whose C libraries have their own.
    """
    noise = DecoderNoise()
    if os.name != "posix" or not _has_descriptors():
        yield noise
        return
    before = sys.stdout, sys.stderr
    sys.stdout.flush()
    sys.stderr.flush()
    sys.stdout, sys.stderr = _private_copy(sys.stdout, 1), _private_copy(sys.stderr, 2)
    noise._stderr = sys.stderr.buffer
    reading, writing = os.pipe()
    for descriptor in (1, 2):
        os.dup2(writing, descriptor)
    os.close(writing)
    thread = threading.Thread(target=_read_lines, args=(reading, noise), name="decoder-noise", daemon=True)
    thread.start()
    try:
        yield noise
    finally:
        _flush_c_streams()
        own_out, own_err = sys.stdout, sys.stderr
        for descriptor, stream in ((1, own_out), (2, own_err)):  # the last ends of the pipe that this process holds
            _flush(stream)
            os.dup2(stream.fileno(), descriptor)
        thread.join(DRAIN_S)
        if text := noise.describe():
            own_err.write(f"{text}\n")
            own_err.flush()
        sys.stdout, sys.stderr = before


def _has_descriptors() -> bool:
    """Return whether ``sys.stdout`` and ``sys.stderr`` stand for descriptors 1 and 2."""
    try:
        return (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
    except (AttributeError, OSError, ValueError):  # None, closed, or not of a descriptor
        return False


def _private_copy(stream: TextIO, descriptor: int) -> TextIO:
    """Return a text stream like another one on a copy of a descriptor, which child processes do not inherit."""
    return open(  # noqa: PTH123  it stays open as long as the process writes
        os.dup(descriptor),
        "w",
        buffering=1 if stream.line_buffering else -1,
        encoding=stream.encoding,
        errors=stream.errors,
    )


def _read_lines(reading: int, noise: DecoderNoise) -> None:
    with open(reading, "rb") as pipe:
        while line := pipe.readline(MAX_LINE):
            noise.take(line)


def _flush_c_streams() -> None:
    """Write out what C libraries hold in their buffers of stdout, so that it does not follow the records."""
    with suppress(OSError, AttributeError):  # a C library that cannot be reached by its names
        ctypes.CDLL(None).fflush(None)


def _flush(stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # its reader went away, or it is closed
        stream.flush()
