"""Samples pushed in, windows out: the same windows and scores as of a file, however the samples come."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import pytest
import soxr
from data import bursts, write_wav
from data.bundles import EditableBundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xaimoe_runtime import AudioError, ConfigError, Runtime, WindowResult
from xaimoe_runtime.clipping import CHUNK
from xaimoe_runtime.inference import file_windows, hop_samples

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def audio(runtime: Runtime, scenes: Path) -> Floats:
    """Scenes of several kinds one after the other, four clips and a bit, at the model's rate."""
    parts = []
    for path in sorted((scenes / "audio").glob("*.*"))[::3]:
        parts += [window.samples for _, window in file_windows(path, runtime.audio)]
    return np.concatenate(parts)[: round(4.3 * runtime.audio.clip_samples)]


def pushed(runtime: Runtime, samples: Floats, sizes: list[int], **options: object) -> list[WindowResult]:
    """Windows of samples that come in pieces of these sizes, over and over."""
    stream = runtime.open_stream(**options)  # type: ignore[arg-type]
    found, start, turn = [], 0, 0
    while start < len(samples):
        size = sizes[turn % len(sizes)]
        found += stream.push(samples[start : start + size])
        start, turn = start + size, turn + 1
    return found + stream.finish()


def of_file(runtime: Runtime, path: Path, hop_s: float) -> list[WindowResult]:
    return list(runtime.infer_file(path, hop_s))


def assert_same(found: list[WindowResult], wanted: list[WindowResult]) -> None:
    assert [(w.start_s, w.end_s) for w in found] == [(w.start_s, w.end_s) for w in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.result.scores, other.result.scores, atol=1e-4)
        np.testing.assert_allclose(one.result.trace.gates, other.result.trace.gates, atol=1e-4)
        np.testing.assert_allclose(one.result.trace.saliency, other.result.trace.saliency, atol=1e-4)


def test_a_stream_is_silent_where_a_file_is_and_frames_are_shared(
    runtime: Runtime, audio: Floats, tmp_path: Path
) -> None:
    rate, size = runtime.audio.sample_rate, runtime.audio.clip_samples
    samples = audio.copy()
    samples[size : 3 * size] = 0.2
    hop_s = 0.25 * size / rate
    found = pushed(runtime, samples, [777], hop_s=hop_s)
    expected = of_file(runtime, write_wav(tmp_path / "audio.wav", samples, rate), hop_s)
    assert_same(found, expected)
    silent = [window.result.silent for window in found]
    assert silent == [window.result.silent for window in expected] and 4 <= sum(silent) < len(silent)  # type: ignore[arg-type]
    assert {window.result.labels for window in found if window.result.silent} == {("unknown",)}


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0, 1.7])
def test_a_stream_answers_as_a_file_does(runtime: Runtime, audio: Floats, tmp_path: Path, share: float) -> None:
    hop_s = share * runtime.audio.clip_samples / runtime.audio.sample_rate
    path = write_wav(tmp_path / "audio.wav", audio, runtime.audio.sample_rate)
    wanted = of_file(runtime, path, hop_s)
    assert len(wanted) >= 3
    assert_same(pushed(runtime, audio, [1000, 1, 7777, 333], hop_s=hop_s), wanted)


def test_overlapping_windows_are_made_of_shared_frames(runtime: Runtime, audio: Floats) -> None:
    hop_s = 4 * runtime.audio.frame_hop / runtime.audio.sample_rate
    stream = runtime.open_stream(hop_s=hop_s)
    calls: list[int] = []
    graph = stream._frames.graph  # type: ignore[union-attr]

    class Counted:
        spec = graph.spec

        def __call__(self, waveform: Floats) -> dict[str, Floats]:
            found = graph(waveform=waveform)
            calls.append(found["frames"].shape[2])
            return found

    stream._frames.graph = Counted()  # type: ignore[union-attr, assignment]
    found = stream.push(audio)
    whole = (len(audio) - stream._frames.seen) // stream._frames.hop + 1  # type: ignore[union-attr]
    assert whole - 16 < sum(calls) <= whole  # each once; the last few when they are worth a run
    assert len(found) > 20
    assert all("window" in w.result.trace.ms and "frontend" not in w.result.trace.ms for w in found)


@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
def test_any_rate_is_resampled_as_it_comes(runtime: Runtime, audio: Floats, tmp_path: Path, rate: int) -> None:
    native = soxr.resample(audio, runtime.audio.sample_rate, rate).astype(np.float32)
    path = write_wav(tmp_path / "audio.wav", native, rate)
    wanted = of_file(runtime, path, 0.5)
    found = pushed(runtime, native, [4321, 99], sample_rate=rate, hop_s=0.5)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.start_s == pytest.approx(other.start_s, abs=1e-3)
        np.testing.assert_allclose(one.result.scores, other.result.scores, atol=1e-3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=6), st.sampled_from([0.13, 0.5, 2.0]))
def test_it_does_not_matter_in_which_pieces_samples_come(
    runtime: Runtime, audio: Floats, sizes: list[int], hop_s: float
) -> None:
    short = audio[: 2 * runtime.audio.clip_samples + 777]
    sizes = [max(size, 500) for size in sizes]
    assert_same(pushed(runtime, short, sizes, hop_s=hop_s), pushed(runtime, short, [len(short)], hop_s=hop_s))


def test_a_stream_shorter_than_a_window_is_repeated_to_fill_it(runtime: Runtime, audio: Floats, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "audio.wav", audio[:5000], runtime.audio.sample_rate)
    (found,) = pushed(runtime, audio[:5000], [1024])
    assert_same([found], of_file(runtime, path, 1.0))
    assert found.end_s == pytest.approx(5000 / runtime.audio.sample_rate)


def test_a_stream_without_samples_has_no_answer(runtime: Runtime) -> None:
    stream = runtime.open_stream(44_100)
    assert stream.finish() == []
    assert stream.finish() == []
    with pytest.raises(ConfigError, match="open another stream"):
        stream.push(bursts(100))


def test_clipping_is_counted_before_resampling(runtime: Runtime, tmp_path: Path) -> None:
    loud = np.clip(3 * np.sin(np.arange(120_000) * 0.05), -1, 1).astype(np.float32)
    path = write_wav(tmp_path / "loud.wav", loud, 48_000)
    (wanted, *_), (found, *_) = (
        of_file(runtime, path, 0.5),
        pushed(runtime, loud, [4800], sample_rate=48_000, hop_s=0.5),
    )
    column = runtime.attribute_names.index("clipping_rate")
    share = found.result.trace.attributes[0, column]
    assert share > 0.5
    assert share == pytest.approx(wanted.result.trace.attributes[0, column], abs=0.02)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(500, 20_000), min_size=1, max_size=5),
    st.sampled_from([0.13, 0.5, 2.0]),
    st.sampled_from([None, 11_025, 44_100]),
)
def test_windows_have_the_clipping_rates_and_scores_of_a_file_whatever_the_pushes(
    runtime: Runtime, audio: Floats, tmp_path: Path, sizes: list[int], hop_s: float, rate: int | None
) -> None:
    loud = audio[: 2 * runtime.audio.clip_samples + 777].copy()
    loud[len(loud) // 5 : len(loud) // 3] *= 1_000
    loud = np.clip(loud, -1, 1)
    native = rate or runtime.audio.sample_rate
    path = write_wav(tmp_path / "loud.wav", loud, native)
    windows = list(runtime.infer_file(path, hop_s=hop_s))
    from_pushes = pushed(runtime, loud, sizes, sample_rate=native, hop_s=hop_s)
    assert_same(from_pushes, windows)
    column = runtime.attribute_names.index("clipping_rate")
    rates = [[w.result.trace.attributes[0, column] for w in found] for found in (windows, from_pushes)]
    assert rates[0] == rates[1] and 0 < max(rates[0]) < 1
    if hop_s == 2.0:  # windows that an array is cut into, too
        array = runtime.infer(loud, native)
        whole = list(runtime.infer_file(path))
        assert array.trace.attributes[:, column].tolist() == [w.result.trace.attributes[0, column] for w in whole]
        np.testing.assert_allclose(array.scores, np.mean([w.result.scores for w in whole], 0), atol=1e-4)


def test_channels_are_mixed_or_chosen(runtime: Runtime, audio: Floats) -> None:
    other = bursts(len(audio), level=0.01)
    stereo = np.stack([audio, other], axis=1)
    left = pushed(runtime, stereo, [10_000], channel=0)
    assert [w.channel for w in left] == [0] * len(left)
    for one, two in zip(left, pushed(runtime, audio, [10_000]), strict=True):
        np.testing.assert_allclose(one.result.scores, two.result.scores, atol=1e-6)
    mixed = pushed(runtime, stereo, [10_000])
    for one, two in zip(mixed, pushed(runtime, (audio + other) / 2, [10_000]), strict=True):
        np.testing.assert_allclose(one.result.scores, two.result.scores, atol=1e-5)
    with pytest.raises(AudioError, match="expected channel 2"):
        runtime.open_stream(channel=2).push(stereo)
    with pytest.raises(ConfigError, match="a stream for each channel"):
        runtime.open_stream(channel="each")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([0.1, np.nan], np.float32), "NaN or infinite"),
        (np.zeros((2, 2, 2), np.float32), "shape"),
        (np.zeros(0, np.float32), "shape"),
        (np.zeros(10, np.int16), "int16"),
    ],
)
def test_bad_samples_are_refused_and_the_stream_goes_on(
    runtime: Runtime, audio: Floats, bad: NDArray[np.generic], message: str
) -> None:
    stream = runtime.open_stream()
    found = stream.push(audio[:20_000])
    with pytest.raises(AudioError, match=message):
        stream.push(bad)
    found += stream.push(audio[20_000:]) + stream.finish()
    assert_same(found, pushed(runtime, audio, [len(audio)]))


@pytest.mark.parametrize("rate", [1, 10_000_001, float("nan"), "16000"])
def test_a_rate_that_no_recorder_has_is_refused(runtime: Runtime, rate: Any) -> None:
    with pytest.raises(AudioError, match="sampling rate"):
        runtime.open_stream(rate)
    with pytest.raises(AudioError, match="sampling rate"):
        runtime.infer(bursts(100), rate)


@pytest.mark.parametrize("options", [{"hop_s": 0}, {"budget_ms": 0}, {"routing": "all"}, {"percentile": "p50.5"}])
def test_options_that_make_no_sense_are_refused(runtime: Runtime, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        runtime.open_stream(**options)  # type: ignore[arg-type]


def test_a_budget_leaves_pairs_out(runtime: Runtime, audio: Floats) -> None:
    tight = pushed(runtime, audio, [10_000], budget_ms=1e-3, hop_s=0.5)
    assert all(w.result.late and w.result.trace.pairs[0] == 0 for w in tight)
    assert any(w.result.degraded for w in tight)
    assert all("window" not in w.result.trace.predicted_ms for w in tight)
    ample = pushed(runtime, audio, [10_000], budget_ms=10_000, hop_s=0.5)
    assert_same(ample, pushed(runtime, audio, [10_000], hop_s=0.5))
    assert not any(w.result.late or w.result.degraded for w in ample)


def test_windows_may_wait_and_the_oldest_be_given_up(runtime: Runtime, audio: Floats) -> None:
    every = pushed(runtime, audio, [len(audio)], hop_s=0.25)
    stream = runtime.open_stream(hop_s=0.25)
    stream.take(audio)
    assert len(stream.waiting) == len(every) - 1  # the last one ends with the stream
    assert stream.drop(3) == len(every) - 4
    assert stream.dropped == len(every) - 4
    assert stream.drop(3) == 0
    found = [stream.answer() for _ in range(3)]
    assert_same(found, every[-4:-1])
    with pytest.raises(IndexError):
        stream.answer()
    assert_same(stream.finish(), every[-1:])


def test_of_the_windows_that_wait_only_old_ones_are_given_up(runtime: Runtime, audio: Floats) -> None:
    stream, half = runtime.open_stream(hop_s=0.25), len(audio) // 2
    stream.take(audio[:half], arrived=1.0)
    old = len(stream.waiting)
    stream.take(audio[half:], arrived=2.0)
    assert stream.drop(0, before=1.0) == 0
    assert stream.drop(len(stream.waiting) - 1, before=1.5) == 1
    assert stream.drop(1, before=1.5) == old - 1
    assert {window.arrived for window in stream.waiting} == {2.0}


def test_what_a_window_needs_is_ready_before_it_comes_and_its_time_is_told(editable: EditableBundle) -> None:
    own = Runtime.load(editable.path)
    stream = own.open_stream(hop_s=0.5)
    assert "stages" in own.dispatcher.__dict__  # opened already
    (first, second) = stream.push(bursts(own.audio.clip_samples + stream.hop))
    for window in (first, second):
        assert list(window.result.trace.ms)[:2] == ["frames", "window"]
    assert first.result.trace.ms["frames"] > 0


def test_a_deadline_counts_from_the_arrival_of_the_last_sample(runtime: Runtime, audio: Floats) -> None:
    stream = runtime.open_stream(budget_ms=5_000)
    stream.take(audio, arrived=perf_counter() - 10)
    assert stream.answer().result.late
    assert not stream.answer(began=perf_counter()).result.late


def test_memory_stays_as_it_is(runtime: Runtime, audio: Floats) -> None:
    stream, frontend = runtime.open_stream(hop_s=0.1), runtime.manifest.frontend
    for _ in range(12):
        stream.push(audio)
        frames = stream._frames
        assert frames is not None
        assert stream._samples._data.size < 6 * runtime.audio.clip_samples
        assert frames.frames._data.size < 6 * frontend.bins * frontend.frames
        assert len(stream._meter._chunks) <= 2 + runtime.audio.clip_samples // CHUNK
    assert stream._samples.end == 12 * len(audio)
    assert stream._samples.end - stream._samples.first <= runtime.audio.clip_samples + runtime.audio.frame_hop


def test_an_answer_that_is_not_finite_is_withheld_and_the_stream_goes_on(
    editable: EditableBundle, audio: Floats, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime.load(editable.path)
    head, turns = runtime.dispatcher.head, iter(range(100))

    def broken(**inputs: Floats) -> dict[str, Floats]:
        found = head(**inputs)
        return {"scores": np.full_like(found["scores"], np.nan)} if next(turns) == 1 else found

    monkeypatch.setattr(runtime.dispatcher, "head", broken)
    stream = runtime.open_stream(hop_s=0.5)
    wanted = pushed(Runtime.load(editable.path), audio, [len(audio)], hop_s=0.5)
    with pytest.raises(AudioError, match=r"window from 0\.5\d* s.*not finite"):
        stream.push(audio)
    found = stream.push(bursts(1)) + stream.finish()
    assert [w.start_s for w in found[:-1]] == [w.start_s for w in wanted[:1] + wanted[2:-1]]


def test_a_backend_without_frames_of_its_own_is_heard_window_by_window(
    editable: EditableBundle, audio: Floats, runtime: Runtime
) -> None:
    other = Runtime.load(editable.path)
    manifest = other.manifest
    whole = msgspec.structs.replace(manifest, frontend=msgspec.structs.replace(manifest.frontend, streamable=False))
    object.__setattr__(other.bundle, "manifest", whole)
    found = pushed(other, audio, [5000], hop_s=0.4)
    assert all("frontend" in w.result.trace.ms for w in found)
    assert_same(found, pushed(runtime, audio, [5000], hop_s=0.4))


def test_the_hop_is_a_whole_number_of_frames(runtime: Runtime) -> None:
    assert runtime.open_stream(hop_s=0.0333).hop == hop_samples(0.0333, runtime.audio)
    assert runtime.open_stream(hop_s=0.0333).hop % runtime.audio.frame_hop == 0
