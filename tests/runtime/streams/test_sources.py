"""Where audio comes from: encodings, pipes, datagrams, sound cards that go away, and sources that cannot be opened."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from data import noise, write_wav
from numpy.typing import NDArray

from xaimoe_runtime import AudioError, ConfigError, ProviderError
from xaimoe_runtime.streams.pcm import ENCODINGS, SUBTYPES, Encoding, decode, frame_bytes
from xaimoe_runtime.streams.sources import (
    FileSource,
    PipeSource,
    SoundCard,
    Source,
    TcpSource,
    Trouble,
    UdpSource,
    open_source,
    soundcard,
)

Floats = NDArray[np.float32]
PRECISION = {"u8": 1 / 64, "s8": 1 / 64, "s16be": 1e-4, "mulaw": 0.05, "alaw": 0.05, "s16": 1e-4}


def encoded(samples: Floats, encoding: Encoding) -> bytes:
    import io

    file = io.BytesIO()
    endian = "BIG" if encoding.endswith("be") else "LITTLE"
    soundfile.write(file, samples, 8000, format="RAW", subtype=SUBTYPES[encoding][0], endian=endian)
    return file.getvalue()


def split(source: Source) -> tuple[Floats, list[str]]:
    """All samples of a source that ends, and its trouble."""
    items = list(source.read())
    blocks = [item for item in items if isinstance(item, np.ndarray)]
    found = np.concatenate(blocks) if blocks else np.empty((0, source.channels), np.float32)
    return found, [item.message for item in items if isinstance(item, Trouble)]


# Raw samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_is_decoded(encoding: Encoding) -> None:
    samples = np.clip(noise(600, level=0.3), -0.9, 0.9).reshape(300, 2)
    data = encoded(samples, encoding)
    assert len(data) == 300 * frame_bytes(encoding, 2)
    found = decode(data, encoding, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, samples, atol=PRECISION.get(encoding, 1e-6))


def test_s16_is_little_endian_with_full_scale_at_one() -> None:
    np.testing.assert_array_equal(decode(b"\x00\x80\x00\x40", "s16", 1)[:, 0], [-1.0, 0.5])


def test_a_pipe_gives_whole_frames_however_its_bytes_come() -> None:
    samples = noise(3000).reshape(1500, 2)
    data = encoded(samples, "s24")
    out, into = os.pipe()
    source = PipeSource(16_000, 2, "s24", out)

    def write() -> None:
        for start in range(0, len(data), 1001):
            os.write(into, data[start : start + 1001])
            time.sleep(0.001)
        os.write(into, b"xx")
        os.close(into)

    writer = threading.Thread(target=write)
    writer.start()
    found, trouble = split(source)
    writer.join()
    os.close(out)
    np.testing.assert_allclose(found, samples, atol=1e-5)
    assert trouble == ["ended with 2 bytes of a frame of 6, which were left out"]
    assert (source.rate, source.channels, source.encoding, source.live) == (16_000, 2, "PCM_24", True)


def test_a_wav_header_on_a_pipe_is_skipped_and_reported(tmp_path: Path) -> None:
    samples = np.clip(noise(3_000, level=0.2), -0.9, 0.9)
    data = write_wav(tmp_path / "a.wav", samples, 16_000, "PCM_16").read_bytes()
    found, trouble = split(piped(data, 16_000))
    np.testing.assert_allclose(found[:, 0], samples, atol=1e-4)
    assert trouble == ["found a WAV header (16000 Hz, 1 channel(s), s16), which was skipped"]
    with pytest.raises(AudioError, match=r"pipe: found a WAV header that states 16000 Hz.*give --rate 16000"):
        split(piped(data, 48_000))
    soundfile.write(tmp_path / "a.flac", samples, 16_000)
    with pytest.raises(AudioError, match="pipe: found a FLAC file, expected raw samples"):
        split(piped((tmp_path / "a.flac").read_bytes(), 16_000))


def piped(data: bytes, rate: int) -> PipeSource:
    """A pipe with little data, which ends."""
    out, into = os.pipe()
    os.write(into, data)
    os.close(into)
    return PipeSource(rate, descriptor=out, name="pipe")


def test_a_pipe_from_which_nothing_comes_can_be_closed() -> None:
    out, into = os.pipe()
    source = PipeSource(16_000, descriptor=out)
    reader = threading.Thread(target=lambda: list(source.read()))
    reader.start()
    source.close()
    reader.join(3)
    assert not reader.is_alive()
    os.close(into)
    os.close(out)


def test_datagrams_are_frames_and_garbage_is_trouble() -> None:
    source = UdpSource("127.0.0.1", 0, 8_000, 2, "s16")
    samples = np.clip(noise(80, level=0.1), -0.9, 0.9).reshape(40, 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        items = source.read()
        for datagram in (encoded(samples[:20], "s16"), b"abc", b"", encoded(samples[20:], "s16")):
            sender.sendto(datagram, source.address)
        found = [next(items) for _ in range(3)]
        source.close()
        (odd,) = list(items)
        assert isinstance(odd, Trouble) and "1 datagram(s) like one of 0 bytes" in odd.message
    blocks = [item for item in found if isinstance(item, np.ndarray)]
    np.testing.assert_allclose(np.concatenate(blocks), samples, atol=1e-4)
    (trouble,) = [item for item in found if isinstance(item, Trouble)]
    assert "3 bytes from 127.0.0.1, expected whole frames of 4 bytes" in trouble.message
    assert not trouble.gap


def test_a_flood_of_garbage_is_told_once_a_second() -> None:
    source = UdpSource("127.0.0.1", 0, 8_000)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(b"odd", source.address)
        sender.sendto(b"even", source.address)
        items = source.read()
        assert isinstance(next(items), Trouble)
        assert not isinstance(next(items), Trouble)
        source.close()
        list(items)


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_file_comes_whole_at_its_own_rate(tmp_path: Path) -> None:
    samples = np.clip(noise(9_000), -1, 1).reshape(4_500, 2)
    path = write_wav(tmp_path / "two.wav", samples, 11_025)
    source = FileSource(path)
    found, trouble = split(source)
    np.testing.assert_allclose(found, samples, atol=1e-4)
    assert trouble == []
    assert (source.rate, source.channels, source.live) == (11_025, 2, False)


def test_a_file_may_come_as_fast_as_it_was_recorded(tmp_path: Path) -> None:
    source = FileSource(write_wav(tmp_path / "one.wav", noise(4_000), 8_000), realtime=True)
    start = time.monotonic()
    split(source)
    assert time.monotonic() - start >= 0.45
    assert source.live


def test_a_file_that_is_cut_short_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    soundfile.write(path, noise(80_000), 16_000)
    path.write_bytes(path.read_bytes()[:40_000])
    with pytest.raises(AudioError, match=str(path)):
        split(FileSource(path))
    with pytest.raises(AudioError, match="no such file"):
        FileSource(tmp_path / "none.wav")


# Sound cards ---------------------------------------------------------------------------------------------------------


class FakeError(Exception):
    """Of PortAudio."""


class FakeCard:
    """What the package ``sounddevice`` would be, with a card that is unplugged at its third block and comes back."""

    PortAudioError = FakeError

    def _terminate(self) -> None:
        self.looked = False

    def _initialize(self) -> None:
        self.looked = True

    def __init__(self) -> None:
        self.reads = self.opened = 0
        self.looked = False

    def query_devices(self, device: object, kind: str) -> dict[str, Any]:
        if device == "none":
            raise ValueError("no input device matching 'none'")
        return {"default_samplerate": 44_100.0}

    def InputStream(self, rate: int, frames: int, device: object, channels: int, kind: str) -> Any:
        self.opened += 1
        card, shape = self, (frames, channels)

        class Opened:
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def read(self, frames: int) -> tuple[Floats, bool]:
                card.reads += 1
                if card.reads == 3:
                    raise FakeError("Device unavailable")
                return np.full(shape, card.reads, np.float32), card.reads == 2

        return Opened()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    fake = FakeCard()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(soundcard, "RETRY_S", 0.01)
    yield fake


def test_a_card_that_is_unplugged_is_waited_for(card: FakeCard) -> None:
    source = open_source("mic:3", channels=2)
    items = source.read()
    found = [next(items) for _ in range(5)]
    source.close()
    assert [isinstance(item, Trouble) for item in found] == [False, True, False, True, False]
    assert card.opened == 2 and card.looked
    lost, gone = found[1], found[3]
    assert isinstance(lost, Trouble) and lost.gap and "lost before they could be read" in lost.message
    assert isinstance(gone, Trouble) and gone.gap and "Device unavailable; it is tried again" in gone.message
    assert isinstance(found[0], np.ndarray) and found[0].shape == (4410, 2)
    assert (source.name, source.rate, source.live) == ("mic:3", 44_100, True)


def test_a_card_that_is_not_there_is_an_error(card: FakeCard) -> None:
    with pytest.raises(ConfigError, match="mic:none: no such input"):
        SoundCard("none")


def test_without_the_package_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ProviderError, match=r"xai-moe-audio\[live\]"):
        open_source("mic")


# Words ---------------------------------------------------------------------------------------------------------------


def test_words_name_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=lambda: 0))
    assert isinstance(open_source("-", 8_000), PipeSource)
    assert open_source("-", 8_000).live and not open_source("-", 8_000, wait=True).live
    udp = open_source("udp://127.0.0.1:0", 8_000, 2, "f32")
    assert isinstance(udp, UdpSource) and udp.channels == 2
    udp.close()
    list(udp.read())
    rtp = open_source("rtp://127.0.0.1:0", 8_000)
    assert isinstance(rtp, UdpSource) and rtp.name == "rtp://127.0.0.1:0"
    rtp.close()
    list(rtp.read())
    tcp = open_source("tcp://127.0.0.1:9", 8_000)
    assert isinstance(tcp, TcpSource) and tcp.live
    path = write_wav(tmp_path / "a.wav", noise(100))
    assert isinstance(open_source(str(path)), FileSource)


@pytest.mark.parametrize(
    ("text", "rate", "error", "message"),
    [
        ("-", None, ConfigError, "--rate"),
        ("udp://127.0.0.1:5000", None, ConfigError, "--rate"),
        ("udp://127.0.0.1", 8000, ConfigError, "udp://HOST:PORT"),
        ("udp://127.0.0.1:70000", 8000, ConfigError, "expected udp"),
        ("http://127.0.0.1:5000", 8000, ConfigError, "udp://HOST:PORT"),
        ("udp://127.0.0.1:5000/path", 8000, ConfigError, "udp://HOST:PORT"),
        ("udp://127.0.0.1:0?listen", 8000, ConfigError, "found listen after the question mark, expected iface"),
        ("tcp://127.0.0.1:0?listen=no", 8000, ConfigError, "found listen=no"),
        ("tcp://127.0.0.1", 8000, ConfigError, "tcp://HOST:PORT"),
        ("udp://203.0.113.1:5000", 8000, ConfigError, "cannot listen there"),
        ("udp://127.0.0.1:0", 1, AudioError, "sampling rate of 1 Hz"),
        ("none.wav", None, AudioError, "no such file"),
        ("none.wav", 8000, ConfigError, "a file says that itself"),
    ],
)
def test_words_that_name_none_are_errors(text: str, rate: int | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(text, rate)


def test_options_for_another_kind_of_source_are_refused(card: FakeCard) -> None:
    with pytest.raises(ConfigError, match="--realtime, which is for files"):
        open_source("-", 8000, realtime=True)
    with pytest.raises(ConfigError, match="--wait, which is for standard input"):
        open_source("udp://127.0.0.1:0", 8000, wait=True)
    with pytest.raises(ConfigError, match="--encoding, which is for raw samples"):
        open_source("mic", encoding="s16")
    with pytest.raises(ConfigError, match="a file says that itself"):
        open_source("a.wav", channels=2)
    with pytest.raises(ConfigError, match=r"--from, which is for udp://, rtp:// and tcp://HOST:PORT\?listen"):
        open_source("tcp://127.0.0.1:1", 8000, senders=["127.0.0.1"])
    with pytest.raises(ConfigError, match="--header-bytes, which is for udp://"):
        open_source("rtp://127.0.0.1:0", 8000, header_bytes=4)
    with pytest.raises(ConfigError, match="--counter without --header-bytes"):
        open_source("udp://127.0.0.1:0", 8000, counter="0:u8")
    with pytest.raises(ConfigError, match="--from: 'here' does not appear to be"):
        open_source("udp://127.0.0.1:0", 8000, senders=["here"])


def test_a_program_without_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="found no standard input"):
        open_source("-", 8000)


def test_no_channels_are_an_error() -> None:
    with pytest.raises(ConfigError, match="0 channels"):
        PipeSource(8_000, 0, descriptor=0)


def test_a_program_that_ends_while_its_pipe_is_silent_ends_quietly() -> None:
    code = (
        "from xaimoe_runtime.streams.sources import PipeSource\n"
        "from xaimoe_runtime.streams.reader import Reader\n"
        "reader = Reader(PipeSource(8000), 1.0)\n"
        "print(reader.get(0.3))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(20) == 0
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read() == b"[]\n"
        assert process.stderr.read() == b""
