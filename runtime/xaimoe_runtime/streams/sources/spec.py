"""From a word of the command line to a source."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.streams.pcm import Encoding
from xaimoe_runtime.streams.sources.base import Source
from xaimoe_runtime.streams.sources.file import FileSource
from xaimoe_runtime.streams.sources.packets import Counter, FixedLayout, RtpLayout
from xaimoe_runtime.streams.sources.pipe import STDIN, PipeSource
from xaimoe_runtime.streams.sources.soundcard import MICROPHONE, SoundCard
from xaimoe_runtime.streams.sources.tcp import TcpSource
from xaimoe_runtime.streams.sources.udp import UdpSource

EXPECTED = "udp://HOST:PORT, rtp://HOST:PORT, tcp://HOST:PORT, -, mic, mic:DEVICE or a file"
RAW = ("--rate", "--channels", "--encoding")
ACCEPTED: dict[str, tuple[str, ...]] = {
    "file": ("--realtime",),
    "mic": ("--rate", "--channels"),
    "stdin": (*RAW, "--wait"),
    "udp": (*RAW, "--from", "--header-bytes", "--counter"),
    "rtp": (*RAW, "--from"),
    "tcp": RAW,
    "tcp?listen": (*RAW, "--from"),
}
"""Options by kind of source."""
PURPOSE = {
    "--rate": "raw samples and sound cards",
    "--channels": "raw samples and sound cards",
    "--encoding": "raw samples",
    "--realtime": "files",
    "--wait": "standard input",
    "--from": "udp://, rtp:// and tcp://HOST:PORT?listen",
    "--header-bytes": "udp://",
    "--counter": "udp://",
}
"""What an option is for."""


def open_source(
    text: str,
    rate: int | None = None,
    channels: int | None = None,
    encoding: Encoding | None = None,
    realtime: bool = False,
    wait: bool = False,
    *,
    senders: Sequence[str] = (),
    header_bytes: int | None = None,
    counter: str | None = None,
) -> Source:
    """Open the source that a word of the command line names.

    Args:
        text: ``-`` for raw samples on standard input, ``udp://HOST:PORT`` for datagrams of them, ``rtp://HOST:PORT``
            for those of RTP, ``tcp://HOST:PORT`` for a server and ``tcp://HOST:PORT?listen`` for clients that send
            them, ``mic`` or ``mic:DEVICE`` for a sound card, or else a file.
        rate: Hz, of raw samples and sound cards.
        channels: likewise; 1 if None.
        encoding: of raw samples; ``s16`` if None, or ``s16be`` for RTP.
        realtime: files come as fast as they were recorded.
        wait: what writes to standard input can wait.
        senders: addresses and networks that may send.
        header_bytes: of each datagram, before its samples.
        counter: in that header, as :meth:`Counter.parse` has it.

    Raises:
        AudioError, ConfigError, ProviderError: the source cannot be opened, raw samples are without a rate, or an
            option is for another kind of source.
    """
    kind, host, port, query = _parse(text)
    provided = {
        "--rate": rate is not None,
        "--channels": channels is not None,
        "--encoding": encoding is not None,
        "--realtime": realtime,
        "--wait": wait,
        "--from": bool(senders),
        "--header-bytes": header_bytes is not None,
        "--counter": counter is not None,
    }
    for option in (option for option, is_given in provided.items() if is_given and option not in ACCEPTED[kind]):
        if kind == "file" and option in RAW:
            raise ConfigError(f"{text}: found {option}, but a file says that itself; leave it out")
        raise ConfigError(f"{text}: found {option}, which is for {PURPOSE[option]}; leave it out")
    if kind == "file":
        return FileSource(text, realtime)
    if kind == "mic":
        return SoundCard(text[len(MICROPHONE) + 1 :], rate, channels or 1)
    if rate is None:
        raise ConfigError(f"{text}: raw samples do not tell their sampling rate; give it with --rate, in Hz")
    if kind == "stdin":
        return PipeSource(rate, channels or 1, encoding or "s16", live=not wait)
    if kind.startswith("tcp"):
        listen = kind != "tcp"
        return TcpSource(host, port, rate, channels or 1, encoding or "s16", listen=listen, senders=senders)
    if kind == "udp" and counter is not None and header_bytes is None:
        raise ConfigError(f"{text}: found --counter without --header-bytes, expected the length of the header, too")
    layout = (
        RtpLayout()
        if kind == "rtp"
        else FixedLayout(header_bytes or 0, None if counter is None else Counter.parse(counter))
    )
    return UdpSource(
        host,
        port,
        rate,
        channels or 1,
        encoding or ("s16be" if kind == "rtp" else "s16"),
        layout=layout,
        senders=senders,
        interface=query.get("iface", ""),
        scheme=kind,
    )


def _parse(text: str) -> tuple[str, str, int, dict[str, str]]:
    """Return the kind of source that a word names, and host, port and query if it is a URL.

    Raises:
        ConfigError: a URL of no kind of source.
    """
    if text == STDIN:
        return "stdin", "", 0, {}
    if text == MICROPHONE or text.startswith(f"{MICROPHONE}:"):
        return "mic", "", 0, {}
    if "://" not in text:
        return "file", "", 0, {}
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ConfigError(f"{text}: {error}; expected {EXPECTED}") from error
    queries = {"udp": {"iface"}, "rtp": {"iface"}, "tcp": {"listen"}}
    if url.scheme not in queries or host is None or port is None or url.path.strip("/"):
        raise ConfigError(f"{text}: expected {EXPECTED}")
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    if strangers := sorted(set(query) - queries[url.scheme]):
        known = " or ".join(sorted(queries[url.scheme]))
        raise ConfigError(f"{text}: found {strangers[0]} after the question mark, expected {known}")
    if "listen" in query:
        if query["listen"] not in ("", "1"):
            raise ConfigError(f"{text}: found listen={query['listen']}, expected listen alone")
        return "tcp?listen", host, port, query
    return url.scheme, host, port, query
