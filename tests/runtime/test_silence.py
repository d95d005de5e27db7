"""Silence: what counts as it, by every door, and channels that are dead or that cancel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from data import noise, write_wav
from data.engines import CLIP, HOP, LABELS, RATE, LevelEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xaimoe_runtime.audio import Resampler, resample
from xaimoe_runtime.files import FileClassifier
from xaimoe_runtime.inference import file_windows, infer, infer_windows
from xaimoe_runtime.published import SCHEMAS
from xaimoe_runtime.records import ResultRecord, SummaryRecord, WindowRecord
from xaimoe_runtime.result import UNKNOWN, DecisionRules
from xaimoe_runtime.schema import POOLS, Pool, TaskKind
from xaimoe_runtime.silence import FLOOR_DBFS, SILENCE_DBFS, ChannelLevels, silence_power, sounding_share

Floats = NDArray[np.float32]
LSB = 1 / 32_768
VALIDATOR = jsonschema.Draft202012Validator(json.loads((SCHEMAS / "records.schema.json").read_bytes()))


def zeros(samples: int) -> Floats:
    return np.zeros(samples, np.float32)


def records_of(path: Path, kind: TaskKind = "single_label", **options: Any) -> list[Any]:
    found = list(FileClassifier(LevelEngine(kind), **options).records([path]))
    for record in found:
        VALIDATOR.validate(json.loads(msgspec.json.encode(record)))
    return found


def result_of(path: Path, kind: TaskKind = "single_label", **options: Any) -> ResultRecord:
    (result,) = (record for record in records_of(path, kind, **options) if isinstance(record, ResultRecord))
    return result


# What silence is -----------------------------------------------------------------------------------------------------


def at(level_dbfs: float) -> Floats:
    """Noise of a level in dB re full scale."""
    return noise(400, level=10 ** (level_dbfs / 20))


@pytest.mark.parametrize(
    "samples",
    [
        zeros(400),
        np.full(400, 0.3, np.float32),
        np.float32(LSB) * np.random.default_rng(0).integers(-1, 2, 400).astype(np.float32),
        at(SILENCE_DBFS - 6),
        0.5 + at(SILENCE_DBFS - 6),
        zeros(7),
    ],
    ids=["zeros", "an offset", "the last bit of 16", "faint noise", "faint noise on an offset", "less than a hop"],
)
def test_silence_of_16_bits(samples: Floats) -> None:
    assert sounding_share(samples, HOP, "PCM_16") == 0


@pytest.mark.parametrize(
    "samples",
    [zeros(400), np.full(400, 0.3, np.float32), at(FLOOR_DBFS - 6), 0.5 + at(-170), zeros(7)],
    ids=["zeros", "an offset", "under the spectrogram", "rounding on an offset", "less than a hop"],
)
@pytest.mark.parametrize("encoding", ["PCM_24", "PCM_32", "FLOAT", "DOUBLE", ""])
def test_silence_of_fine_samples(samples: Floats, encoding: str) -> None:
    assert sounding_share(samples, HOP, encoding) == 0


@pytest.mark.parametrize(
    ("encodings", "limit"),
    [
        ("PCM_16 PCM_U8 PCM_S8 ULAW ALAW IMA_ADPCM GSM610 MPEG_LAYER_III VORBIS OPUS ALAC_16 DPCM_16", -90.0),
        ("ALAC_20", -114.4),
        ("PCM_24 PCM_32 ALAC_24 ALAC_32 FLOAT DOUBLE", -130.0),
    ],
    ids=["16 bits", "20 bits", "more"],
)
def test_what_is_silent_depends_on_the_resolution(encodings: str, limit: float) -> None:
    for encoding in encodings.split():
        assert 10 * np.log10(silence_power(encoding)) == pytest.approx(limit, abs=0.05), encoding
        assert sounding_share(at(limit - 2), HOP, encoding) < 0.2
        assert sounding_share(at(limit + 6), HOP, encoding) == 1
    assert silence_power("") == silence_power("FLOAT")


def test_one_click_is_no_silence() -> None:
    samples = zeros(400)
    samples[137] = 0.01
    assert sounding_share(samples, HOP) == HOP / 400


def test_the_share_is_that_of_the_frame_hops() -> None:
    assert sounding_share(np.concatenate([zeros(300), noise(100)]), HOP) == 0.25


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "labels"), [("single_label", (UNKNOWN,)), ("multi_label", ())])
@pytest.mark.parametrize("rate", [RATE, 4 * RATE, 700])
@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_silent_file_has_no_class(
    kind: TaskKind, labels: tuple[str, ...], rate: int, value: float, tmp_path: Path
) -> None:
    path = write_wav(tmp_path / "a.wav", np.full(3 * rate, value, np.float32), rate)
    *windows, result, summary = records_of(path, kind, windows=True)
    assert {record.labels for record in (*windows, result)} == {labels}
    assert all(record.silent and set(record.scores.values()) == {0.0} for record in (*windows, result))
    assert (result.windows, result.novelty) == (result.silent_windows, 0.0)
    assert isinstance(summary, SummaryRecord)
    assert (summary.silent, summary.silent_windows) == (1, result.windows)


@pytest.mark.parametrize("pool", POOLS)
def test_silence_around_a_sound_has_no_say(pool: Pool, tmp_path: Path) -> None:
    sound = noise(CLIP, level=0.1)
    alone = write_wav(tmp_path / "alone.wav", sound, RATE)
    padded = write_wav(tmp_path / "padded.wav", np.concatenate([zeros(9 * CLIP), sound, zeros(9 * CLIP)]), RATE)
    one, other = result_of(alone, pool=pool), result_of(padded, pool=pool)
    assert other.labels == one.labels == ("background",)
    assert other.scores == pytest.approx(one.scores)
    assert (other.windows, other.silent_windows, other.silent) == (19, 18, False)


def test_padding_within_windows_counts_for_what_sounds(tmp_path: Path) -> None:
    """A tenth of a window of sound has a tenth of a vote, whatever the model makes of the zeros."""
    sound = np.concatenate([zeros(CLIP - HOP), noise(CLIP + HOP, level=0.1)])
    result = result_of(write_wav(tmp_path / "a.wav", sound, RATE), windows=True)
    scores = [infer(LevelEngine(), part, RATE).scores[1] for part in sound.reshape(2, CLIP)]
    assert result.scores["call"] == pytest.approx((scores[0] / 20 + scores[1]) / (1 + 1 / 20), abs=1e-5)


def test_a_recording_without_silence_is_answered_as_before(tmp_path: Path) -> None:
    sound = noise(3 * CLIP) * np.repeat([0.1, 1, 4], CLIP).astype(np.float32)
    outputs = LevelEngine().run(sound.reshape(3, CLIP), np.zeros((3, 2), np.float32), "routed")
    result = result_of(write_wav(tmp_path / "a.wav", sound, RATE))
    assert list(result.scores.values()) == pytest.approx(outputs.scores.mean(0).tolist(), abs=1e-6)


# Doors ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(
        st.tuples(st.sampled_from(["zeros", "offset", "quiet", "loud"]), st.integers(1, 2 * CLIP)),
        min_size=1,
        max_size=6,
    ),
    pool=st.sampled_from(POOLS),
    batch=st.integers(1, 5),
)
def test_array_file_and_windows_agree(
    parts: list[tuple[str, int]], pool: Pool, batch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kinds = {"zeros": 0.0, "offset": 0.0, "quiet": 0.01, "loud": 0.5}
    signal = np.concatenate(
        [noise(n, seed=i, level=kinds[kind]) + np.float32(kind == "offset") / 4 for i, (kind, n) in enumerate(parts)]
    )
    path = write_wav(tmp_path_factory.getbasetemp() / "doors.wav", signal, RATE)
    engine, rules = LevelEngine(), DecisionRules(pool=pool)
    array = infer(engine, signal, RATE, rules=rules)
    record = result_of(path, pool=pool, batch_size=batch)
    windows = [window for _, window in file_windows(path, engine.audio)]
    predicted = infer_windows(engine, [windows], "routed", rules)
    (in_batch,) = infer(engine, signal[None], RATE, rules=rules).labels
    assert array.labels == record.labels == predicted.labels == in_batch
    np.testing.assert_allclose(list(record.scores.values()), array.scores, atol=2e-6)
    np.testing.assert_allclose(predicted.scores, array.scores, atol=2e-6)
    assert array.max_scores is not None and array.max_at_s is not None
    np.testing.assert_allclose(list(record.max_scores.values()), array.max_scores, atol=2e-6)
    np.testing.assert_allclose(list(record.max_at_s.values()), array.max_at_s, atol=2e-6)
    assert record.silent == array.silent == (UNKNOWN in array.labels)
    assert record.novelty == pytest.approx(float(array.novelty), abs=2e-6)


def test_a_batch_says_which_are_silent() -> None:
    result = infer(LevelEngine(), np.stack([zeros(CLIP), noise(CLIP, level=0.5)]), RATE)
    assert isinstance(result.silent, np.ndarray)
    assert (result.silent.tolist(), result.labels) == ([True, False], ((UNKNOWN,), ("call",)))


# Resampling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [700, 4_000])
def test_an_offset_has_no_edges_after_resampling(wanted: int) -> None:
    offset = np.full(3_000, 0.3, np.float32)
    assert np.ptp(resample(offset, 1_000, wanted)) == 0
    stream = Resampler(1_000, wanted, 1)
    pieces = [stream.resample_chunk(offset[i : i + 7], last=i + 7 >= 3_000) for i in range(0, 3_000, 7)]
    assert np.ptp(np.concatenate(pieces)) == 0


def test_other_signals_are_resampled_as_they_were() -> None:
    import soxr

    signal = noise(3_000) + np.float32(0.3)
    assert np.array_equal(resample(signal, 1_000, 700), soxr.resample(signal, 1_000, 700))
    ours, theirs = Resampler(1_000, 700, 1), soxr.ResampleStream(1_000, 700, 1, dtype="float32")
    assert np.array_equal(ours.resample_chunk(signal, last=True), theirs.resample_chunk(signal, last=True))


def test_pieces_of_any_size_are_resampled_alike() -> None:
    signal = np.concatenate([np.full(50, 0.2, np.float32), noise(2_000)])
    one, many = Resampler(1_000, 700, 1), Resampler(1_000, 700, 1)
    whole = one.resample_chunk(signal, last=True)
    pieces = [many.resample_chunk(signal[i : i + 3], last=i + 3 >= len(signal)) for i in range(0, len(signal), 3)]
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)


# Channels ------------------------------------------------------------------------------------------------------------


def stereo(tmp_path: Path, left: Floats, *others: Floats) -> Path:
    return write_wav(tmp_path / "channels.wav", np.stack([left, *others], axis=1), RATE)


@pytest.mark.parametrize("offset", [0.0, 0.2])
def test_a_reversed_channel_is_named_and_the_mix_has_no_class(tmp_path: Path, offset: float) -> None:
    x = noise(3 * CLIP)
    result = result_of(stereo(tmp_path, x, np.float32(offset) - x))
    assert result.labels == (UNKNOWN,) and result.silent
    assert result.warnings == (
        "the channels cancel: the mix of 2 is silent, as if one were reversed; choose one with --channel",
    )


def test_channels_that_almost_cancel_are_named(tmp_path: Path) -> None:
    x = noise(3 * CLIP)
    result = result_of(stereo(tmp_path, x, -0.97 * x))
    assert not result.silent
    (warning,) = result.warnings
    assert warning.startswith("the channels cancel: the mix of 2 is 33 dB weaker than unrelated ones")


def test_unrelated_channels_do_not_cancel(tmp_path: Path) -> None:
    assert result_of(stereo(tmp_path, *(noise(3 * CLIP, seed=i) for i in range(8)))).warnings == ()


def test_a_dead_channel_is_named(tmp_path: Path) -> None:
    x, dead = noise(3 * CLIP), np.full(3 * CLIP, 0.4, np.float32)
    path = stereo(tmp_path, x, dead, x)
    assert result_of(path).warnings == ("channel 1 is silent, channels 0, 2 are not; choose one with --channel",)
    chosen = result_of(path, channel="1")
    assert chosen.silent and chosen.warnings == ("channel 1 is silent; choose another with --channel",)
    assert result_of(path, channel="0").warnings == ()


def test_each_channel_is_judged_on_its_own(tmp_path: Path) -> None:
    path = stereo(tmp_path, noise(3 * CLIP), zeros(3 * CLIP))
    first, second, summary = records_of(path, channel="each")
    assert (first.silent, first.warnings) == (False, ())
    assert (second.silent, second.labels) == (True, (UNKNOWN,))
    assert (summary.silent, summary.warned) == (1, 1)


def test_a_silent_file_has_no_channel_to_blame(tmp_path: Path) -> None:
    assert result_of(stereo(tmp_path, zeros(CLIP), zeros(CLIP))).warnings == ()
    assert result_of(write_wav(tmp_path / "mono.wav", zeros(CLIP), RATE)).warnings == ()


FAINT = "under -90 the router selects no expert, and under -130 the model sees silence"
UNSEEN = "and counts as silence: the model sees nothing under -130"
UNRESOLVED = "and counts as silence: samples of this encoding resolve nothing under -90"


@pytest.mark.parametrize(
    ("subtype", "gain_db", "silent", "text"),
    [
        *(("FLOAT", gain_db, False, "") for gain_db in (0, -20, -40, -60)),
        ("FLOAT", -80, False, f"the level is -100 dBFS: {FAINT}"),
        ("FLOAT", -100, False, f"the level is -120 dBFS: {FAINT}"),
        ("FLOAT", -120, True, f"the level is -140 dBFS {UNSEEN}"),
        ("DOUBLE", -120, True, f"the level is -140 dBFS {UNSEEN}"),
        *(("PCM_24", gain_db, False, "") for gain_db in (0, -20, -40, -60)),
        ("PCM_24", -80, False, f"the level is -100 dBFS: {FAINT}"),
        ("PCM_24", -100, False, f"the level is -120 dBFS: {FAINT}"),
        ("PCM_24", -115, True, f"the level is -135 dBFS {UNSEEN}"),
        *(("PCM_16", gain_db, False, "") for gain_db in (0, -20, -40, -60)),
        ("PCM_16", -73, True, f"the level is -92 dBFS {UNRESOLVED}"),  # libsndfile rounds down
        ("PCM_16", -120, True, f"the level is -96 dBFS {UNRESOLVED}"),
    ],
)
def test_a_faint_recording_has_a_class_down_to_the_resolution_of_its_file(
    tmp_path: Path, subtype: str, gain_db: float, silent: bool, text: str
) -> None:
    clip = noise(2 * CLIP, level=0.1) * np.float32(10 ** (gain_db / 20))
    path = write_wav(tmp_path / "a.wav", clip, RATE, subtype=subtype)
    *windows, record, summary = records_of(path, windows=True)
    assert {part.silent for part in (*windows, record)} == {silent}
    assert (record.labels == (UNKNOWN,)) == silent and (set(record.scores.values()) == {0.0}) == silent
    assert summary.warned == bool(text)
    assert "".join(record.warnings).startswith(text) and len(record.warnings) == bool(text)
    if subtype == "FLOAT":  # so has an array
        for array in (clip, clip.astype(np.float64)):
            result = infer(LevelEngine(), array, RATE)
            assert (result.silent, result.labels, result.warnings) == (silent, record.labels, record.warnings)


def test_an_offset_does_not_hide_that_a_recording_is_faint(tmp_path: Path) -> None:
    faint = np.float32(0.25) + at(-100)
    path = write_wav(tmp_path / "a.wav", faint, RATE, subtype="FLOAT")
    record = result_of(path)
    assert not record.silent and infer(LevelEngine(), faint, RATE).warnings == record.warnings
    assert record.warnings[0].startswith("the level is -100 dBFS: ")


def test_of_a_batch_the_recordings_are_named_that_are_too_faint() -> None:
    result = infer(LevelEngine(), np.stack([noise(CLIP), noise(CLIP) * np.float32(1e-6), zeros(CLIP)]), RATE)
    assert isinstance(result.silent, np.ndarray) and result.silent.tolist() == [False, True, True]
    assert [text[:35] for text in result.warnings] == ["recording 1: the level is -140 dBFS"]


def test_an_input_that_is_open_is_named_in_24_bits_too(tmp_path: Path) -> None:
    frames = np.stack([noise(3 * CLIP), noise(3 * CLIP) * np.float32(1e-4)], axis=1)
    path = write_wav(tmp_path / "a.wav", frames, RATE, subtype="PCM_24")
    assert result_of(path).warnings == ("channel 1 is silent, channel 0 is not; choose one with --channel",)


def test_of_many_dead_channels_the_first_are_listed() -> None:
    levels = ChannelLevels("mix")
    frames = np.zeros((100, 40), np.float32)
    frames[:, 0] = noise(100)
    levels.add(frames, frames.mean(axis=1, keepdims=True))
    (warning,) = levels.warnings()
    assert warning.startswith("channels 1, 2, 3, 4, 5, 6, 7, 8 and 31 more are silent, channel 0 is not")


def test_levels_do_not_depend_on_blocks() -> None:
    frames = noise(900).reshape(-1, 3) + np.float32(100)
    one, many = ChannelLevels("mix"), ChannelLevels("mix")
    one.add(frames, frames.mean(axis=1, keepdims=True))
    for i in range(0, len(frames), 7):
        many.add(frames[i : i + 7], frames[i : i + 7].mean(axis=1, keepdims=True))
    np.testing.assert_allclose(many.powers, one.powers, rtol=1e-6)
    np.testing.assert_allclose(one.powers[1:], frames.var(axis=0, dtype=np.float64), rtol=1e-6)


def test_windows_have_the_labels_of_the_engine_where_they_sound(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.concatenate([zeros(CLIP), noise(CLIP, level=0.5)]), RATE)
    silent, loud, *_ = records_of(path, windows=True)
    assert isinstance(silent, WindowRecord) and isinstance(loud, WindowRecord)
    assert (silent.labels, loud.labels) == ((UNKNOWN,), ("call",))
    assert tuple(loud.scores) == LABELS
