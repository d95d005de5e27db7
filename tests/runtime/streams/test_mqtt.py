"""A broker with TLS and passwords: certificates, reasons for failed connections, topics."""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from xaimoe_runtime import ConfigError
from xaimoe_runtime.records import ErrorRecord
from xaimoe_runtime.streams.mqtt import Address, Mqtt, check_topic, describe_failure

BROKER = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
PASSWD = shutil.which("mosquitto_passwd")
needs_broker = pytest.mark.skipif(BROKER is None or PASSWD is None, reason="mosquitto is not installed")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XAIMOE_MQTT_USER", "XAIMOE_MQTT_PASSWORD", "XAIMOE_MQTT_KEY_PASSWORD", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# Certificates --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as objects and as files."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certificate_file: Path
    key_file: Path


def make_pair(folder: Path, name: str, issuer: Pair | None = None, host: str | None = None) -> Pair:
    """A certificate for a name, signed by an authority; one of its own without."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if host is not None:
        names = [x509.IPAddress(ipaddress.ip_address(host))] if host[0].isdigit() else [x509.DNSName(host)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encryption = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return Pair(certificate, key, *files)


@dataclass(frozen=True)
class Certificates:
    """An authority, what it signed, and another one."""

    authority: Pair
    broker: Pair
    elsewhere: Pair
    """For a broker of another host name."""
    client: Pair
    stranger: Pair


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority = make_pair(folder, "authority")
    return Certificates(
        authority,
        make_pair(folder, "broker", authority, "127.0.0.1"),
        make_pair(folder, "elsewhere", authority, "elsewhere.example"),
        make_pair(folder, "client", authority),
        make_pair(folder, "stranger"),
    )


# A broker ------------------------------------------------------------------------------------------------------------


class Broker:
    """A real mosquitto on loopback."""

    def __init__(self, folder: Path, *settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        is_root = hasattr(os, "geteuid") and os.geteuid() == 0
        lines = [f"listener {self.port} 127.0.0.1", *settings, *(["user root"] if is_root else [])]
        (folder / "broker.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert BROKER is not None
        self.process = subprocess.Popen(
            [BROKER, "-c", str(folder / "broker.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert within(10, self._answers)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def broker_of(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Starts brokers with given settings; all are ended with the test."""
    brokers: list[Broker] = []

    def begin(*settings: str) -> Broker:
        brokers.append(Broker(tmp_path, *settings))
        return brokers[-1]

    yield begin
    for broker in brokers:
        broker.end()


def tls(pair: Pair, authority: Pair) -> list[str]:
    return [f"cafile {authority.certificate_file}", f"certfile {pair.certificate_file}", f"keyfile {pair.key_file}"]


def delivers(outlet: Mqtt) -> bool:
    """Whether the broker takes a record."""
    outlet.send(ErrorRecord(source="made", error="Odd", message="number 1"))
    return within(10, lambda: not outlet._ours)


def first_warning(url: str, part: str = "mqtt:", **files: Path) -> str:
    """The first warning with these words of a connection that fails."""
    warnings: list[str] = []
    outlet = Mqtt(url, warnings.append, **files)
    try:
        assert within(15, lambda: any(part in text for text in warnings)), warnings
    finally:
        outlet.close()
    return next(text for text in warnings if part in text)


@needs_broker
def test_a_broker_with_a_certificate_of_an_own_authority_is_trusted_if_that_is_given(
    broker_of: Callable[..., Broker], certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = broker_of(*tls(certificates.broker, certificates.authority), "allow_anonymous true")
    url, warnings = f"mqtts://127.0.0.1:{broker.port}/sonar", list[str]()
    outlet = Mqtt(url, warnings.append, ca=certificates.authority.certificate_file)
    assert delivers(outlet)
    outlet.close()
    assert warnings == [] and outlet.lost == 0
    text = first_warning(url)
    assert "has a certificate that is not trusted (" in text and "--mqtt-ca" in text
    text = first_warning(url, ca=certificates.stranger.certificate_file)
    assert "not trusted" in text
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority.certificate_file))
    outlet = Mqtt(url, warnings.append)
    assert delivers(outlet)
    outlet.close()


@needs_broker
def test_a_certificate_for_another_host_is_not_trusted(
    broker_of: Callable[..., Broker], certificates: Certificates
) -> None:
    broker = broker_of(*tls(certificates.elsewhere, certificates.authority), "allow_anonymous true")
    text = first_warning(f"mqtts://127.0.0.1:{broker.port}/sonar", ca=certificates.authority.certificate_file)
    assert "not trusted" in text and "127.0.0.1" in text.split("(", 1)[1]


@needs_broker
def test_a_client_is_known_by_its_certificate(broker_of: Callable[..., Broker], certificates: Certificates) -> None:
    settings = ["require_certificate true", "use_identity_as_username true"]
    broker = broker_of(*tls(certificates.broker, certificates.authority), *settings)
    url, ca = f"mqtts://127.0.0.1:{broker.port}/sonar", certificates.authority.certificate_file
    client = certificates.client
    outlet = Mqtt(url, print, ca=ca, certificate=client.certificate_file, key=client.key_file)
    assert delivers(outlet)
    outlet.close()
    both = client.certificate_file.with_suffix(".pem")
    both.write_bytes(client.certificate_file.read_bytes() + client.key_file.read_bytes())
    outlet = Mqtt(url, print, ca=ca, certificate=both)
    assert delivers(outlet)
    outlet.close()
    text = first_warning(url, ca=ca)
    assert "before it was accepted" in text and "client's certificate (--mqtt-cert)" in text


@needs_broker
def test_user_and_password_come_from_the_environment(
    broker_of: Callable[..., Broker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PASSWD is not None
    subprocess.run([PASSWD, "-b", "-c", tmp_path / "users", "buoy", "p:ä/ss"], check=True, capture_output=True)
    broker = broker_of(f"password_file {tmp_path / 'users'}", "allow_anonymous false")
    url = f"mqtt://127.0.0.1:{broker.port}/sonar"
    text = first_warning(url)
    assert "refuses the connection: Not authorized" in text and "XAIMOE_MQTT_USER" in text
    monkeypatch.setenv("XAIMOE_MQTT_USER", "buoy")
    monkeypatch.setenv("XAIMOE_MQTT_PASSWORD", "p:ä/ss")
    warnings = list[str]()
    outlet = Mqtt(url, warnings.append)
    assert delivers(outlet) and warnings == []
    outlet.close()
    monkeypatch.setenv("XAIMOE_MQTT_PASSWORD", "wrong")
    text = first_warning(url)
    assert "refuses the connection" in text and "wrong" not in text


@needs_broker
def test_a_stream_that_ends_before_the_connection_is_there_loses_nothing(broker_of: Callable[..., Broker]) -> None:
    outlet = Mqtt(f"mqtt://127.0.0.1:{broker_of('allow_anonymous true').port}/sonar", print)
    outlet.send(ErrorRecord(source="made", error="Odd", message="number 1"))
    outlet.close()
    assert outlet.lost == 0


@needs_broker
def test_tls_at_a_port_without_it_is_named(broker_of: Callable[..., Broker]) -> None:
    broker = broker_of("allow_anonymous true")
    text = first_warning(f"mqtts://127.0.0.1:{broker.port}/sonar")
    assert "TLS" in text


@needs_broker
def test_a_port_with_tls_without_it_is_named(broker_of: Callable[..., Broker], certificates: Certificates) -> None:
    broker = broker_of(*tls(certificates.broker, certificates.authority), "allow_anonymous true")
    assert "see whether it wants TLS (mqtts://)" in first_warning(f"mqtt://127.0.0.1:{broker.port}/sonar")


def test_a_broker_that_is_away_is_reported_once_with_the_reason() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    warnings = list[str]()
    outlet = Mqtt(f"mqtt://127.0.0.1:{port}/sonar", warnings.append)
    failures = list[int]()
    report = outlet.client.on_connect_fail
    outlet.client.on_connect_fail = lambda client, data: (failures.append(1), report(client, data))  # type: ignore[misc]
    assert within(10, lambda: len(failures) >= 2)
    outlet.close()
    (text,) = warnings
    assert text == (
        f"mqtt: 127.0.0.1:{port} refuses connections; see whether a broker listens at that port; it is tried again"
    )


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (socket.gaierror(-2, "Name or service not known"), "host name cannot be resolved"),
        (TimeoutError("timed out"), "does not answer in time"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "mqtts:// is for the broker's port"),
        (OSError(113, "No route to host"), "No route to host"),
        (None, "no reason is known"),
    ],
)
def test_reasons_are_named(error: Exception | None, part: str) -> None:
    assert part in describe_failure(error, Address("host", 8883, "topic", is_secure=True))


# Options -------------------------------------------------------------------------------------------------------------


def test_files_that_cannot_be_used_are_refused(certificates: Certificates, tmp_path: Path) -> None:
    url, client = "mqtts://127.0.0.1:1/sonar", certificates.client
    (tmp_path / "empty.pem").write_bytes(b"")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        client.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    cases: list[tuple[dict[str, Path], str]] = [
        ({"ca": tmp_path / "none.pem"}, r"--mqtt-ca: .*none.pem cannot be read \(No such file"),
        ({"ca": tmp_path / "empty.pem"}, "--mqtt-ca: .*empty.pem cannot be used .* expected certificates in PEM"),
        ({"certificate": tmp_path / "none.pem"}, "--mqtt-cert: .*none.pem cannot be read"),
        ({"certificate": client.certificate_file}, "--mqtt-cert: .* cannot be used"),
        ({"key": client.key_file}, "--mqtt-key: .* without a certificate"),
        (
            {"certificate": client.certificate_file, "key": certificates.stranger.key_file},
            r"--mqtt-cert and --mqtt-key: .* cannot be used \(KEY_VALUES_MISMATCH",
        ),
        (
            {"certificate": client.certificate_file, "key": encrypted},
            "encrypted.key cannot be used .* passphrase of the key is taken from XAIMOE_MQTT_KEY_PASSWORD",
        ),
    ]
    for files, message in cases:
        with pytest.raises(ConfigError, match=message):
            Mqtt(url, print, **files)
    with pytest.raises(ConfigError, match=r"--mqtt-ca: found .* for mqtt://, which has no TLS"):
        Mqtt("mqtt://127.0.0.1:1/sonar", print, ca=certificates.authority.certificate_file)


def test_an_encrypted_key_is_opened_with_the_passphrase_in_the_environment(
    certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "encrypted.key"
    key.write_bytes(
        certificates.client.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    monkeypatch.setenv("XAIMOE_MQTT_KEY_PASSWORD", "secret")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"mqtts://127.0.0.1:{free.getsockname()[1]}/sonar"
    Mqtt(url, lambda text: None, certificate=certificates.client.certificate_file, key=key).close()


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("a%23", "wildcard"),
        ("a/%2B/b", "wildcard"),
        ("a/+", "wildcard"),
        ("a%00b", "control character"),
        ("a%0Ab", "control character"),
        ("", "no topic"),
        ("/", "no topic"),
        ("%2F%2f", "no topic"),
        ("$SYS/a", "begins with [$]"),
        ("a" * 65_530, "65530 bytes"),
        ("%C3%A4" * 32_765, "65530 bytes"),
        ("a?b", "write a question mark"),
        ("a#", "or # after the topic"),
        ("a%FF", "the topic is not valid"),
    ],
)
def test_topics_that_mqtt_does_not_permit_are_refused(topic: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Address.parse(f"mqtt://host/{topic}")


def test_topics_are_unquoted() -> None:
    assert Address.parse("mqtt://host/sonar/boje%20%C3%A4/1%3F").topic == "sonar/boje ä/1?"
    check_topic("a//b")  # an empty level is one, too
    check_topic("a" * 65_500)


def test_addresses_and_users(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, secure = Address.parse("mqtt://host/t"), Address.parse("mqtts://u%40x:p%3Aw@[::1]:99/t")
    assert (plain.host, plain.port, plain.user, plain.password, plain.is_secure) == ("host", 1883, None, None, False)
    assert (secure.host, secure.port, secure.user, secure.password) == ("::1", 99, "u@x", "p:w")
    assert Address.parse("mqtts://host/t").port == 8883
    monkeypatch.setenv("XAIMOE_MQTT_USER", "other")
    monkeypatch.setenv("XAIMOE_MQTT_PASSWORD", "secret")
    assert (Address.parse("mqtt://host/t").user, Address.parse("mqtt://host/t").password) == ("other", "secret")
    assert Address.parse("mqtt://own@host/t").user == "own"
    monkeypatch.delenv("XAIMOE_MQTT_USER")
    with pytest.raises(ConfigError, match=r"a password .* without a user") as caught:
        Address.parse("mqtt://host/t")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["mqtt://a..b/t", "mqtt://host:0/t", "mqtt://host:x/t", "mqtt://[::1/t", "mqtt:///t"])
def test_hosts_and_ports_that_make_no_sense_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="mqtt://HOST"):
        Address.parse(url)
