"""Which senders a network source accepts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from xaimoe_runtime.errors import ConfigError

MAX_CACHED = 1024
"""Senders whose answer is remembered."""


class SenderFilter:
    """Tell the senders that are accepted from others.

    Args:
        senders: addresses or networks, as ``192.168.1.20`` or ``fd00::/64``; if there are none, all are accepted.

    Raises:
        ConfigError: one of them is neither.
    """

    def __init__(self, senders: Iterable[str] = ()) -> None:
        self.senders = tuple(senders)
        self._known: dict[str, bool] = {}
        try:
            self._networks = [ipaddress.ip_network(sender, strict=False) for sender in self.senders]
        except ValueError as error:
            raise ConfigError(
                f"--from: {error}; expected an address or a network, as 192.168.1.20 or 192.168.1.0/24"
            ) from error

    def accepts(self, sender: str) -> bool:
        """Return whether an address is accepted."""
        if not self._networks:
            return True
        if sender not in self._known:
            if len(self._known) >= MAX_CACHED:
                self._known.clear()
            address = ipaddress.ip_address(sender.partition("%")[0])
            self._known[sender] = any(address in network for network in self._networks)
        return self._known[sender]

    def __str__(self) -> str:
        return ", ".join(self.senders)


def plain_address(address: str) -> str:
    """Return an address as IPv4 if it is one that an IPv6 socket shows."""
    prefix = "::ffff:"
    return address[len(prefix) :] if address.startswith(prefix) and "." in address else address
