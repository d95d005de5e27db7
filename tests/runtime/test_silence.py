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
from xaimoe_runtime.silence import SILENCE_DBFS, ChannelLevels, sounding_share

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


@pytest.mark.parametrize(
    "samples",
    [
        zeros(400),
        np.full(400, 0.3, np.float32),
        np.float32(LSB) * np.random.default_rng(0).integers(-1, 2, 400).astype(np.float32),
        noise(400, level=10 ** ((SILENCE_DBFS - 6) / 20)),
        0.5 + noise(400, level=10 ** ((SILENCE_DBFS - 6) / 20)),
        zeros(7),
    ],
    ids=["zeros", "an offset", "the last bit of 16", "faint noise", "faint noise on an offset", "less than a hop"],
)
def test_silence(samples: Floats) -> None:
    assert sounding_share(samples, HOP) == 0


def test_faint_noise_sounds() -> None:
    assert sounding_share(noise(400, level=10 ** ((SILENCE_DBFS + 6) / 20)), HOP) == 1


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


def test_a_recording_too_faint_to_sound_is_silent_and_says_so(tmp_path: Path) -> None:
    faint = noise(CLIP) * np.float32(1e-5 / noise(CLIP).std())
    record = result_of(write_wav(tmp_path / "faint.wav", faint, RATE, subtype="FLOAT"))
    assert record.silent
    (warning,) = record.warnings
    assert warning.startswith("the level is -100 dBFS and counts as silence, which begins at -90; ")
    assert not result_of(write_wav(tmp_path / "soft.wav", faint * np.float32(10), RATE, subtype="FLOAT")).warnings


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
