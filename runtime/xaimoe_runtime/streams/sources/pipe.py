"""Raw samples from a pipe."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.streams.pcm import SUBTYPES, Encoding, decode, frame_bytes
from xaimoe_runtime.streams.sources.base import POLL_S, Floats, Trouble, check_raw

PIPE_BYTES = 65_536
"""That are read at a time."""
STDIN = "-"


class PipeSource:
    """Raw samples from a pipe; by default, standard input.

    Args:
        rate: Hz.
        channels: interleaved.
        encoding: of the samples.
        descriptor: of the pipe.
        name: for messages and records.
        live: whether what writes into it cannot wait, like a recorder; else nothing is given up.

    Raises:
        AudioError: a rate that no recorder has.
        ConfigError: there are no channels, or no standard input.
    """

    def __init__(
        self,
        rate: int,
        channels: int = 1,
        encoding: Encoding = "s16",
        descriptor: int | None = None,
        name: str = STDIN,
        live: bool = True,
    ) -> None:
        check_raw(rate, channels, name)
        if descriptor is None and sys.stdin is None:
            raise ConfigError(f"{name}: found no standard input, expected raw samples there; begin it with a pipe")
        self.live = live
        self.name, self.rate, self.channels, self.encoding = name, rate, channels, SUBTYPES[encoding][0]
        self._coded, self._closed = encoding, False
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor

    def read(self) -> Iterator[Floats | Trouble]:
        """What comes, in whole frames."""
        size, rest = frame_bytes(self._coded, self.channels), b""
        while not self._closed:
            # Not sys.stdin.buffer, whose lock a thread that waits for data would keep as the program ends.
            if os.name == "posix" and not select.select([self._descriptor], [], [], POLL_S)[0]:
                continue
            data = os.read(self._descriptor, PIPE_BYTES)
            if not data:
                break
            data = rest + data
            whole = len(data) - len(data) % size
            rest = data[whole:]
            if whole:
                yield decode(data[:whole], self._coded, self.channels)
        if rest and not self._closed:
            yield Trouble(f"ended with {len(rest)} bytes of a frame of {size}, which were left out")

    def close(self) -> None:
        """Ends within a quarter of a second; where pipes cannot be polled (Windows), when something comes next."""
        self._closed = True
