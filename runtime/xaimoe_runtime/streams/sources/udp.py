"""Raw samples in datagrams."""

from __future__ import annotations

import ipaddress
import logging
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.streams.pcm import SUBTYPES, Encoding, frame_bytes
from xaimoe_runtime.streams.sources.base import POLL_S, Item, check_raw
from xaimoe_runtime.streams.sources.datagrams import DatagramDecoder
from xaimoe_runtime.streams.sources.packets import FixedLayout, Layout
from xaimoe_runtime.streams.sources.senders import SenderFilter, plain_address

LOG = logging.getLogger(__name__)
MAX_DATAGRAM = 65_536
BUFFER_S = 4.0
"""Seconds of samples that the receive buffer is asked to hold."""
MIN_BUFFER_S = 0.5
"""A buffer for less than this has a warning."""
MIN_BUFFER_BYTES = 1 << 20
KERNEL_OVERHEAD = 4
"""Bytes that the kernel charges for a byte of a small datagram."""
IS_LINUX = sys.platform.startswith("linux")
# Constants of <asm-generic/socket.h>, which the module ``socket`` lacks.
SO_RCVBUFFORCE, SO_RXQ_OVFL = 33, 40


class UdpSource:
    """Raw samples in datagrams, each of whole frames.

    Args:
        host: address to listen at; a multicast group is joined.
        port: 0 for any that is free; ``address`` has its number.
        rate: Hz.
        channels: interleaved.
        encoding: of the samples.
        layout: of a datagram; samples alone if None.
        senders: addresses and networks whose datagrams are accepted; all if there are none.
        interface: name or address of the network interface on which a multicast group is joined.
        scheme: of the name.

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
        layout: Layout | None = None,
        senders: Iterable[str] = (),
        interface: str = "",
        scheme: str = "udp",
    ) -> None:
        self.name = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        check_raw(rate, channels, self.name)
        self.rate, self.channels, self.encoding = rate, channels, SUBTYPES[encoding][0]
        self._decoder = DatagramDecoder(rate, channels, encoding, layout or FixedLayout(), SenderFilter(senders))
        self._closed = False
        try:
            self._socket = _listen(host, port, interface)
        except (OSError, OverflowError) as error:
            where = f"{self.name}{f', interface {interface}' if interface else ''}"
            raise ConfigError(f"{where}: cannot listen there ({error}); choose another address or port") from error
        self._size_buffer(rate * frame_bytes(encoding, channels))
        self._socket.settimeout(POLL_S)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def read(self) -> Iterator[Item]:
        """Yield what comes, in order, and what is missing."""
        with self._socket:
            while not self._closed:
                try:
                    data, sender, dropped, truncated = self._receive()
                except TimeoutError:
                    yield from self._decoder.idle(monotonic())
                else:
                    yield from self._decoder.push(data, sender, monotonic(), dropped, truncated)
            yield from self._decoder.finish(monotonic())

    def close(self) -> None:
        """Ends within a quarter of a second."""
        self._closed = True

    def _receive(self) -> tuple[bytes, str, int | None, bool]:
        """Return a datagram, its sender, the kernel's count of dropped ones and whether its end is missing."""
        if not hasattr(self._socket, "recvmsg"):  # Windows
            data, address = self._socket.recvfrom(MAX_DATAGRAM)
            return data, plain_address(address[0]), None, False
        data, ancillary, flags, address = self._socket.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(4))
        dropped = None
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, SO_RXQ_OVFL) and len(content) >= 4:
                (dropped,) = struct.unpack_from("=I", content)
        return data, plain_address(address[0]), dropped, bool(flags & socket.MSG_TRUNC)

    def _size_buffer(self, bytes_per_s: int) -> None:
        """Ask for a receive buffer of some seconds, and for the kernel's count of the datagrams that it drops."""
        size = max(round(BUFFER_S * KERNEL_OVERHEAD * bytes_per_s), MIN_BUFFER_BYTES)
        actual = grow_buffer(self._socket, size)
        enough = MIN_BUFFER_S * KERNEL_OVERHEAD * bytes_per_s
        if actual < enough:
            LOG.warning(
                "%s: found a receive buffer of %d bytes, expected %d for %g s; datagrams may be dropped; raise "
                "net.core.rmem_max, or give the process CAP_NET_ADMIN",
                *(self.name, actual, round(enough), MIN_BUFFER_S),
            )
        if IS_LINUX:
            with suppress(OSError):  # another system's emulation
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)


def grow_buffer(receiver: Any, size: int) -> int:
    """Make a socket's receive buffer larger, and return the bytes that it has then.

    Args:
        receiver: the socket.
        size: bytes, as Linux counts them with its own overhead.
    """

    def actual() -> int:
        return int(receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))

    for option in [socket.SO_RCVBUF, *([SO_RCVBUFFORCE] if IS_LINUX else [])]:
        if actual() < size:
            with suppress(OSError):  # without CAP_NET_ADMIN, or more than the system permits
                # Linux doubles the number that is set, for its overhead, and returns the double.
                receiver.setsockopt(socket.SOL_SOCKET, option, size // 2 if IS_LINUX else size)
    return actual()


def _listen(host: str, port: int, interface: str) -> socket.socket:
    """Return a socket bound to an address; it has joined the group if that is one of multicast.

    Raises:
        ConfigError: an interface is given and the address is no multicast group.
        OSError: the address cannot be listened at.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    group = ipaddress.ip_address(str(address[0]).partition("%")[0])
    if interface and not group.is_multicast:
        raise ConfigError(f"udp://{host}: found iface={interface}, which is for multicast groups; leave it out")
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            with suppress(OSError):  # where a socket is for one family only
                receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if group.is_multicast:
            _join(receiver, group, port, interface, address)
        else:
            receiver.bind(address)
    except BaseException:
        receiver.close()
        raise
    return receiver


def _join(
    receiver: socket.socket,
    group: ipaddress.IPv4Address | ipaddress.IPv6Address,
    port: int,
    interface: str,
    address: tuple[Any, ...],
) -> None:
    """Bind to a multicast group and join it; several programs may do so."""
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if group.version == 6:
        index = socket.if_nametoindex(interface) if interface else int(address[3])
        receiver.bind(("", port) if sys.platform == "win32" else (str(group), port, 0, index))
        request = struct.pack("=16sI", group.packed, index)
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
        return
    # Bound to the group, the socket gets nothing that is sent to other addresses; Windows does not permit that.
    receiver.bind(("", port) if sys.platform == "win32" else (str(group), port))
    try:
        own = ipaddress.IPv4Address(interface or "0.0.0.0")
        request = group.packed + own.packed
    except ValueError:  # a name
        request = struct.pack("=4s4si", group.packed, bytes(4), socket.if_nametoindex(interface))
    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
