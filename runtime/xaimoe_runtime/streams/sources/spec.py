"""From a word of the command line to a source."""

from __future__ import annotations

from urllib.parse import urlsplit

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.streams.pcm import Encoding
from xaimoe_runtime.streams.sources.base import Source
from xaimoe_runtime.streams.sources.file import FileSource
from xaimoe_runtime.streams.sources.pipe import STDIN, PipeSource
from xaimoe_runtime.streams.sources.soundcard import MICROPHONE, SoundCard
from xaimoe_runtime.streams.sources.udp import UdpSource


def open_source(
    text: str,
    rate: int | None = None,
    channels: int | None = None,
    encoding: Encoding | None = None,
    realtime: bool = False,
    wait: bool = False,
) -> Source:
    """The source that a word of the command line means: ``-`` for raw samples on standard input,
    ``udp://HOST:PORT``, ``mic`` or ``mic:DEVICE``, or else a file.

    Args:
        text: the word.
        rate: Hz, of raw samples and sound cards.
        channels: likewise; 1 if None.
        encoding: of raw samples; ``s16`` if None.
        realtime: files come as fast as they were recorded.
        wait: what writes to standard input can wait.

    Raises:
        AudioError, ConfigError, ProviderError: the source cannot be opened, raw samples are without a rate, or an
            option is for another kind of source.
    """
    is_card = text == MICROPHONE or text.startswith(f"{MICROPHONE}:")
    is_file = not is_card and text != STDIN and "://" not in text
    if realtime and not is_file:
        raise ConfigError(f"{text}: found --realtime, which is for files; leave it out")
    if wait and text != STDIN:
        raise ConfigError(f"{text}: found --wait, which is for standard input; leave it out")
    if is_file and (rate, channels, encoding) != (None, None, None):
        raise ConfigError(f"{text}: found --rate, --channels or --encoding, but a file says that itself")
    if is_file:
        return FileSource(text, realtime)
    if is_card:
        if encoding is not None:
            raise ConfigError(f"{text}: found --encoding, which is for raw samples; leave it out")
        return SoundCard(text[len(MICROPHONE) + 1 :], rate, channels or 1)
    if rate is None:
        raise ConfigError(f"{text}: raw samples do not tell their sampling rate; give it with --rate, in Hz")
    if text == STDIN:
        return PipeSource(rate, channels or 1, encoding or "s16", live=not wait)
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ConfigError(f"{text}: {error}; expected udp://HOST:PORT") from error
    if url.scheme != "udp" or host is None or port is None:
        raise ConfigError(f"{text}: expected udp://HOST:PORT, -, mic, mic:DEVICE or a file")
    return UdpSource(host, port, rate, channels or 1, encoding or "s16")
