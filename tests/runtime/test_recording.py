"""Recordings whose header is wrong: all that they hold is decoded, and what is missing is stated."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from data.damaged import (
    chunk,
    encoded,
    flac_of_unknown_length,
    fmt,
    id3,
    mp3,
    mp3_frames,
    ogg_pages,
    ogg_without_end,
    pcm16,
    riff,
    tone,
    wav,
    write,
)
from numpy.typing import NDArray

from xaimoe_runtime import AudioError
from xaimoe_runtime.containers import stretch
from xaimoe_runtime.recording import Completeness, Recording

Floats = NDArray[np.float32]
RATE = 16_000
SOUND = tone(3.0)
OTHER = tone(2.0, seed=1)
LIST = chunk(b"LIST", b"INFO" + chunk(b"ICMT", b"by a recorder"))


def decode(path: Path, data: bytes) -> tuple[Floats, Completeness]:
    """All samples of a file, [n, channels], and how complete they are."""
    recording = Recording(write(path, data))
    samples = np.concatenate(list(recording.blocks()))
    assert recording.completeness is not None
    assert recording.completeness.decoded_s == pytest.approx(len(samples) / recording.samplerate)
    return samples, recording.completeness


def check_whole(path: Path, data: bytes, expected: Floats, atol: float = 1e-4) -> Completeness:
    """A recording that is decoded as ``expected``, with nothing missing."""
    samples, completeness = decode(path, data)
    assert len(samples) == len(expected)
    np.testing.assert_allclose(samples[:, 0], expected, atol=atol)
    assert completeness.complete and completeness.missing_s == 0
    return completeness


# Headers of WAV and its kin ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST"])
def test_a_whole_recording_is_complete(tmp_path: Path, kind: str) -> None:
    samples, completeness = decode(tmp_path / "a", encoded(SOUND, kind=kind))
    assert len(samples) == len(SOUND)
    assert completeness.complete and completeness.note == ""
    assert completeness.promised_s == (None if kind == "OGG" else 3.0)


@pytest.mark.parametrize("before", [b"", chunk(b"JUNK", bytes(4_020)), LIST], ids=["plain", "junk", "list"])
@pytest.mark.parametrize("stated", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 32_000])
def test_a_wav_that_was_never_finished_is_read_to_its_end(tmp_path: Path, stated: int, before: bytes) -> None:
    found = check_whole(tmp_path / "a.wav", wav(SOUND, stated, before), SOUND)
    expected = {0: 0.0, 32_000: 1.0}.get(stated)
    assert found.promised_s == expected
    assert "read to the end" in found.note if expected is not None else "states no length" in found.note


def _wav_8_bit() -> bytes:
    data = encoded(SOUND[:-1], kind="WAV", subtype="PCM_U8")
    return data.replace(b"data" + struct.pack("<I", len(SOUND) - 1), b"data" + bytes(4))


@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"])
def test_unfinished_wavs_of_any_coding_are_read(tmp_path: Path, subtype: str) -> None:
    data = bytearray(encoded(SOUND, subtype=subtype))
    whole, _ = decode(tmp_path / "whole.wav", bytes(data))
    start = data.index(b"data") + 4
    data[start : start + 4] = bytes(4)
    data[4:8] = bytes(4)
    check_whole(tmp_path / "a.wav", bytes(data), whole[:, 0], atol=0)


def test_an_unfinished_wav_of_odd_size_is_read(tmp_path: Path) -> None:
    samples, found = decode(tmp_path / "a.wav", _wav_8_bit())
    assert (len(samples), found.complete) == (len(SOUND) - 1, True) or len(samples) == len(SOUND)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_a_big_endian_wav_is_mended_likewise(tmp_path: Path, order: str) -> None:
    magic = {"<": b"RIFF", ">": b"RIFX"}[order]
    body = fmt(order=order) + chunk(b"data", pcm16(SOUND, order), 0, order)
    check_whole(tmp_path / "a.wav", riff(body, 0, magic, order), SOUND)


def test_other_containers_that_were_never_finished_are_read(tmp_path: Path) -> None:
    au = bytearray(encoded(SOUND, kind="AU"))
    au[8:12] = bytes(4)
    check_whole(tmp_path / "a.au", bytes(au), SOUND)
    aiff = bytearray(encoded(SOUND, kind="AIFF"))
    common, samples = aiff.index(b"COMM"), aiff.index(b"SSND")
    aiff[common + 10 : common + 14] = aiff[samples + 4 : samples + 8] = bytes(4)
    check_whole(tmp_path / "a.aiff", bytes(aiff), SOUND)
    caf = bytearray(encoded(SOUND, kind="CAF"))
    start = caf.index(b"data") + 4
    for stated in (-1, 0):
        caf[start : start + 8] = struct.pack(">q", stated)
        check_whole(tmp_path / "a.caf", bytes(caf), SOUND)
    w64 = bytearray(encoded(SOUND, kind="W64"))
    start = w64.index(b"data") + 16
    for stated in (0, 24):
        w64[start : start + 8] = struct.pack("<Q", stated)
        check_whole(tmp_path / "a.w64", bytes(w64), SOUND)
    rf64 = bytearray(encoded(SOUND, kind="RF64"))
    start = rf64.index(b"ds64") + 8
    rf64[start : start + 24] = bytes(24)
    check_whole(tmp_path / "a.rf64", bytes(rf64), SOUND)


def test_a_wav_over_4_gib_whose_size_wrapped_is_read_whole(tmp_path: Path) -> None:
    path, length = tmp_path / "a.wav", 2**32 + 64_000
    with path.open("wb") as file:  # sparse
        file.write(riff(fmt() + chunk(b"data", b"", length % 2**32), (length + 36) % 2**32) + pcm16(SOUND))
        file.truncate(44 + length)
    recording = Recording(path)
    assert recording.frames == length // 2
    np.testing.assert_allclose(next(recording.blocks())[:, 0], SOUND[:RATE], atol=1e-4)


@pytest.mark.parametrize("after", [b"", LIST])
@pytest.mark.parametrize("times", [1, 3])
def test_all_samples_of_a_wav_whose_size_wrapped_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, after: bytes
) -> None:
    monkeypatch.setattr(stretch, "WRAP", 2**14)  # instead of 4 GiB
    found = check_whole(tmp_path / "a.wav", wav(SOUND, len(SOUND) * 2 - times * 2**14, after=after), SOUND)
    assert found.promised_s == pytest.approx(3 - times * 2**13 / RATE) and "wrapped around" in found.note


@pytest.mark.parametrize(
    "after",
    [
        LIST,
        chunk(b"id3 ", id3(100)),
        chunk(b"bext", bytes(602)) + LIST,
        chunk(b"guan", b"GUANO|Version:1.0\nMake: a recorder"),
        chunk(b"odd ", b"123"),
        chunk(b"odd ", b"123")[:-1],
        b"TAG" + bytes(125),
        id3(),
        bytes(4_096),
        b"written by a program\n" * 10,
        chunk(b"LIST", b"INFO", 5_000),
        b"\0",
    ],
    ids=["list", "id3 chunk", "bext", "guano", "odd", "unpadded", "id3v1", "id3v2", "zeros", "text", "cut", "pad"],
)
def test_what_follows_the_samples_of_a_wav_is_no_sound(tmp_path: Path, after: bytes) -> None:
    check_whole(tmp_path / "a.wav", wav(SOUND, after=after), SOUND)


def test_chunks_after_an_odd_number_of_bytes_are_no_sound(tmp_path: Path) -> None:
    for padding in (b"", b"\0"):
        data = riff(fmt(bits=8) + b"data" + struct.pack("<I", 3_001) + b"\x80\x90" * 1_500 + b"\x80" + padding + LIST)
        assert decode(tmp_path / "a.wav", data)[1].decoded_s in (3_001 / RATE, 3_002 / RATE)  # libsndfile counts a pad


def test_a_wav_that_lacks_only_padding_is_whole(tmp_path: Path) -> None:
    assert check_whole(tmp_path / "a.wav", wav(SOUND, 2 * len(SOUND) + 1), SOUND).note == ""


def test_a_flac_behind_a_tag_is_read(tmp_path: Path) -> None:
    check_whole(tmp_path / "a.flac", id3() + encoded(SOUND, kind="FLAC"), SOUND)


def test_an_empty_wav_with_chunks_behind_it_is_empty(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="found no samples; the recording is empty"):
        Recording(write(tmp_path / "a.wav", wav(SOUND[:0], after=LIST)))


def test_wavs_that_were_joined_are_read_one_after_the_other(tmp_path: Path) -> None:
    found = check_whole(tmp_path / "a.wav", wav(SOUND) + wav(OTHER, after=LIST), np.concatenate([SOUND, OTHER]))
    assert found.promised_s == 5.0
    check_whole(tmp_path / "b.wav", wav(SOUND, after=LIST) + wav(OTHER, 0), np.concatenate([SOUND, OTHER]))


def test_a_joined_recording_of_another_rate_or_number_of_channels_is_left_out_and_named(tmp_path: Path) -> None:
    stereo = np.stack([OTHER, OTHER], 1)
    later = {
        "a.wav": wav(SOUND) + wav(OTHER, rate=8_000),
        "b.wav": wav(SOUND) + wav(stereo.reshape(-1), channels=2),
        "c.ogg": encoded(SOUND, kind="OGG") + encoded(OTHER, 8_000, "OGG"),
        "d.mp3": mp3(SOUND, RATE) + mp3(OTHER, 8_000),
        "e.flac": encoded(SOUND, kind="FLAC") + encoded(stereo, kind="FLAC"),
    }
    missing = {"a.wav": 4.0, "b.wav": 2.0, "c.ogg": 4.0, "d.mp3": 4.0, "e.flac": 2.0}
    for name, data in later.items():
        samples, found = decode(tmp_path / name, data)
        assert (len(samples), found.complete) == (len(SOUND), False), name
        assert found.missing_s == pytest.approx(missing[name], abs=0.1), name
        assert "other than the first; it was left out" in found.note and "Hz" in found.message


@pytest.mark.parametrize(("kind", "name", "size"), [("CAF", b"desc", -5), ("W64", b"fmt ", 20)])
def test_a_format_chunk_of_a_size_under_0_is_no_crash(tmp_path: Path, kind: str, name: bytes, size: int) -> None:
    data = bytearray(encoded(SOUND, kind=kind))
    start = data.index(name) + (4 if kind == "CAF" else 16)
    data[start : start + 8] = struct.pack(">q" if kind == "CAF" else "<q", size)
    with pytest.raises(AudioError, match="not readable as audio"):
        decode(tmp_path / "a", bytes(data))


# Cut short -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "MP3", "NIST"])
def test_a_recording_that_was_cut_short_says_what_is_missing(tmp_path: Path, kind: str) -> None:
    data = encoded(SOUND, kind=kind)
    samples, found = decode(tmp_path / "a", data[: 2 * len(data) // 3])
    assert 1.5 * RATE < len(samples) < 2.1 * RATE
    if kind != "MP3":
        np.testing.assert_allclose(samples[:, 0], SOUND[: len(samples)], atol=1e-4)
    assert (found.complete, found.promised_s) == (False, 3.0)
    assert found.missing_s == pytest.approx(3.0 - len(samples) / RATE)
    assert "cut short" in found.note or "broken" in found.note


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_was_cut_short_says_so(tmp_path: Path, subtype: str) -> None:
    data = encoded(tone(5.0), kind="OGG", subtype=subtype)
    for cut in (data[: 2 * len(data) // 3], data[: ogg_pages(data)[-1]], ogg_without_end(data)):
        _, found = decode(tmp_path / "a.ogg", cut)
        assert (found.complete, found.missing_s) == (False, None)
        assert "cut short" in found.note


def test_pages_that_are_missing_in_the_middle_of_an_ogg_are_noticed(tmp_path: Path) -> None:
    data = encoded(tone(20.0), kind="OGG")
    pages = ogg_pages(data)
    _, found = decode(tmp_path / "a.ogg", data[: pages[-3]] + data[pages[-2] :])
    assert not found.complete and "1 of its pages are missing" in found.note


def test_a_broken_frame_in_a_flac_costs_that_frame_alone(tmp_path: Path) -> None:
    sound = tone(10.0)
    data = bytearray(encoded(sound, kind="FLAC"))
    middle = len(data) // 2
    data[middle : middle + 8] = b"\xa5" * 8
    samples, found = decode_with_gap(tmp_path / "a.flac", bytes(data))
    assert len(samples) == len(sound)
    bad = np.abs(samples[:, 0] - sound) > 1e-3
    assert 0 < np.count_nonzero(bad) <= 2 * 4_096
    assert found.missing_s is not None and 0 < found.missing_s <= 2 * 4_096 / RATE
    assert "broken" in found.note


def decode_with_gap(path: Path, data: bytes) -> tuple[Floats, Completeness]:
    """All samples of a file, with zeros where it is broken."""
    recording = Recording(write(path, data))
    samples = np.concatenate(list(recording.blocks()))
    assert recording.completeness is not None
    return samples, recording.completeness


def test_a_recording_of_which_nothing_can_be_decoded_is_an_error(tmp_path: Path) -> None:
    data = bytearray(encoded(SOUND, kind="FLAC"))
    start = data.index(b"\xff\xf8")
    data[start:] = bytes(len(data) - start)
    with pytest.raises(AudioError, match="found no samples that can be decoded"):
        list(Recording(write(tmp_path / "a.flac", bytes(data))).blocks())


# Rarer containers ----------------------------------------------------------------------------------------------------

STATED = [
    *(("AVR", subtype) for subtype in ("PCM_S8", "PCM_16")),
    *(("MAT4", subtype) for subtype in ("PCM_16", "PCM_32", "FLOAT", "DOUBLE")),
    *(("MAT5", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_32", "FLOAT", "DOUBLE")),
    *(("SDS", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24")),
    *(("VOC", subtype) for subtype in ("PCM_16", "ULAW", "ALAW")),
    *(("SVX", subtype) for subtype in ("PCM_S8", "PCM_16")),
    ("MPC2K", "PCM_16"),
    ("WVE", "ALAW"),
]
"""Containers whose header states a length that libsndfile does not compare with the file's, or not exactly."""


def of_channels(count: int) -> Floats:
    return SOUND if count == 1 else np.stack([SOUND] * count, axis=1)


@pytest.mark.parametrize(
    ("kind", "subtype", "channels"),
    [(*each, 1) for each in STATED] + [(*each, 2) for each in STATED if each[0] not in ("SDS", "SVX", "WVE")],
)
def test_a_rarer_container_that_was_cut_short_says_what_is_missing(
    tmp_path: Path, kind: str, subtype: str, channels: int
) -> None:
    data = encoded(of_channels(channels), kind=kind, subtype=subtype)
    whole, found = decode(tmp_path / "whole", data)
    assert found.complete and found.note == ""
    promised_s = found.promised_s
    assert promised_s == found.decoded_s
    for size in (2 * len(data) // 3, len(data) - 20):
        samples, found = decode(tmp_path / "cut", data[:size])
        assert len(samples) < len(whole)
        assert np.array_equal(samples, whole[: len(samples)])
        assert (found.complete, found.promised_s) == (False, promised_s)
        assert found.missing_s == pytest.approx(promised_s - found.decoded_s)
        assert found.note == "cut short: the file ends before its header says"
    assert 0.6 < len(decode(tmp_path / "cut", data[: 2 * len(data) // 3])[0]) / len(whole) < 0.7


@pytest.mark.parametrize(("kind", "subtype"), [("VOC", "PCM_16"), ("MAT5", "PCM_16"), ("SVX", "PCM_16")])
def test_what_follows_the_samples_of_a_rarer_container_is_no_sound(tmp_path: Path, kind: str, subtype: str) -> None:
    whole, _ = decode(tmp_path / "whole", encoded(SOUND, kind=kind, subtype=subtype))
    samples, found = decode(tmp_path / "a", encoded(SOUND, kind=kind, subtype=subtype) + bytes(range(256)) * 20)
    assert np.array_equal(samples, whole)
    assert (found.complete, found.note) == (True, "")


@pytest.mark.parametrize(("kind", "start", "stop"), [("VOC", 27, 30), ("MAT5", 260, 264), ("AVR", 26, 30)])
def test_a_rarer_container_that_was_never_finished_is_read_to_its_end(
    tmp_path: Path, kind: str, start: int, stop: int
) -> None:
    data = bytearray(encoded(SOUND, kind=kind, subtype="PCM_16"))
    data[start:stop] = bytes(stop - start)
    samples, found = decode(tmp_path / "a", bytes(data))
    assert len(samples) >= len(SOUND)
    assert (found.complete, found.promised_s) == (True, None)
    assert found.note == f"the {kind} header states no length; the samples were read to the end of the file"


def test_an_avr_that_states_fewer_samples_than_it_has_is_read_to_its_end(tmp_path: Path) -> None:
    data = bytearray(encoded(SOUND, kind="AVR", subtype="PCM_16"))
    data[26:30] = struct.pack(">I", RATE)
    found = check_whole(tmp_path / "a", bytes(data), SOUND)
    assert found.promised_s == 1.0 and "states fewer samples" in found.note


def test_a_sample_dump_that_states_fewer_samples_than_it_has_is_incomplete(tmp_path: Path) -> None:
    data = bytearray(encoded(SOUND, kind="SDS", subtype="PCM_16"))
    data[10:13] = bytes((RATE & 127, RATE >> 7 & 127, RATE >> 14))
    _, found = decode(tmp_path / "a", bytes(data))
    assert (found.complete, found.missing_s) == (False, None) and "states fewer samples" in found.note


def test_the_length_of_one_instrument_is_compared_with_the_file(tmp_path: Path) -> None:
    data = bytearray(encoded(SOUND, kind="XI", subtype="DPCM_16"))
    data[298:302] = struct.pack("<I", 2 * len(SOUND))
    assert decode(tmp_path / "a", bytes(data))[1].note == ""
    _, found = decode(tmp_path / "a", bytes(data[:-20_000]))
    assert found.missing_s == pytest.approx(10_000 / 44_100)


@pytest.mark.parametrize("kind", ["IRCAM", "PVF", "PAF"])
def test_where_nothing_states_a_length_the_record_says_that_it_is_not_checked(tmp_path: Path, kind: str) -> None:
    data = encoded(SOUND, kind=kind, subtype="PCM_16")
    for size in (len(data), len(data) // 2):
        _, found = decode(tmp_path / "a", data[:size])
        assert (found.complete, found.promised_s) == (True, None)
        assert found.note == f"the length of a file of format {kind} is not checked: a missing end would not be noticed"


@pytest.mark.parametrize(("kind", "subtype"), [("HTK", "PCM_16"), ("CAF", "ALAC_16"), ("VOC", "PCM_U8")])
def test_what_libsndfile_refuses_when_cut_short_is_an_error(tmp_path: Path, kind: str, subtype: str) -> None:
    data = encoded(SOUND, kind=kind, subtype=subtype)
    assert decode(tmp_path / "a", data)[1].note == ""
    with pytest.raises(AudioError, match="not readable as audio"):
        decode(tmp_path / "a", data[: len(data) // 2])


# FLAC, MP3 and Ogg ---------------------------------------------------------------------------------------------------


def test_a_flac_of_unknown_length_is_read_whole(tmp_path: Path) -> None:
    found = check_whole(tmp_path / "a.flac", flac_of_unknown_length(SOUND), SOUND)
    assert found.promised_s is None


def test_a_flac_that_states_fewer_samples_than_it_has_is_read_whole(tmp_path: Path) -> None:
    for kind in ("mono", "stereo"):
        sound = SOUND if kind == "mono" else np.stack([SOUND, SOUND], 1)
        data = bytearray(encoded(sound, kind="FLAC"))
        data[22:26] = struct.pack(">I", RATE)
        found = check_whole(tmp_path / "a.flac", bytes(data), SOUND)
        assert found.promised_s == 1.0 and "states fewer samples" in found.note


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("after", [b"", b"TAG" + bytes(125)], ids=["plain", "tag"])
def test_the_end_of_a_flac_is_found(tmp_path: Path, subtype: str, after: bytes) -> None:
    for seconds in (0.001, 0.1, 1.0, 2.3):
        sound = tone(seconds)
        data = bytearray(encoded(sound, kind="FLAC", subtype=subtype) + after)
        _, whole = decode(tmp_path / "a.flac", bytes(data))
        assert whole.complete and whole.note == ""
        data[22:26] = bytes(4)
        _, whole = decode(tmp_path / "a.flac", bytes(data))
        assert whole.complete and whole.note == "", seconds
    for end in (1, 100, 1_000):
        _, found = decode(tmp_path / "a.flac", bytes(data[: len(data) - len(after) - end]))
        assert (found.complete, found.missing_s, found.promised_s) == (False, None, None)
        assert "cut short" in found.note


def test_zeros_after_a_flac_of_unknown_length_are_no_missing_sound(tmp_path: Path) -> None:
    for seconds in (0.1, 1.0, 2.3):
        data = flac_of_unknown_length(tone(seconds))
        for zeros in (1, 2, 20_000, 3_000_000):
            found = check_whole(tmp_path / "a.flac", data + bytes(zeros), tone(seconds))
            assert found.note == "", (seconds, zeros)
    _, found = decode(tmp_path / "a.flac", data[:-100] + bytes(20_000))
    assert not found.complete


def test_flacs_that_were_joined_are_read_one_after_the_other(tmp_path: Path) -> None:
    data = encoded(SOUND, kind="FLAC") + flac_of_unknown_length(OTHER)
    check_whole(tmp_path / "a.flac", data, np.concatenate([SOUND, OTHER]))


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_without_a_count_of_frames_is_read_whole(tmp_path: Path, mode: str, rate: int, channels: int) -> None:
    sound = tone(6.0, rate)
    sound[: 3 * rate] = 0  # a first frame that is small leads a guess of the length astray
    sound = sound if channels == 1 else np.stack([sound, sound], 1)
    samples, found = decode(tmp_path / "a.mp3", mp3(sound, rate, info=False, mode=mode))
    assert len(sound) <= len(samples) < len(sound) + 3 * 1_152
    assert found.complete and found.promised_s is None and found.note == ""


@pytest.mark.parametrize(
    "between", [b"", id3(), b"TAG" + bytes(125), bytes(500)], ids=["plain", "id3v2", "id3v1", "junk"]
)
@pytest.mark.parametrize("infos", [(True, True), (True, False), (False, True), (False, False)])
def test_mp3s_that_were_joined_are_read_whole(tmp_path: Path, between: bytes, infos: tuple[bool, bool]) -> None:
    first, second = tone(6.0, 44_100), tone(4.0, 44_100, seed=1)
    data = mp3(first, info=infos[0]) + between + mp3(second, info=infos[1])
    samples, found = decode(tmp_path / "a.mp3", data)
    assert len(first) + len(second) <= len(samples) < len(first) + len(second) + 6 * 1_152
    assert found.complete
    assert ("no MPEG audio" in found.note) == (between == bytes(500))


def test_an_mp3_without_a_count_that_ends_within_a_frame_says_so(tmp_path: Path) -> None:
    data = mp3(tone(6.0, 44_100), info=False)
    _, found = decode(tmp_path / "a.mp3", data[: mp3_frames(data)[-20] + 50])
    assert (found.complete, found.missing_s, found.note) == (False, None, "cut short within a frame")


@pytest.mark.parametrize("suffix", ["mp3", "MP3", "mpga"])
def test_an_mp3_that_begins_within_a_frame_is_read_from_the_next_one_on(tmp_path: Path, suffix: str) -> None:
    sound = tone(6.0, 44_100)
    sound[: 3 * 44_100] = 0
    data = mp3(sound, info=False)
    samples, found = decode(tmp_path / f"a.{suffix}", data[40:])
    assert len(sound) - 2 * 1_152 <= len(samples) < len(sound) + 3 * 1_152
    left = mp3_frames(data)[1] - 40
    assert (found.complete, found.note) == (True, f"{left} bytes before its first frame are no MPEG audio")


@pytest.mark.parametrize("info", [True, False], ids=["count", "no count"])
@pytest.mark.parametrize("companion", ["._a.mp3", ".AppleDouble/a.mp3"])
def test_files_that_macos_keeps_next_to_an_mp3_are_not_taken_for_it(tmp_path: Path, info: bool, companion: str) -> None:
    data = mp3(tone(2.0, 44_100), info=info)
    expected, _ = decode(tmp_path / "b.mp3", data)
    (tmp_path / companion).parent.mkdir(exist_ok=True)
    (tmp_path / companion).write_bytes(b"\0\x05\x16\x07\0\x02\0\0Mac OS X        " + bytes(60))
    samples, found = decode(tmp_path / "a.mp3", data)
    assert np.array_equal(samples, expected) and found.complete


@pytest.mark.parametrize("info", [True, False], ids=["count", "no count"])
def test_what_the_working_directory_holds_has_no_part_in_an_mp3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: bool
) -> None:
    data = mp3(tone(2.0, 44_100), info=info)
    expected, _ = decode(tmp_path / "b.mp3", data)
    (tmp_path / "cwd" / ".AppleDouble").mkdir(parents=True)
    (tmp_path / "cwd" / "._").touch()
    monkeypatch.chdir(tmp_path / "cwd")
    samples, found = decode(tmp_path / "a.mp3", data)
    assert np.array_equal(samples, expected) and found.complete


def test_an_mp3_with_a_large_tag_before_it_is_read_whole(tmp_path: Path) -> None:
    sound = tone(6.0, 44_100)
    for info in (True, False):
        samples, found = decode(tmp_path / "a.mp3", id3(16_000) + mp3(sound, info=info) + b"TAG" + bytes(125))
        assert found.complete and len(sound) <= len(samples) < len(sound) + 3 * 1_152


ID3V1 = b"TAG" + bytes(125)
APE_ITEMS = b"cover\xff\xfb\x00" * 800


def ape(size: int, is_header: bool) -> bytes:
    """The header or the footer of an APE tag of so many bytes of items."""
    return b"APETAGEX" + struct.pack("<IIII", 2_000, size + 32, 1, 0xA0000000 if is_header else 0x80000000) + bytes(8)


@pytest.mark.parametrize("info", [True, False], ids=["count", "no count"])
@pytest.mark.parametrize(
    "after",
    [
        bytes(20_000),
        bytes(2_000_000),
        bytes(20_000) + ID3V1,
        ape(len(APE_ITEMS), is_header=True) + APE_ITEMS + ape(len(APE_ITEMS), is_header=False),
        APE_ITEMS + ape(len(APE_ITEMS), is_header=False) + ID3V1,
        b"LYRICSBEGIN" + b"la " * 2_000 + b"006011LYRICS200" + ID3V1,
        b"LYRICSBEGIN" + b"la " * 1_500 + b"LYRICSEND",
    ],
    ids=["zeros", "many zeros", "zeros and ID3v1", "APEv2", "APEv1 and ID3v1", "Lyrics3v2", "Lyrics3v1"],
)
def test_padding_and_tags_after_an_mp3_are_no_missing_sound(tmp_path: Path, info: bool, after: bytes) -> None:
    data = mp3(tone(6.0, 44_100), info=info)
    expected, _ = decode(tmp_path / "whole.mp3", data)
    samples, found = decode(tmp_path / "a.mp3", data + after)
    assert np.array_equal(samples, expected)
    assert (found.complete, found.missing_s, found.note) == (True, 0, "")


@pytest.mark.parametrize("info", [True, False], ids=["count", "no count"])
def test_other_bytes_after_an_mp3_are_noted(tmp_path: Path, info: bool) -> None:
    after = b"backup of a card " * 1_000
    _, found = decode(tmp_path / "a.mp3", mp3(tone(6.0, 44_100), info=info) + after)
    assert (found.complete, found.note) == (True, "17000 bytes after its last frame are no MPEG audio")


def test_an_mp3_that_lacks_frames_before_its_padding_is_incomplete(tmp_path: Path) -> None:
    data = mp3(tone(6.0, 44_100))
    _, found = decode(tmp_path / "a.mp3", data[: mp3_frames(data)[-20]] + bytes(20_000))
    assert not found.complete and found.missing_s == pytest.approx(20 * 1_152 / 44_100, abs=0.01)
    assert found.note == "cut short: the file ends before its header says"


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_read_whole(tmp_path: Path, subtype: str) -> None:
    one, two = (encoded(sound, kind="OGG", subtype=subtype) for sound in (SOUND, OTHER))
    samples, found = decode(tmp_path / "a.ogg", one + two + one)
    assert len(samples) == 2 * len(SOUND) + len(OTHER)
    assert found.complete
    parts = [decode(tmp_path / "b.ogg", data)[0] for data in (one, two, one)]
    assert np.array_equal(samples, np.concatenate(parts))


# What is no file -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names there")
def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            Recording(tmp_path / "pipe.wav")
        except AudioError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(5)
    assert raised and "found a pipe; infer takes files, stream takes raw samples" in str(raised[0])


def test_folders_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="found a folder, expected a recording"):
        Recording(tmp_path)
    with pytest.raises(AudioError, match=r"a\.wav: no such file"):
        Recording(tmp_path / "a.wav")


# Memory --------------------------------------------------------------------------------------------------------------


def test_blocks_are_bounded_in_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", riff(fmt(384_000, 1_024) + chunk(b"data", bytes(2 * 1_024 * 3_000))))
    blocks = list(Recording(path).blocks())
    assert max(block.nbytes for block in blocks) <= 2**20
    assert sum(map(len, blocks)) == 3_000


def test_a_file_that_becomes_shorter_while_it_is_read_ends_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", wav(tone(10.0), 0))
    recording = Recording(path)
    blocks = recording.blocks()
    first = next(blocks)
    os.truncate(path, 44 + 2 * len(first))
    rest = list(blocks)
    assert recording.completeness is not None and not recording.completeness.complete
    assert sum(map(len, rest)) < 10 * RATE - len(first)


@pytest.mark.parametrize(
    "make", [lambda: encoded(SOUND), lambda: mp3(SOUND, RATE), lambda: encoded(SOUND, kind="FLAC")]
)
def test_samples_are_those_that_libsndfile_gives(tmp_path: Path, make: Callable[[], bytes]) -> None:
    path = write(tmp_path / "a", make())
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0]
    np.testing.assert_allclose(decode(path, path.read_bytes())[0], expected, atol=1e-6)
