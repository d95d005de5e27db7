"""Where endless audio comes from: a file, a pipe, the network, a sound card."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.audio import check_rate, open_recording
from xaimoe_runtime.errors import AudioError, ConfigError, ProviderError
from xaimoe_runtime.streams.pcm import SUBTYPES, Encoding, decode, frame_bytes

Floats = NDArray[np.float32]

BLOCK_S = 0.1
"""Seconds that are read at a time."""
POLL_S = 0.25
"""Seconds that a source waits for data before it looks whether it is to stop."""
TELL_S = 1.0
"""Seconds from one report of odd datagrams to the next."""
RETRY_S = 5.0
"""Seconds after which a sound card that went away is tried again."""
PIPE_BYTES = 65_536
"""That are read at a time."""
LARGEST_DATAGRAM = 65_536
STDIN = "-"
MICROPHONE = "mic"


@dataclass(frozen=True)
class Trouble:
    """Something that went wrong, after which the source goes on."""

    message: str
    gap: bool = False
    """Whether samples are missing at this point."""
    lost: int = 0
    """How many, if that is known."""


class Source(Protocol):
    """Audio that comes block by block."""

    name: str
    rate: int
    """Hz"""
    channels: int
    encoding: str
    """libsndfile's name of how samples were coded; empty if full scale is 1."""
    live: bool
    """Whether it cannot wait: what is not taken in time is lost."""

    def read(self) -> Iterator[Floats | Trouble]:
        """Blocks [n, channels] as they come, until the source ends or is closed.

        Raises:
            AudioError: the source is broken.
        """
        ...

    def close(self) -> None:
        """Makes :meth:`read` end soon, from another thread."""
        ...


class FileSource:
    """A recording, as fast as it is taken.

    Args:
        path: any file that libsndfile reads.
        realtime: as fast as it was recorded, like a live source; for trying things out.

    Raises:
        AudioError: the file cannot be used.
    """

    encoding: str

    def __init__(self, path: str | Path, realtime: bool = False) -> None:
        self.path, self.name, self.live = Path(path), str(path), realtime
        with open_recording(self.path) as recording:
            self.rate, self.channels, self.encoding = recording.samplerate, recording.channels, recording.subtype
        self._closed = False

    def read(self) -> Iterator[Floats | Trouble]:
        """Blocks of the recording."""
        import soundfile

        began, heard = time.monotonic(), 0
        with open_recording(self.path) as recording:
            while not self._closed:
                try:
                    block = recording.read(max(round(BLOCK_S * self.rate), 1), dtype="float32", always_2d=True)
                except (soundfile.LibsndfileError, RuntimeError) as error:
                    raise AudioError(f"{self.path}: broken after {heard / self.rate:.2f} s ({error})") from error
                heard += len(block)
                if len(block) == 0:
                    if heard < recording.frames:
                        raise AudioError(
                            f"{self.path}: cut short; found {heard} samples, the header promises {recording.frames}; "
                            "copy the file again"
                        )
                    return
                if self.live:
                    time.sleep(max(began + heard / self.rate - time.monotonic(), 0.0))
                yield block

    def close(self) -> None:
        """Ends after the block being read."""
        self._closed = True


class PipeSource:
    """Raw samples from a pipe; by default, standard input.

    Args:
        rate: Hz.
        channels: interleaved.
        encoding: of the samples.
        descriptor: of the pipe.
        name: for messages and records.
        live: whether what writes into it cannot wait, like a recorder; else nothing is given up.

    Raises:
        AudioError: a rate that no recorder has.
        ConfigError: there are no channels, or no standard input.
    """

    def __init__(
        self,
        rate: int,
        channels: int = 1,
        encoding: Encoding = "s16",
        descriptor: int | None = None,
        name: str = STDIN,
        live: bool = True,
    ) -> None:
        _check_raw(rate, channels, name)
        if descriptor is None and sys.stdin is None:
            raise ConfigError(f"{name}: found no standard input, expected raw samples there; begin it with a pipe")
        self.live = live
        self.name, self.rate, self.channels, self.encoding = name, rate, channels, SUBTYPES[encoding][0]
        self._coded, self._closed = encoding, False
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor

    def read(self) -> Iterator[Floats | Trouble]:
        """What comes, in whole frames."""
        size, rest = frame_bytes(self._coded, self.channels), b""
        while not self._closed:
            # Not sys.stdin.buffer, whose lock a thread that waits for data would keep as the program ends.
            if os.name == "posix" and not select.select([self._descriptor], [], [], POLL_S)[0]:
                continue
            data = os.read(self._descriptor, PIPE_BYTES)
            if not data:
                break
            data = rest + data
            whole = len(data) - len(data) % size
            rest = data[whole:]
            if whole:
                yield decode(data[:whole], self._coded, self.channels)
        if rest and not self._closed:
            yield Trouble(f"ended with {len(rest)} bytes of a frame of {size}, which were left out")

    def close(self) -> None:
        """Ends within a quarter of a second; where pipes cannot be polled (Windows), when something comes next."""
        self._closed = True


class UdpSource:
    """Raw samples in datagrams, each of whole frames.

    Args:
        host: address to listen at.
        port: 0 for any that is free; ``address`` tells which.
        rate: Hz.
        channels: interleaved.
        encoding: of the samples.

    Raises:
        AudioError: a rate that no recorder has.
        ConfigError: the address cannot be listened at.
    """

    live = True

    def __init__(self, host: str, port: int, rate: int, channels: int = 1, encoding: Encoding = "s16") -> None:
        self.name = f"udp://{host}:{port}"
        _check_raw(rate, channels, self.name)
        self.rate, self.channels, self.encoding = rate, channels, SUBTYPES[encoding][0]
        self._coded, self._closed = encoding, False
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.bind((host, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"{self.name}: cannot listen there ({error}); choose another address or port") from error
        self._socket.settimeout(POLL_S)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def read(self) -> Iterator[Floats | Trouble]:
        """What comes. Datagrams that are no whole frames are trouble, of which is told once a second."""
        size, odd, told = frame_bytes(self._coded, self.channels), 0, 0.0
        with self._socket:
            while not self._closed:
                try:
                    data, sender = self._socket.recvfrom(LARGEST_DATAGRAM)
                except TimeoutError:
                    continue
                if not data or len(data) % size:
                    odd += 1
                    if time.monotonic() - told >= TELL_S:
                        what = f"found {odd} datagram(s) like one of {len(data)} bytes from {sender[0]}"
                        yield Trouble(f"{what}, expected whole frames of {size} bytes; left out")
                        odd, told = 0, time.monotonic()
                else:
                    yield decode(data, self._coded, self.channels)

    def close(self) -> None:
        """Ends within a quarter of a second."""
        self._closed = True


class SoundCard:
    """A microphone or another input of the sound card; one that goes away is waited for.

    Args:
        device: part of its name, its number, or nothing for the usual one.
        rate: Hz; the device's own if None.
        channels: recorded.

    Raises:
        ProviderError: the package ``sounddevice`` or the library PortAudio is missing.
        ConfigError: there is no such device.
    """

    encoding, live = "", True

    def __init__(self, device: str = "", rate: int | None = None, channels: int = 1) -> None:
        self.name = MICROPHONE + (f":{device}" if device else "")
        try:
            import sounddevice
        except (ImportError, OSError) as error:  # OSError: PortAudio itself
            raise ProviderError(
                f'{self.name}: sound cards need sounddevice ({error}); run: pip install "xai-moe-audio[live]" and, on '
                "Linux, install PortAudio (libportaudio2)"
            ) from error
        self._sounddevice: Any = sounddevice
        self._device: int | str | None = int(device) if device.isdecimal() else device or None
        try:
            found = sounddevice.query_devices(self._device, "input")
        except (ValueError, sounddevice.PortAudioError) as error:
            raise ConfigError(f"{self.name}: no such input ({error}); python -m sounddevice lists them") from error
        self.rate, self.channels, self._closed = rate or int(found["default_samplerate"]), channels, False
        _check_raw(self.rate, channels, self.name)

    def read(self) -> Iterator[Floats | Trouble]:
        """What is recorded."""
        frames, gone = max(round(BLOCK_S * self.rate), 1), False
        while not self._closed:
            try:
                if gone:  # PortAudio looks for cards only when it begins
                    self._sounddevice._terminate()
                    self._sounddevice._initialize()
                with self._sounddevice.InputStream(self.rate, frames, self._device, self.channels, "float32") as input:
                    while not self._closed:
                        block, overflowed = input.read(frames)
                        if overflowed:
                            yield Trouble("samples were lost before they could be read", gap=True)
                        gone = False
                        yield np.array(block)
            except (self._sounddevice.PortAudioError, ValueError) as error:  # ValueError: no card of that name
                if not gone:
                    yield Trouble(f"{error}; it is tried again every {RETRY_S:g} s", gap=True)
                gone = True
                self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + RETRY_S
        while not self._closed and time.monotonic() < until:
            time.sleep(POLL_S)

    def close(self) -> None:
        """Ends after the block being recorded."""
        self._closed = True


def _check_raw(rate: int, channels: int, name: str) -> None:
    check_rate(rate, name)
    if channels < 1:
        raise ConfigError(f"{name}: found {channels} channels, expected 1 or more")


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
