"""Raw samples in datagrams."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.streams.pcm import SUBTYPES, Encoding, decode, frame_bytes
from xaimoe_runtime.streams.sources.base import POLL_S, Floats, Trouble, check_raw

TELL_S = 1.0
"""Seconds from one report of odd datagrams to the next."""
LARGEST_DATAGRAM = 65_536


class UdpSource:
    """Raw samples in datagrams, each of whole frames.

    Args:
        host: address to listen at.
        port: 0 for any that is free; ``address`` tells which.
        rate: Hz.
        channels: interleaved.
        encoding: of the samples.

    Raises:
        AudioError: a rate that no recorder has.
        ConfigError: the address cannot be listened at.
    """

    live = True

    def __init__(self, host: str, port: int, rate: int, channels: int = 1, encoding: Encoding = "s16") -> None:
        self.name = f"udp://{host}:{port}"
        check_raw(rate, channels, self.name)
        self.rate, self.channels, self.encoding = rate, channels, SUBTYPES[encoding][0]
        self._coded, self._closed = encoding, False
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{self.name}: cannot listen there ({error}); choose another address or port") from error
        self._socket.settimeout(POLL_S)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def read(self) -> Iterator[Floats | Trouble]:
        """What comes. Datagrams that are no whole frames are trouble, of which is told once a second."""
        size, odd, told = frame_bytes(self._coded, self.channels), 0, 0.0
        with self._socket:
            while not self._closed:
                try:
                    data, sender = self._socket.recvfrom(LARGEST_DATAGRAM)
                except TimeoutError:
                    continue
                if not data or len(data) % size:
                    odd += 1
                    if time.monotonic() - told >= TELL_S:
                        what = f"found {odd} datagram(s) like one of {len(data)} bytes from {sender[0]}"
                        yield Trouble(f"{what}, expected whole frames of {size} bytes; left out")
                        odd, told = 0, time.monotonic()
                else:
                    yield decode(data, self._coded, self.channels)

    def close(self) -> None:
        """Ends within a quarter of a second."""
        self._closed = True
