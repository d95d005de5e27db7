"""Raw samples over a TCP connection."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from time import monotonic, sleep

from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.streams.pcm import SUBTYPES, Encoding
from xaimoe_runtime.streams.sources.base import POLL_S, REPORT_S, Item, Trouble, check_raw
from xaimoe_runtime.streams.sources.bytestream import ByteStream
from xaimoe_runtime.streams.sources.senders import SenderFilter, plain_address
from xaimoe_runtime.streams.throttle import Throttle

RETRY_S = 5.0
"""Seconds after which a connection that failed or ended is tried again."""
CONNECT_S = 5.0
"""Seconds that a server may take to accept a connection."""
READ_BYTES = 65_536
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds of silence before the peer is probed, seconds between probes, and probes without an answer after which the
connection counts as broken: a recorder whose power fails never ends its connection."""


class TcpSource:
    """Raw samples from a server, or from clients, one at a time; a connection that ends is waited for.

    Args:
        host: of the server, or the address to listen at.
        port: likewise; 0 to listen at any that is free; ``address`` has its number.
        rate: Hz.
        channels: interleaved.
        encoding: of the samples.
        listen: wait for clients rather than connect to a server.
        senders: addresses and networks whose connections are accepted; all if there are none.

    Raises:
        AudioError: a rate that no recorder has.
        ConfigError: the address cannot be listened at.
    """

    live = True

    def __init__(
        self,
        host: str,
        port: int,
        rate: int,
        channels: int = 1,
        encoding: Encoding = "s16",
        *,
        listen: bool = False,
        senders: Iterable[str] = (),
    ) -> None:
        where = f"[{host}]" if ":" in host else host
        self.name = f"tcp://{where}:{port}{'?listen' if listen else ''}"
        check_raw(rate, channels, self.name)
        self.rate, self.channels, self.encoding = rate, channels, SUBTYPES[encoding][0]
        self.address: tuple[str, int] = (host, port)
        self._coded: Encoding = encoding
        self._senders, self._foreign, self._foreign_example = SenderFilter(senders), Throttle(REPORT_S), ""
        self._failure = ""  # the one that was reported last, as long as nothing came since
        self._header = ""  # of a WAV file, that was reported
        self._closed = False
        self._listener = self._listen() if listen else None

    def read(self) -> Iterator[Item]:
        """Yield what comes, connection after connection."""
        with ExitStack() as stack:
            if self._listener is not None:
                stack.enter_context(self._listener)
            while not self._closed:
                try:
                    connection = self._connect()
                except OSError as error:
                    yield from self._fail(f"cannot connect ({error})")
                    self._wait()
                    continue
                if count := self._foreign.due(monotonic()):
                    what = f"{count} connection(s) like one from {self._foreign_example} were refused"
                    yield Trouble(f"{what}; expected senders are {self._senders} (--from)")
                if connection is not None:
                    with connection:
                        yield from self._receive(connection)
                    self._wait()

    def close(self) -> None:
        """Ends soon: within the seconds that a connection may take."""
        self._closed = True

    def _listen(self) -> socket.socket:
        host, port = self.address
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
            listener = socket.create_server((host, port), family=family, backlog=1, dualstack_ipv6=dual)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{self.name}: cannot listen there ({error}); choose another address or port") from error
        listener.settimeout(POLL_S)
        self.address = listener.getsockname()[:2]
        return listener

    def _connect(self) -> socket.socket | None:
        """Return a connection; None if no client came, or one that is not accepted."""
        if self._listener is None:
            return socket.create_connection(self.address, CONNECT_S)
        try:
            connection, address = self._listener.accept()
        except TimeoutError:
            return None
        sender = plain_address(address[0])
        if self._senders.accepts(sender):
            return connection
        connection.close()
        self._foreign.add()
        self._foreign_example = sender
        return None

    def _receive(self, connection: socket.socket) -> Iterator[Item]:
        """Yield the samples of one connection, and why it ended."""
        connection.settimeout(POLL_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        stream, reason = ByteStream(self.rate, self.channels, self._coded), "the connection ended"
        try:
            while not self._closed:
                try:
                    data = connection.recv(READ_BYTES)
                except TimeoutError as error:
                    if error.errno is not None:  # keepalive found the peer gone; else nothing came for POLL_S
                        raise
                    continue
                if not data:
                    break
                if len(samples := stream.push(data)):
                    self._failure = ""
                    yield samples
                if stream.header and not self._header:
                    self._header = stream.header
                    yield Trouble(f"found a WAV header ({stream.header}), which was skipped; send raw samples")
            if len(samples := stream.finish()):
                yield samples
        except AudioError as error:
            reason = str(error)
        except OSError as error:
            reason = f"the connection broke ({error})"
        if not self._closed:
            yield from self._fail(reason)

    def _fail(self, reason: str) -> Iterator[Trouble]:
        """Yield the report of a failure, once as long as it stays the same."""
        if reason != self._failure:
            again = "another one is waited for" if self._listener is not None else f"tried again every {RETRY_S:g} s"
            yield Trouble(f"{reason}; {again}", gap=True)
        self._failure = reason

    def _wait(self) -> None:
        """Wait before the next attempt; a client that comes is never kept waiting."""
        until = monotonic() + RETRY_S
        while self._listener is None and not self._closed and monotonic() < until:
            sleep(min(POLL_S, RETRY_S))
