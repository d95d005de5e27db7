"""Drift: signal attributes unlike the training split's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data import noise

from xaimoe_runtime import Runtime
from xaimoe_runtime.drift import drifted
from xaimoe_runtime.inference import file_windows
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
    assert drifted(np.array([values], np.float32), USUAL) == (names,)


def test_each_window_has_its_own_and_without_a_reference_there_is_none() -> None:
    rows = np.array([(-30, 0), (1, 1)], np.float32)
    assert drifted(rows, USUAL) == ((), ("level", "clipping_rate"))
    assert drifted(rows, ()) == ((), ())


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
