"""Where records go: files on full disks, brokers that are away, Prometheus, systemd."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from xaimoe_runtime import ConfigError, Listener, ProviderError, Runtime
from xaimoe_runtime.records import ErrorRecord
from xaimoe_runtime.streams.mqtt import Mqtt
from xaimoe_runtime.streams.outlets import FileLines
from xaimoe_runtime.streams.prometheus import serve
from xaimoe_runtime.streams.service import Systemd, use_fifo

Floats = NDArray[np.float32]
BROKER = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def record(i: int = 0) -> ErrorRecord:
    return ErrorRecord(source="made", error="Odd", message=f"number {i}")


def numbers(lines: list[bytes]) -> list[int]:
    return [int(json.loads(line)["message"].split()[-1]) for line in lines]


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# Files ---------------------------------------------------------------------------------------------------------------


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.jsonl"
    for i in range(2):
        outlet = FileLines(path, print)
        outlet.send(record(i))
        outlet.close()
    assert numbers(path.read_bytes().splitlines()) == [0, 1]
    assert json.loads(path.read_bytes().splitlines()[0]) == {
        "kind": "error",
        "source": "made",
        "error": "Odd",
        "message": "number 0",
    }


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_costs_records_and_is_told_once() -> None:
    told: list[str] = []
    outlet = FileLines(Path("/dev/full"), told.append)
    for i in range(3):
        outlet.send(record(i))
    assert outlet.lost == 3
    assert len(told) == 1 and "No space left" in told[0]


def test_no_line_is_cut_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    outlet = FileLines(tmp_path / "a.jsonl", told.append)
    outlet.send(record(0))
    real, room = outlet._file, SimpleNamespace(left=10)

    class Full:
        """A disk with room for ten bytes more."""

        def write(self, line: bytes) -> int:
            written = real.write(line[: room.left])
            return written if written is not None else 0

        def close(self) -> None:
            """Stays open: the disk is still the same."""

        def __getattr__(self, name: str) -> object:
            return getattr(real, name)

    outlet._file = Full()
    monkeypatch.setattr(outlet, "_open", lambda: None)
    outlet.send(record(1))
    outlet.send(record(2))
    room.left = 1000
    outlet.send(record(3))
    outlet.close()
    assert numbers((tmp_path / "a.jsonl").read_bytes().splitlines()) == [0, 3]
    assert outlet.lost == 2
    assert [("cannot be written" in told[0]), ("2 records were lost" in told[1])] == [True, True]


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    outlet = FileLines(tmp_path / "a.jsonl", print)
    outlet.send(record(0))
    (tmp_path / "a.jsonl").rename(tmp_path / "a.jsonl.1")
    outlet.send(record(1))
    outlet.close()
    assert numbers((tmp_path / "a.jsonl.1").read_bytes().splitlines()) == [0]
    assert numbers((tmp_path / "a.jsonl").read_bytes().splitlines()) == [1]


def test_half_a_line_is_not_joined_with_the_next(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"kind":"err')
    outlet = FileLines(tmp_path / "a.jsonl", print)
    outlet.send(record(0))
    outlet.close()
    assert numbers((tmp_path / "a.jsonl").read_bytes().splitlines()[1:]) == [0]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        FileLines(tmp_path / "file" / "a.jsonl", print)


# MQTT ----------------------------------------------------------------------------------------------------------------


class Broker:
    """A real mosquitto on loopback, which can be ended and begun again, and a listener that remembers."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\n"
            + ("user root\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else "")
        )
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        assert BROKER is not None
        self.process = subprocess.Popen(
            [BROKER, "-c", str(self.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert within(10, self._answers)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if BROKER is None:
        pytest.skip("mosquitto is not installed")
    found = Broker(tmp_path)
    yield found
    found.end()


def subscriber(port: int) -> tuple[object, list[tuple[str, bytes]]]:
    from paho.mqtt import client as mqtt
    from paho.mqtt.enums import CallbackAPIVersion

    got: list[tuple[str, bytes]] = []
    # The broker keeps what comes while it is away, as it itself may be.
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "test", clean_session=False)
    client.on_message = lambda _client, _data, message: got.append((message.topic, message.payload))
    known: list[int] = []
    client.on_connect = lambda client, *_: client.subscribe("sonar/#", 1)
    client.on_subscribe = lambda *_: known.append(1)
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert within(10, lambda: bool(known))
    return client, got


def records_of(got: list[tuple[str, bytes]]) -> list[int]:
    return numbers([payload for topic, payload in got if topic == "sonar/buoy/error"])


def test_records_reach_a_real_broker(broker: Broker) -> None:
    broker.begin()
    client, got = subscriber(broker.port)
    outlet = Mqtt(f"mqtt://127.0.0.1:{broker.port}/sonar/buoy", print)
    assert within(5, lambda: ("sonar/buoy/status", b"online") in got)
    for i in range(20):
        outlet.send(record(i))
    outlet.close()
    assert within(5, lambda: ("sonar/buoy/status", b"offline") in got)
    assert records_of(got) == list(range(20))
    assert outlet.lost == 0
    client.loop_stop()  # type: ignore[attr-defined]


def test_records_wait_for_a_broker_that_is_away(broker: Broker) -> None:
    broker.begin()
    client, got = subscriber(broker.port)
    broker.end()
    told: list[str] = []
    outlet = Mqtt(f"mqtt://127.0.0.1:{broker.port}/sonar/buoy", told.append)
    for i in range(5):
        outlet.send(record(i))
    assert within(5, lambda: any("refuses connections" in text for text in told))
    broker.begin()
    assert within(15, lambda: records_of(got) == [0, 1, 2, 3, 4])
    broker.end()
    assert within(5, lambda: any("went away" in text for text in told))
    for i in range(5, 8):
        outlet.send(record(i))
    broker.begin()
    assert within(15, lambda: set(records_of(got)) == set(range(8)))
    outlet.close()
    client.loop_stop()  # type: ignore[attr-defined]
    assert outlet.lost == 0


def test_no_more_records_wait_than_there_is_room_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told: list[str] = []
    outlet = Mqtt(f"mqtt://127.0.0.1:{port}/sonar", told.append, queue=3)
    for i in range(10):
        outlet.send(record(i))
    assert outlet.lost == 7
    assert sum("further ones are lost" in text for text in told) == 1
    start = time.monotonic()
    outlet.close()
    assert time.monotonic() - start < 10
    assert outlet.lost == 10  # what waits for a broker that never came is lost, too


@pytest.mark.parametrize(
    "url", ["http://host/topic", "mqtt://host", "mqtt:///topic", "mqtt://host/a/#", "mqtt://host:99999/a"]
)
def test_urls_that_make_no_sense_are_refused_without_their_password(url: str) -> None:
    with pytest.raises(ConfigError, match="mqtt://HOST"):
        Mqtt(url, print)
    with pytest.raises(ConfigError) as caught:
        Mqtt(url.replace("://", "://user:secret@"), print)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("module", ["paho.mqtt", "prometheus_client"])
def test_without_a_package_it_is_said_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ProviderError, match=r"xai-moe-audio\[live\]"):
        if module == "prometheus_client":
            serve(Listener(runtime, Silent()), "0")
        else:
            Mqtt("mqtt://127.0.0.1/sonar", print)


# Prometheus ----------------------------------------------------------------------------------------------------------


class Silent:
    """A source of one second of noise."""

    name, rate, channels, encoding, live = "silent", 16_000, 1, "", False

    def read(self) -> Iterator[Floats]:
        yield np.random.default_rng(0).normal(0, 0.1, (48_000, 1)).astype(np.float32)

    def close(self) -> None:
        pass


def test_prometheus_gets_the_figures(runtime: Runtime) -> None:
    listener = Listener(runtime, Silent())
    server = serve(listener, "0")
    try:

        def scraped() -> dict[str, float]:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}

        assert scraped()["xaimoe_windows_total"] == 0
        (summary,) = list(listener.records())[-1:]
        found = scraped()
        assert found["xaimoe_windows_total"] == summary.windows > 0  # type: ignore[union-attr]
        assert found["xaimoe_audio_seconds_total"] == pytest.approx(3, abs=0.1)
        assert found["xaimoe_window_seconds_count"] == summary.windows  # type: ignore[union-attr]
        assert 0 < found["xaimoe_window_p50_seconds"] < 1
        assert found["xaimoe_source_up"] == 1
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("address", ["here", "127.0.0.1:", "127.0.0.1:99999", "203.0.113.1:0"])
def test_addresses_that_cannot_be_served_are_refused(runtime: Runtime, address: str) -> None:
    with pytest.raises(ConfigError, match="--prometheus"):
        serve(Listener(runtime, Silent()), address)


# systemd -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets on this system")
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0.2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        systemd = Systemd()
        systemd.ready()
        assert manager.recv(100) == b"READY=1"
        clock = [100.0]
        monkeypatch.setattr("xaimoe_runtime.streams.service.monotonic", lambda: clock[0])
        for _ in range(5):
            systemd.alive()
        assert manager.recv(100) == b"WATCHDOG=1"
        with pytest.raises(TimeoutError):
            manager.recv(100)
        clock[0] += 0.11
        systemd.alive()
        assert manager.recv(100) == b"WATCHDOG=1"
        systemd.stopping()
        assert manager.recv(100) == b"STOPPING=1"
    systemd.alive()  # nobody listens


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    systemd = Systemd()
    systemd.ready()
    systemd.alive()
    systemd.stopping()


def test_fifo_that_is_not_permitted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refused, raising=False)
    with pytest.raises(ConfigError, match=r"SCHED_FIFO with priority 50 is not permitted.*CAP_SYS_NICE"):
        use_fifo(50)
