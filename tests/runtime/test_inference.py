"""From samples or a file to an answer: shapes, rates, lengths, labels and the trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
from data import noise, write_wav
from numpy.typing import NDArray

from xaimoe_runtime import AudioError, ConfigError, Runtime
from xaimoe_runtime.inference import rows_of
from xaimoe_runtime.result import UNKNOWN, DecisionRules, decide, pool
from xaimoe_runtime.schema import ROUTINGS, TaskSpec

Floats = NDArray[np.float32]
STAGES = {"frontend", "saliency", "router", "experts", "head"}


@pytest.fixture
def clip(runtime: Runtime) -> Floats:
    """Pings in noise that fill one clip; noise alone would open hardly any gate."""
    time_s = np.arange(runtime.audio.clip_samples) / runtime.audio.sample_rate
    pings = 0.3 * np.sin(2 * np.pi * 1_000 * time_s) * (np.sin(2 * np.pi * 4 * time_s) > 0.5)
    return pings.astype(np.float32) + noise(len(pings), level=0.003)


# Answers -------------------------------------------------------------------------------------------------------------


def test_one_recording_gives_one_answer(runtime: Runtime, clip: Floats) -> None:
    result = runtime.infer(clip)
    assert result.scores.shape == (len(runtime.labels),)
    assert result.scores.sum() == pytest.approx(1, abs=1e-5)
    assert result.labels == (runtime.labels[result.scores.argmax()],)
    assert (result.degraded, result.late) == (False, False)


def test_a_batch_gives_an_answer_for_each_recording(runtime: Runtime, clip: Floats) -> None:
    batch = np.stack([clip, noise(len(clip), seed=1, level=0.01)])
    result = runtime.infer(batch)
    assert result.scores.shape == (2, len(runtime.labels))
    assert [len(labels) for labels in result.labels] == [1, 1]
    for row, recording in zip(result.scores, batch, strict=True):
        np.testing.assert_allclose(row, runtime.infer(recording).scores, atol=1e-5)


def test_a_batch_of_one_stays_a_batch(runtime: Runtime, clip: Floats) -> None:
    result = runtime.infer(clip[None])
    assert result.scores.shape == (1, len(runtime.labels))
    assert result.labels == (runtime.infer(clip).labels,)


def test_plain_lists_and_double_precision_are_samples_too(runtime: Runtime, clip: Floats) -> None:
    wanted = runtime.infer(clip).scores
    np.testing.assert_allclose(runtime.infer(clip.tolist()).scores, wanted, atol=1e-6)
    np.testing.assert_allclose(runtime.infer(clip.astype(np.float64)).scores, wanted, atol=1e-6)


def test_the_samples_are_left_as_they_were(runtime: Runtime, clip: Floats) -> None:
    before = clip.copy()
    runtime.infer(clip)
    assert np.array_equal(clip, before)


def test_samples_are_brought_to_the_models_rate(runtime: Runtime) -> None:
    rate = runtime.audio.sample_rate
    native = noise(3 * runtime.audio.clip_samples)
    found = runtime.infer(native, sample_rate=3 * rate)
    assert len(found.trace.pairs) == 1
    np.testing.assert_allclose(found.scores, runtime.infer(soxr.resample(native, 3 * rate, rate)).scores, atol=1e-5)


def test_a_low_native_rate_bounds_the_band_that_is_heard(runtime: Runtime) -> None:
    trace = runtime.infer(noise(8_000), sample_rate=3_000).trace
    assert (trace.attributes[:, trace.attribute_names.index("fmax_eff")] <= 1_500).all()


def test_clipping_of_the_native_samples_reaches_the_trace(runtime: Runtime) -> None:
    native = np.clip(noise(4 * runtime.audio.clip_samples, level=0.8), -1, 1)
    trace = runtime.infer(native, sample_rate=4 * runtime.audio.sample_rate).trace
    assert trace.attributes[0, trace.attribute_names.index("clipping_rate")] == pytest.approx(0.21, abs=0.01)


def test_a_long_recording_is_answered_by_the_mean_over_its_windows(runtime: Runtime) -> None:
    size = runtime.audio.clip_samples
    recording = noise(3 * size) * np.repeat([0.01, 0.1, 1], size).astype(np.float32)
    result = runtime.infer(recording)
    parts = np.stack([runtime.infer(part).scores for part in recording.reshape(3, size)])
    assert len(result.trace.pairs) == 3
    np.testing.assert_allclose(result.scores, parts.mean(0), atol=1e-5)


def test_more_windows_than_a_batch_holds_are_all_answered(runtime: Runtime) -> None:
    recording = np.tile(noise(runtime.audio.clip_samples), 40)
    result = runtime.infer(recording, routing="glance")
    assert result.trace.saliency.shape[0] == 40
    assert result.scores.shape == (len(runtime.labels),)


def test_a_short_recording_is_repeated(runtime: Runtime, clip: Floats) -> None:
    half = clip[: len(clip) // 2]
    assert np.array_equal(runtime.infer(half).scores, runtime.infer(np.resize(half, len(clip))).scores)


# Trace ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_trace_says_how_the_answer_came_about(runtime: Runtime, clip: Floats, routing: str) -> None:
    trace = runtime.infer(np.stack([clip, clip]), routing=routing).trace
    patches = runtime.manifest.patches.grid.count
    assert trace.routing == routing
    assert trace.experts == runtime.experts
    assert trace.attributes.shape == (2, len(trace.attribute_names))
    assert trace.saliency.shape == (2, patches)
    assert trace.saliency.sum(1) == pytest.approx([1, 1], abs=1e-5)
    assert trace.gates.shape == (2, patches, len(trace.experts))
    assert np.array_equal(trace.pairs, np.count_nonzero(trace.gates, axis=(1, 2)))
    assert trace.pairs.any() == (routing != "glance")
    assert trace.ms.keys() == STAGES


def test_the_bundles_routing_is_the_default(runtime: Runtime, clip: Floats) -> None:
    assert runtime.infer(clip).trace.routing == runtime.manifest.routing


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "what"),
    [
        (np.zeros(100, np.int16), "found int16, expected floating point with full scale at 1.0"),
        ([1, 2, 3], "found int64, expected floating point"),
        (np.zeros((2, 3, 4)), r"found shape \[2, 3, 4\], expected \[n\] or \[B, n\]"),
        (np.zeros(0), r"found shape \[0\]"),
        (np.zeros((0, 100)), r"found shape \[0, 100\]"),
        (np.zeros((2, 0)), r"found shape \[2, 0\]"),
        (0.5, r"found shape \[\]"),
        ("a.wav", r"found shape \[\]"),
        (np.array([0.1, np.nan]), "found 1 samples that are NaN or infinite"),
        (np.array([[0.1, 0.2], [0.1, -np.inf]]), "found 1 samples that are NaN or infinite"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(runtime: Runtime, samples: object, what: str) -> None:
    with pytest.raises(AudioError, match=what):
        runtime.infer(samples)  # type: ignore[arg-type]


def test_recordings_of_different_lengths_are_no_batch(runtime: Runtime) -> None:
    with pytest.raises(AudioError, match=r"expected \[n\] or \[B, n\]"):
        runtime.infer([[0.1, 0.2], [0.1]])


def test_an_answer_that_is_not_finite_is_withheld(runtime: Runtime, clip: Floats) -> None:
    with pytest.raises(AudioError, match="scores that are not finite; the answer was withheld"):
        runtime.infer(clip * np.float32(1e30))


def test_an_unknown_routing_is_refused(runtime: Runtime, clip: Floats) -> None:
    with pytest.raises(ConfigError, match="routing: found 'all', expected routed, dense, glance"):
        runtime.infer(clip, routing="all")


@pytest.mark.parametrize("rate", [0, -16_000, float("inf"), float("nan")])
def test_an_impossible_rate_is_refused(runtime: Runtime, clip: Floats, rate: float) -> None:
    with pytest.raises(AudioError, match="sample_rate: found a sampling rate of"):
        runtime.infer(clip, sample_rate=rate)


# Labels --------------------------------------------------------------------------------------------------------------


def task(kind: str, *thresholds: float) -> TaskSpec:
    return TaskSpec(kind=kind, labels=("a", "b", "c"), thresholds=thresholds or (0.5,) * 3, temperatures=(1.0, 1.0))  # type: ignore[arg-type]


def test_a_single_label_is_the_best_one() -> None:
    assert decide(np.float32([0.2, 0.5, 0.3]), task("single_label")) == ("b",)


def test_of_equal_scores_the_first_label_wins() -> None:
    assert decide(np.float32([0.2, 0.4, 0.4]), task("single_label")) == ("b",)


def test_several_labels_are_those_that_reach_their_thresholds_best_first() -> None:
    assert decide(np.float32([0.6, 0.3, 0.9]), task("multi_label", 0.5, 0.2, 0.95)) == ("a", "b")


def test_no_label_may_be_the_right_answer_to_several() -> None:
    assert decide(np.float32([0.1, 0.1, 0.1]), task("multi_label")) == ()


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_nothing_that_reaches_the_least_score_is_unknown(kind: str) -> None:
    assert decide(np.float32([0.6, 0.3, 0.1]), task(kind), DecisionRules(min_score=0.7)) == (UNKNOWN,)


def test_the_least_score_keeps_what_reaches_it() -> None:
    assert decide(np.float32([0.9, 0.6, 0.1]), task("multi_label"), DecisionRules(min_score=0.7)) == ("a",)


def test_an_unsure_answer_is_unknown_and_keeps_its_scores(runtime: Runtime, clip: Floats) -> None:
    result = runtime.infer(clip, min_score=1.0)
    assert result.labels == (UNKNOWN,)
    assert np.array_equal(result.scores, runtime.infer(clip).scores)


def test_pooled_scores_stay_between_0_and_1() -> None:
    assert pool(np.float32([[1.0000001, -1e-9], [1.0000001, -1e-9]])).tolist() == [1, 0]


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_answered_window_by_window(runtime: Runtime, tmp_path: Path) -> None:
    rate, size = runtime.audio.sample_rate, runtime.audio.clip_samples
    recording = noise(2 * size + size // 2)
    found = list(runtime.infer_file(write_wav(tmp_path / "a.wav", recording, rate)))
    starts = [0, size, 3 * size // 2]
    assert [(w.start_s, w.end_s) for w in found] == [(start / rate, (start + size) / rate) for start in starts]
    for window, start in zip(found, starts, strict=True):
        np.testing.assert_allclose(
            window.result.scores, runtime.infer(recording[start : start + size]).scores, atol=1e-5
        )
        assert window.result.trace.pairs.shape == (1,)
        assert window.channel is None


def test_the_hop_of_a_file_is_a_whole_number_of_frames(runtime: Runtime, tmp_path: Path) -> None:
    rate, frame = runtime.audio.sample_rate, runtime.audio.frame_hop
    path = write_wav(tmp_path / "a.wav", noise(runtime.audio.clip_samples + 10 * frame), rate)
    found = list(runtime.infer_file(str(path), hop_s=5.2 * frame / rate, routing="glance"))
    assert [round(w.start_s * rate) for w in found] == [0, 5 * frame, 10 * frame]


def test_the_least_hop_is_one_frame(runtime: Runtime, tmp_path: Path) -> None:
    rate, frame = runtime.audio.sample_rate, runtime.audio.frame_hop
    path = write_wav(tmp_path / "a.wav", noise(runtime.audio.clip_samples + frame), rate)
    assert [round(w.start_s * rate) for w in runtime.infer_file(path, hop_s=1e-9)] == [0, frame]


@pytest.mark.parametrize("hop", [0, -1, float("inf"), float("nan")])
def test_a_hop_that_leads_nowhere_is_refused(runtime: Runtime, tmp_path: Path, hop: float) -> None:
    with pytest.raises(ConfigError, match=r"hop: found .* s, expected more than 0"):
        list(runtime.infer_file(tmp_path / "a.wav", hop_s=hop))


def test_a_window_that_is_unsure_is_unknown(runtime: Runtime, tmp_path: Path) -> None:
    (window,) = runtime.infer_file(write_wav(tmp_path / "a.wav", noise(8_000)), min_score=1.0)
    assert window.result.labels == (UNKNOWN,)


# Memory --------------------------------------------------------------------------------------------------------------


def test_clips_of_a_batch_are_not_copied_and_others_are() -> None:
    batch = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = rows_of([clip[:, None][:, 0] for clip in batch])
    assert np.shares_memory(rows, batch) and np.array_equal(rows, batch)
    for others in ([batch[0], batch[2]], [batch[1], batch[0]], [batch[0], batch[1].copy()], [*batch.T[:2]]):
        copied = rows_of(list(others))
        assert not np.shares_memory(copied, batch)
        assert np.array_equal(copied, np.stack(others))


def test_one_clip_is_a_row() -> None:
    clip = np.arange(3, dtype=np.float32)
    assert rows_of([clip]).shape == (1, 3)
