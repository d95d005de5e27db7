"""Drift: signal attributes unlike the training split's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from data import noise, write_wav

from xaimoe_runtime import Runtime
from xaimoe_runtime.drift import drifted, excess, familiarity, novelty
from xaimoe_runtime.files import FileClassifier
from xaimoe_runtime.inference import file_windows
from xaimoe_runtime.records import ResultRecord
from xaimoe_runtime.schema import AttributeSpec

USUAL = (
    AttributeSpec(name="level", unit="dBFS", q05=-40, q50=-30, q95=-20),
    AttributeSpec(name="clipping_rate", unit="1", q05=0, q50=0, q95=0),
)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((-30, 0), ()),
        ((-59, 0.04), ()),
        ((-61, 0), ("level",)),
        ((1, 0.06), ("level", "clipping_rate")),
    ],
)
def test_what_is_far_outside_the_usual_is_named(values: tuple[float, float], names: tuple[str, ...]) -> None:
    assert drifted(excess(np.array([values], np.float32), USUAL), USUAL) == (names,)


def test_each_window_has_its_own_and_without_a_reference_there_is_none() -> None:
    rows = np.array([(-30, 0), (1, 1)], np.float32)
    assert drifted(excess(rows, USUAL), USUAL) == ((), ("level", "clipping_rate"))
    assert drifted(excess(rows, ()), ()) == ((), ())


def test_the_training_recordings_are_usual_and_a_broken_recorder_is_not(runtime: Runtime, scenes: Path) -> None:
    found = [
        bool(runtime.infer(window.samples).trace.drift[0])
        for path in sorted((scenes / "audio").glob("*.*"))
        for _, window in file_windows(path, runtime.audio)
    ]
    assert np.mean(found) < 0.08
    quiet = runtime.infer(noise(runtime.audio.clip_samples, level=1e-6)).trace.drift[0]
    assert "level" in quiet
    loud = runtime.infer(np.sign(noise(runtime.audio.clip_samples)).astype(np.float32)).trace.drift[0]
    assert "clipping_rate" in loud


@pytest.mark.parametrize(
    ("values", "usual"),
    [((-30, 0), 1.0), ((-20, 0), 1.0), ((0, 0), np.exp(-1)), ((-80, 0), np.exp(-2)), ((0, 0.1), np.exp(-2))],
)
def test_the_attribute_that_is_farthest_outside_says_how_familiar_a_window_is(
    values: tuple[float, float], usual: float
) -> None:
    assert familiarity(excess(np.array([values], np.float32), USUAL)) == pytest.approx([usual], rel=1e-5)


@pytest.mark.parametrize(
    ("scores", "usual", "wanted"),
    [((0.9, 0.1), 1.0, 0.1), ((0.5, 0.5), 1.0, 0.5), ((0.9, 0.1), 0.5, 0.55), ((0, 0), 1, 1)],
)
def test_novelty_is_what_the_best_score_lacks_and_more_where_the_signal_is_odd(
    scores: tuple[float, float], usual: float, wanted: float
) -> None:
    assert novelty(np.array(scores, np.float32), usual) == pytest.approx(wanted)


def test_records_and_results_agree_on_novelty(runtime: Runtime, tmp_path: Path) -> None:
    clip = np.concatenate([noise(runtime.audio.clip_samples), noise(runtime.audio.clip_samples, level=1e-4, seed=1)])
    path = write_wav(tmp_path / "a.wav", clip, runtime.audio.sample_rate)
    *windows, whole, _ = FileClassifier(runtime, windows=True).records([path])
    samples, _ = soundfile.read(path, dtype="float32")
    result = runtime.infer(samples)
    assert isinstance(whole, ResultRecord)
    assert whole.novelty == pytest.approx(result.novelty, abs=1e-5)
    each = [window.result.novelty for window in runtime.infer_file(path)]
    assert [window.novelty for window in windows] == pytest.approx(each, abs=1e-5)  # type: ignore[union-attr]
    assert each[-1] > each[0]
    both = runtime.infer(np.stack([samples, samples]))
    assert np.asarray(both.novelty) == pytest.approx([result.novelty] * 2)
