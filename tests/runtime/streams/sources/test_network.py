"""Sockets on loopback: datagrams, multicast groups, dropped datagrams, connections."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from xaimoe_runtime import ConfigError
from xaimoe_runtime.streams.sources import Item, Missing, TcpSource, Trouble, UdpSource, open_source
from xaimoe_runtime.streams.sources import tcp as tcp_module
from xaimoe_runtime.streams.sources import udp as udp_module

RATE = 8_000


def samples(value: int, count: int = 100) -> bytes:
    return np.full(count, value, "<i2").tobytes()


def first(items: Iterator[Item], count: int) -> list[int | str]:
    """The next items: the value of a block's first sample, or a message."""
    found: list[int | str] = []
    for item in items:
        if isinstance(item, Trouble):
            found.append(item.message)
        elif isinstance(item, Missing):
            found.append(f"{item.frames} frames missing")
        else:
            found.append(round(float(item[0, 0]) * 32_768))
        if len(found) == count:
            break
    return found


def end(source: UdpSource | TcpSource, items: Iterator[Item]) -> list[Item]:
    source.close()
    return list(items)


# Datagrams -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not udp_module.IS_LINUX, reason="only Linux counts dropped datagrams")
def test_datagrams_that_find_no_room_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp_module, "MIN_BUFFER_BYTES", 1)
    monkeypatch.setattr(udp_module, "BUFFER_S", 0.0)
    source = UdpSource("127.0.0.1", 0, RATE)
    source._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    items = source.read()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for i in range(100):
            sender.sendto(samples(i, 320), source.address)
        found = first(items, 2)
        assert found == [0, 1]
        got = 2
        sender.sendto(samples(999, 320), source.address)  # the drops are counted with what comes after them
        lost = 0
        for item in items:
            if isinstance(item, Missing):
                lost += item.frames
            elif not isinstance(item, Trouble):
                got += 1
                if round(float(item[0, 0]) * 32_768) == 999:
                    break
        rest = end(source, items)
    assert lost == (101 - got) * 320 > 0
    reports = [item.message for item in rest if isinstance(item, Trouble)]
    assert reports and f"the kernel dropped {101 - got}" in reports[-1]


def test_the_receive_buffer_is_enlarged_and_a_small_one_has_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "xaimoe_runtime"):
        source = UdpSource("127.0.0.1", 0, RATE)
        fresh = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        size = source._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert size > fresh.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert caplog.text == ""
        end(source, source.read())
        monkeypatch.setattr(udp_module, "grow_buffer", lambda receiver, size: 4_096)
        source = UdpSource("127.0.0.1", 0, 384_000, 8, "s32")
        end(source, source.read())
    assert "found a receive buffer of 4096 bytes" in caplog.text and "net.core.rmem_max" in caplog.text
    fresh.close()


@pytest.mark.parametrize(("host", "sender"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "127.0.0.1")])
def test_both_families_are_listened_to_and_senders_told_apart(host: str, sender: str) -> None:
    try:
        source = UdpSource(host, 0, RATE, senders=[sender])
    except ConfigError:
        pytest.skip("no IPv6 on this machine")
    family = socket.AF_INET6 if ":" in sender else socket.AF_INET
    items = source.read()
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.sendto(samples(5), (sender, source.address[1]))
        assert first(items, 1) == [5]
    end(source, items)


def test_datagrams_of_other_senders_are_left_out() -> None:
    source = UdpSource("127.0.0.1", 0, RATE, senders=["192.0.2.1"])
    items = source.read()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(samples(5), source.address)
        (message,) = first(items, 1)
    assert message == "1 datagram(s) like one from 127.0.0.1 were left out; expected senders are 192.0.2.1 (--from)"
    assert end(source, items) == []


@pytest.mark.parametrize("interface", ["127.0.0.1", "lo", ""])
def test_a_multicast_group_is_joined(interface: str) -> None:
    group = "239.255.77.77"
    try:
        source = UdpSource(group, 0, RATE, interface=interface)
    except ConfigError as error:
        pytest.skip(f"no multicast on loopback: {error}")
    items = source.read()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        if interface:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        try:
            client.sendto(samples(6), (group, source.address[1]))
        except OSError as error:
            end(source, items)
            pytest.skip(f"no route for multicast: {error}")
        threading.Timer(5, source.close).start() if not interface else None
        assert first(items, 1) == [6]
    end(source, items)


def test_an_ipv6_group_is_joined_on_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[tuple[int, bytes]] = []

    class Recorded(socket.socket):
        def setsockopt(self, level: int, option: int, value: object) -> None:  # type: ignore[override]
            if level == socket.IPPROTO_IPV6 and option == socket.IPV6_JOIN_GROUP:
                joined.append((option, value))  # type: ignore[arg-type]
            else:
                super().setsockopt(level, option, value)  # type: ignore[arg-type]

        def bind(self, address: object) -> None:
            super().bind(("::1", 0))

    monkeypatch.setattr(socket, "socket", Recorded)
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: {"eth7": 7}[name])
    try:
        source = UdpSource("ff02::77", 5_004, RATE, interface="eth7")
    except ConfigError:
        pytest.skip("no IPv6 on this machine")
    end(source, source.read())
    ((_, request),) = joined
    assert request == socket.inet_pton(socket.AF_INET6, "ff02::77") + (7).to_bytes(4, sys.byteorder)


def test_an_interface_is_for_groups_and_must_be_there() -> None:
    with pytest.raises(ConfigError, match="iface=lo, which is for multicast groups"):
        UdpSource("127.0.0.1", 0, RATE, interface="lo")
    with pytest.raises(ConfigError, match="interface none-such: cannot listen there"):
        UdpSource("239.255.77.77", 0, RATE, interface="none-such")


def test_a_port_in_use_is_an_error() -> None:
    source = UdpSource("127.0.0.1", 0, RATE)
    with pytest.raises(ConfigError, match="choose another address or port"):
        UdpSource("127.0.0.1", source.address[1], RATE)
    end(source, source.read())


# Connections ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_module, "RETRY_S", 0.05)


def test_a_server_is_connected_to_and_again_when_it_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = TcpSource("127.0.0.1", server.getsockname()[1], RATE, 2, "s24be")

        def serve() -> None:
            for value in (1, 2):
                connection, _ = server.accept()
                with connection:
                    data = (value << 16).to_bytes(3, "big") * 20
                    connection.sendall(data[:31])
                    time.sleep(0.05)
                    connection.sendall(data[31:] + b"xy")  # and a frame that is not complete

        thread = threading.Thread(target=serve)
        thread.start()
        items, got, gaps = source.read(), list[float](), list[str]()
        for item in items:
            if isinstance(item, Trouble):
                assert item.gap
                gaps.append(item.message)
                if len(gaps) == 2:
                    break
            elif not isinstance(item, Missing):
                got += (item[:, 0] * 128).tolist()
        thread.join()
    assert got == [1.0] * 10 + [2.0] * 10
    assert gaps == ["the connection ended; tried again every 0.05 s"] * 2
    end(source, items)


def test_a_server_that_is_away_is_reported_once_and_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = TcpSource("127.0.0.1", port, RATE)
    items = source.read()
    (message,) = first(items, 1)
    assert isinstance(message, str) and "cannot connect" in message and "tried again every" in message
    server: list[socket.socket] = []

    def appear() -> None:
        time.sleep(0.3)
        server.append(socket.create_server(("127.0.0.1", port)))
        connection, _ = server[0].accept()
        with connection:
            connection.sendall(samples(3))

    thread = threading.Thread(target=appear)
    thread.start()
    assert first(items, 1) == [3]
    thread.join()
    server[0].close()
    end(source, items)


def test_clients_are_accepted_one_after_the_other() -> None:
    source = open_source("tcp://127.0.0.1:0?listen", RATE)
    assert isinstance(source, TcpSource) and source.name == "tcp://127.0.0.1:0?listen"
    items = source.read()
    for value in (1, 2):
        with socket.create_connection(source.address, 5) as client:
            client.sendall(samples(value))
            assert first(items, 1) == [value]
        assert first(items, 1) == ["the connection ended; another one is waited for"]
    end(source, items)


def test_clients_of_other_addresses_are_refused() -> None:
    source = TcpSource("127.0.0.1", 0, RATE, listen=True, senders=["192.0.2.0/24"])
    items = source.read()
    with socket.create_connection(source.address, 5) as client:
        (message,) = first(items, 1)
        assert (
            message
            == "1 connection(s) like one from 127.0.0.1 were refused; expected senders are 192.0.2.0/24 (--from)"
        )
        assert client.recv(10) == b""
    end(source, items)


def test_a_client_that_sends_a_file_is_refused_and_others_are_not() -> None:
    source = TcpSource("127.0.0.1", 0, RATE, listen=True)
    items = source.read()
    with socket.create_connection(source.address, 5) as client:
        client.sendall(b"fLaC" + bytes(100))
        (message,) = first(items, 1)
        assert "found a FLAC file, expected raw samples" in str(message)
    with socket.create_connection(source.address, 5) as client:
        client.sendall(samples(4))
        assert first(items, 1) == [4]
    end(source, items)


def test_a_silent_connection_can_be_closed() -> None:
    source = TcpSource("127.0.0.1", 0, RATE, listen=True)
    thread = threading.Thread(target=lambda: list(source.read()))
    thread.start()
    with socket.create_connection(source.address, 5):
        time.sleep(0.1)
        source.close()
        thread.join(3)
    assert not thread.is_alive()


def test_an_address_that_cannot_be_listened_at_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot listen there"):
        TcpSource("203.0.113.1", 5_000, RATE, listen=True)
