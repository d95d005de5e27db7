"""Records for an MQTT broker."""

from __future__ import annotations

import os
from contextlib import suppress
from time import monotonic, sleep
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from xaimoe_runtime.errors import ConfigError, ProviderError
from xaimoe_runtime.records import Record
from xaimoe_runtime.streams.outlets import Warn

QUEUE = 10_000
"""Records that wait for a broker that is away; further ones are lost, and counted."""
PASSWORD = "XAIMOE_MQTT_PASSWORD"
FAREWELL_S = 5.0
"""Seconds that a broker is given to take the last records."""
QOS = 1
"""Of MQTT: each record arrives, some perhaps twice."""


class Mqtt:
    """Publishes each record as JSON under ``TOPIC/KIND``; ``TOPIC/status`` is ``online`` or ``offline``.

    A broker that is away is tried again, after a second at first and then after up to half a minute; meanwhile records
    wait, up to ``QUEUE``.

    Args:
        url: ``mqtt://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC``, or ``mqtts://`` for TLS. The password may be in the
            variable XAIMOE_MQTT_PASSWORD instead, where other users do not see it.
        warn: tells of connections that come and go.

    Raises:
        ConfigError: the URL makes no sense.
        ProviderError: the package ``paho-mqtt`` is missing.
    """

    def __init__(self, url: str, warn: Warn, queue: int = QUEUE) -> None:
        host, port, topic, user, password, secure = _address(url)
        try:
            from paho.mqtt import client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise ProviderError('--mqtt needs paho-mqtt; run: pip install "xai-moe-audio[live]"') from error
        self.topic, self.warn, self.lost, self._full = topic, warn, 0, mqtt.MQTT_ERR_QUEUE_SIZE
        self._ours: set[int] = set()
        """Messages that the broker has not acknowledged."""
        self.client = client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(queue)
        client.reconnect_delay_set(1, 30)
        client.will_set(f"{topic}/status", "offline", QOS, retain=True)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_publish = self._published
        client.on_connect_fail = lambda *_: self.warn(f"mqtt: {host}:{port} does not answer; it is tried again")
        if user is not None:
            client.username_pw_set(user, os.environ.get(PASSWORD, password))
        if secure:
            client.tls_set()
        client.connect_async(host, port)
        client.loop_start()

    def send(self, record: Record) -> None:
        """Publishes a record, now or once the broker is there."""
        content = msgspec.json.encode(record)
        kind = str(type(record).__struct_config__.tag)
        published = self.client.publish(f"{self.topic}/{kind}", content, QOS)
        if published.rc == self._full:
            self.lost += 1
            if self.lost == 1:
                self.warn("mqtt: too many records wait for the broker; further ones are lost")
        else:
            self._ours.add(published.mid)

    def close(self) -> None:
        """Waits a few seconds for the broker to take what waits, and says good-bye."""
        end = monotonic() + FAREWELL_S
        while self.client.is_connected() and self._ours and monotonic() < end:
            sleep(0.02)
        if self.client.is_connected():
            with suppress(ValueError, RuntimeError):  # the queue is full, or the broker has just gone
                self.client.publish(f"{self.topic}/status", "offline", retain=True).wait_for_publish(FAREWELL_S)
        self.lost += len(self._ours)
        self.client.disconnect()
        self.client.loop_stop()

    def _connected(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.warn(f"mqtt: the broker refuses ({reason}); it is tried again")
        else:
            # Not QoS 1, for which there is no room after an outage that filled the queue.
            client.publish(f"{self.topic}/status", "online", retain=True)

    def _published(self, _client: Any, _data: Any, message: int, _reason: Any, _properties: Any) -> None:
        self._ours.discard(message)

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self.warn(f"mqtt: the broker went away ({reason}); records wait for it")


def _address(url: str) -> tuple[str, int, str, str | None, str | None, bool]:
    """Host, port, topic, user, password and whether TLS is wanted."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"--mqtt: {error}; expected mqtt://HOST[:PORT]/TOPIC") from error
    topic = unquote(parts.path).strip("/")
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic or "#" in url or "+" in topic:
        raise ConfigError(
            f"--mqtt: found {parts.scheme}://{parts.hostname or ''}/{topic}, expected mqtt://HOST[:PORT]/TOPIC or "
            "mqtts://…, with a topic without + and #"
        )
    secure = parts.scheme == "mqtts"
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return parts.hostname, port or (8883 if secure else 1883), topic, user, password, secure
