"""Headers of audio files in a stream of raw samples."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import soundfile
from data import bursts
from numpy.typing import NDArray

from xaimoe_runtime import AudioError
from xaimoe_runtime.streams.sources.bytestream import ByteStream
from xaimoe_runtime.streams.sources.headers import find_container, read_wav_header

Samples = NDArray[np.float32]
SAMPLES = np.clip(bursts(600, level=0.2), -0.9, 0.9).reshape(300, 2)


def file_of(kind: str, subtype: str | None = None, samples: Samples = SAMPLES) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind, subtype=subtype)
    return file.getvalue()


def in_pieces(stream: ByteStream, data: bytes, size: int) -> Samples:
    parts = [stream.push(data[start : start + size]) for start in range(0, len(data), size)]
    return np.concatenate([*parts, stream.finish()])


@pytest.mark.parametrize("size", [1, 7, 43, 10_000])
def test_a_wav_header_of_the_expected_format_is_skipped(size: int) -> None:
    stream = ByteStream(16_000, 2, "s16")
    np.testing.assert_allclose(in_pieces(stream, file_of("WAV", "PCM_16"), size), SAMPLES, atol=1e-4)
    assert stream.header == "16000 Hz, 2 channel(s), s16"
    assert stream.surplus == 0


def test_chunks_before_and_after_the_samples_are_no_samples() -> None:
    whole = file_of("WAV", "PCM_16")
    chunk = b"LIST" + (5).to_bytes(4, "little") + b"abcde\x00"
    data = whole[:12] + chunk + whole[12:] + chunk
    stream = ByteStream(16_000, 2, "s16")
    np.testing.assert_allclose(in_pieces(stream, data, 50), SAMPLES, atol=1e-4)
    assert stream.surplus == len(chunk)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_header_that_does_not_know_the_size_has_no_end(size: int) -> None:
    whole = file_of("WAV", "PCM_16")
    at = whole.index(b"data")
    stream = ByteStream(16_000, 2, "s16")
    data = whole[: at + 4] + size.to_bytes(4, "little") + whole[at + 8 :]
    assert len(in_pieces(stream, data + whole[at + 8 :], 100)) == 600


@pytest.mark.parametrize(("subtype", "encoding"), [("PCM_24", "s24"), ("FLOAT", "f32"), ("ULAW", "mulaw")])
def test_a_wav_file_of_another_format_is_refused_with_what_to_give(subtype: str, encoding: str) -> None:
    with pytest.raises(AudioError, match=f"--rate 16000 --channels 2 --encoding {encoding}"):
        ByteStream(48_000, 1, "s16").push(file_of("WAV", subtype))


def test_the_format_in_an_extension_of_the_header_counts() -> None:
    header = read_wav_header(file_of("WAVEX", "PCM_24"))
    assert header is not None and header.encoding == "s24"


def test_a_wav_file_of_a_codec_is_refused() -> None:
    with pytest.raises(AudioError, match=r"a compressed encoding.*decode it first"):
        ByteStream(16_000, 2, "s16").push(file_of("WAV", "IMA_ADPCM"))


@pytest.mark.parametrize("kind", ["FLAC", "OGG", "AIFF", "AU", "CAF", "MP3"])
def test_other_files_are_recognised(kind: str) -> None:
    data = b"ID3\x04" + bytes(8) if kind == "MP3" else file_of(kind)
    assert find_container(data[:12]).upper() == kind
    with pytest.raises(AudioError, match="expected raw samples; give the file's path"):
        ByteStream(16_000, 2, "s16").push(data)


def test_raw_samples_are_never_held_back_for_long() -> None:
    stream = ByteStream(16_000, 1, "s16")
    assert len(stream.push(b"RIFF")) == 0
    assert len(stream.push(bytes(8))) == 6  # it is no WAV file
    stream = ByteStream(16_000, 1, "s16")
    assert len(stream.push(bytes(4))) == 0
    assert len(stream.finish()) == 2


def test_no_header_at_all_breaks_the_parser() -> None:
    draw, whole = random.Random(0), file_of("WAV", "PCM_16")[:60]
    for _ in range(3_000):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 5)):
            data[draw.randrange(12, 60)] = draw.randrange(256)
        try:
            header = read_wav_header(bytes(data[: draw.randrange(12, 60)]))
        except AudioError:
            continue
        assert header is None or header.size <= len(data)
