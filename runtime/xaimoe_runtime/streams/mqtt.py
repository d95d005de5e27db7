"""Records for an MQTT broker."""

from __future__ import annotations

import os
import socket
import ssl
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from xaimoe_runtime.errors import ConfigError, ProviderError
from xaimoe_runtime.records import Record
from xaimoe_runtime.streams.outlets import Warn

QUEUE = 10_000
"""Records that wait for a broker that is away; further ones are lost, and counted."""
USER, PASSWORD = "XAIMOE_MQTT_USER", "XAIMOE_MQTT_PASSWORD"
KEY_PASSWORD = "XAIMOE_MQTT_KEY_PASSWORD"
FAREWELL_S = 5.0
"""Seconds that a broker is given to take the last records."""
QOS = 1
"""Of MQTT: each record arrives, some perhaps twice."""
MAX_TOPIC_BYTES = 65_535
RESERVED_TOPIC_BYTES = 16
"""For the last part of a topic, as ``/summary``."""
REFUSALS = {
    "Bad user name or password": f"see the user and the password ({USER}, {PASSWORD})",
    "Not authorized": f"see the user and the password ({USER}, {PASSWORD}), and what the broker permits them",
    "Unsupported protocol version": "the broker knows no MQTT 3.1.1",
    "Client identifier not valid": "the broker refuses clients without an identifier of their own",
    "Server unavailable": "the broker is not ready",
}
"""What to do, by the reason that the broker gives (the return code of CONNACK)."""


class Mqtt:
    """Publishes each record as JSON under ``TOPIC/KIND``; ``TOPIC/status`` is ``online`` or ``offline``.

    A broker that is away is tried again, after a second at first and then after up to half a minute; meanwhile records
    wait, up to ``QUEUE``.

    Args:
        url: ``mqtt://[USER[:PASSWORD]@]HOST[:PORT]/TOPIC``, or ``mqtts://`` for TLS. User and password may be in the
            variables XAIMOE_MQTT_USER and XAIMOE_MQTT_PASSWORD instead, where other users do not see them.
        warn: tells of connections that come and go.
        queue: records that may wait.
        ca: file with the authorities that may sign the broker's certificate; the system's if None.
        certificate: file with the client's certificate.
        key: file with its private key; that of the certificate if None.

    Raises:
        ConfigError: the URL or the topic makes no sense, or a certificate cannot be used.
        ProviderError: the package ``paho-mqtt`` is missing.
    """

    def __init__(
        self,
        url: str,
        warn: Warn,
        queue: int = QUEUE,
        *,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        address = Address.parse(url)
        context = _tls(address, ca, certificate, key)
        try:
            from paho.mqtt import client as mqtt
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise ProviderError('--mqtt needs paho-mqtt; run: pip install "xai-moe-audio[live]"') from error
        self.topic, self.warn, self.lost, self._full = address.topic, warn, 0, mqtt.MQTT_ERR_QUEUE_SIZE
        self._address = address
        self._problem = ""  # the one that was reported last
        self._was_accepted = False  # by the broker, once
        self._log = ""  # the last error of the connection
        self._ours: set[int] = set()
        """Messages that the broker has not acknowledged."""
        self.client = client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.max_queued_messages_set(queue)
        client.reconnect_delay_set(1, 30)
        client.will_set(f"{self.topic}/status", "offline", QOS, retain=True)
        client.on_connect, client.on_disconnect = self._connected, self._disconnected
        client.on_publish = self._published
        client.on_connect_fail = self._unreachable
        client.on_log = self._logged
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if context is not None:
            client.tls_set_context(context)
        client.connect_async(address.host, address.port)
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
        # A connection that has not failed yet may still be on its way: a short recording ends sooner.
        while self._ours and (self.client.is_connected() or not self._problem) and monotonic() < end:
            sleep(0.02)
        if self.client.is_connected():
            with suppress(ValueError, RuntimeError):  # the queue is full, or the broker has just gone
                self.client.publish(f"{self.topic}/status", "offline", retain=True).wait_for_publish(FAREWELL_S)
        self.lost += len(self._ours)
        self.client.disconnect()
        self.client.loop_stop()

    def _connected(self, client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            advice = REFUSALS.get(str(reason), "")
            self._report(f"refuses the connection: {reason}{f'; {advice}' if advice else ''}")
        else:
            self._problem, self._was_accepted = "", True
            # Not QoS 1, for which there is no room after an outage that filled the queue.
            client.publish(f"{self.topic}/status", "online", retain=True)

    def _unreachable(self, _client: Any, _data: Any) -> None:
        # paho-mqtt calls this while it handles the exception, which it does not pass on.
        self._report(describe_failure(sys.exc_info()[1], self._address))

    def _published(self, _client: Any, _data: Any, message: int, _reason: Any, _properties: Any) -> None:
        self._ours.discard(message)

    def _disconnected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            detail = f"; {self._log}" if self._log else ""
            if self._was_accepted:
                self._report(f"went away ({reason}{detail}); records wait for it")
            else:
                hint = (
                    "wants a client's certificate (--mqtt-cert)" if self._address.is_secure else "wants TLS (mqtts://)"
                )
                self._report(f"ended the connection before it was accepted ({reason}{detail}); see whether it {hint}")
        self._log = ""

    def _logged(self, _client: Any, _data: Any, level: int, text: str) -> None:
        from paho.mqtt.enums import LogLevel

        if level == LogLevel.MQTT_LOG_ERR:
            self._log = text

    def _report(self, problem: str) -> None:
        """Warn of a problem, once as long as it stays the same."""
        if problem != self._problem:
            self.warn(f"mqtt: {self._address} {problem}; it is tried again")
        self._problem = problem


@dataclass(frozen=True)
class Address:
    """Where records are published, and as whom."""

    host: str
    port: int
    topic: str
    is_secure: bool
    """Whether TLS is used."""
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the address in a URL, with what the environment says of user and password.

        Raises:
            ConfigError: the URL, or the topic in it, makes no sense.
        """
        part = "the URL"  # in messages, since the URL may hold a password
        try:
            parts = urlsplit(url)
            part = "the port"
            port = parts.port
            part = "the host name"
            host = (parts.hostname or "").encode("idna").decode()  # as the resolver will do
            part = "the topic"
            topic = unquote(parts.path, errors="strict").strip("/")
        except ValueError as error:
            raise ConfigError(f"--mqtt: {part} is not valid; expected mqtt://HOST[:PORT]/TOPIC, in UTF-8") from error
        if parts.scheme not in ("mqtt", "mqtts") or not host or port == 0:
            raise ConfigError(
                f"--mqtt: found {parts.scheme}://{parts.hostname or ''}, expected mqtt://HOST[:PORT]/TOPIC or mqtts://…"
            )
        if parts.query or parts.fragment or url.endswith(("?", "#")):
            raise ConfigError(
                f"--mqtt: found ? or # after the topic {topic}, expected mqtt://HOST[:PORT]/TOPIC; write a question "
                "mark in a topic as %3F"
            )
        check_topic(topic)
        user = os.environ.get(USER) if parts.username is None else unquote(parts.username)
        own = None if parts.password is None else unquote(parts.password)
        password = os.environ.get(PASSWORD, own)
        if password is not None and not user:
            raise ConfigError(
                f"--mqtt: found a password ({PASSWORD}) without a user; set {USER}, or give mqtt://USER@HOST/TOPIC"
            )
        is_secure = parts.scheme == "mqtts"
        return cls(host, port or (8883 if is_secure else 1883), topic, is_secure, user or None, password)


def check_topic(topic: str) -> None:
    """Check that records can be published under a topic.

    Raises:
        ConfigError: it is empty or too long, has wildcards or characters that MQTT does not permit, or is the broker's.
    """
    reason = ""
    if not topic:
        reason = "no topic"
    elif set(topic) & {"+", "#"}:
        reason = "a topic with a wildcard (+ or #)"
    elif any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in topic):
        reason = "a topic with a control character"
    elif topic.startswith("$"):
        reason = "a topic that begins with $, which only the broker itself may publish under"
    elif (size := len(topic.encode())) > MAX_TOPIC_BYTES - RESERVED_TOPIC_BYTES:
        reason = f"a topic of {size} bytes, over {MAX_TOPIC_BYTES - RESERVED_TOPIC_BYTES}"
    if reason:
        raise ConfigError(f"--mqtt: found {reason}, expected mqtt://HOST[:PORT]/TOPIC with a plain topic")


def describe_failure(error: BaseException | None, address: Address) -> str:
    """Return why a broker cannot be reached, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message or str(error)
        return f"has a certificate that is not trusted ({why}); give its authority with --mqtt-ca"
    if isinstance(error, ssl.SSLError):
        hint = "mqtts:// is for the broker's port with TLS, 8883 mostly"
        return f"does not speak TLS as expected ({getattr(error, 'reason', None) or error}); {hint}"
    if isinstance(error, socket.gaierror):
        return f"cannot be reached: the host name cannot be resolved ({error.strerror}); see the name and the network"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections; see whether a broker listens at that port"
    if isinstance(error, TimeoutError):
        return "does not answer in time; see the address and firewalls"
    hint = " during TLS; see whether it wants a client's certificate (--mqtt-cert)" if address.is_secure else ""
    return f"does not answer ({error or 'no reason is known'}){hint}"


def _tls(address: Address, ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return how the connection is secured; None without TLS.

    Raises:
        ConfigError: a file cannot be used, or is not needed.
    """
    files = {"--mqtt-ca": ca, "--mqtt-cert": certificate, "--mqtt-key": key}
    if not address.is_secure:
        for option, path in files.items():
            if path is not None:
                raise ConfigError(f"{option}: found {path} for mqtt://, which has no TLS; give mqtts://")
        return None
    if key is not None and certificate is None:
        raise ConfigError(f"--mqtt-key: found {key} without a certificate; give it with --mqtt-cert")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    option, path = "--mqtt-ca", ca
    try:
        if ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca)
        if certificate is not None:
            option, path = ("--mqtt-cert", certificate) if key is None else ("--mqtt-cert and --mqtt-key", key)
            # A password is always given: without one, OpenSSL would ask for it at the terminal.
            context.load_cert_chain(certificate, key, os.environ.get(KEY_PASSWORD, ""))
    except ssl.SSLError as error:
        expected = "certificates in PEM" if option == "--mqtt-ca" else "a certificate and its private key in PEM"
        where = f"{certificate} and {path}" if option.endswith("--mqtt-key") else path
        raise ConfigError(
            f"{option}: {where} cannot be used ({error.reason or error}), expected {expected}; a passphrase of the key "
            f"is taken from {KEY_PASSWORD}"
        ) from error
    except OSError as error:
        for option, path in files.items():
            if path is not None and not os.access(path, os.R_OK):
                raise ConfigError(f"{option}: {path} cannot be read ({error.strerror}); give another file") from error
        raise ConfigError(f"{option}: {path} cannot be read ({error.strerror}); give another file") from error
    return context
