"""Raw samples from a pipe."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator

from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.streams.pcm import SUBTYPES, Encoding
from xaimoe_runtime.streams.sources.base import POLL_S, Item, Trouble, check_raw
from xaimoe_runtime.streams.sources.bytestream import ByteStream

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

    def read(self) -> Iterator[Item]:
        """Yield what comes, in whole frames.

        Raises:
            AudioError: it begins with the header of a file whose samples are others than expected.
        """
        stream, header = ByteStream(self.rate, self.channels, self._coded), ""
        try:
            while not self._closed:
                # Not sys.stdin.buffer, whose lock a thread that waits for data would keep as the program ends.
                if os.name == "posix" and not select.select([self._descriptor], [], [], POLL_S)[0]:
                    continue
                data = os.read(self._descriptor, PIPE_BYTES)
                if not data:
                    break
                if len(samples := stream.push(data)):
                    yield samples
                if stream.header != header:
                    header = stream.header
                    yield Trouble(f"found a WAV header ({header}), which was skipped")
            if len(samples := stream.finish()):
                yield samples
        except AudioError as error:
            raise AudioError(f"{self.name}: {error}") from error
        if stream.rest and not self._closed:
            yield Trouble(f"ended with {len(stream.rest)} bytes of a frame of {stream.size}, which were left out")
        if stream.surplus and not self._closed:
            yield Trouble(f"found {stream.surplus} bytes after the samples of the WAV file, which were left out")

    def close(self) -> None:
        """Ends within a quarter of a second; where pipes cannot be polled (Windows), when something comes next."""
        self._closed = True
