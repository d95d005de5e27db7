"""What ``print(result)`` and notebooks show."""

from __future__ import annotations

import numpy as np

from xaimoe_runtime.result import Result, Trace

CLASSES = ("ship", "rain", "<b>", "whale", "ping", "ice", "snow")
SCORES = np.array([0.05, 0.9, 0.03, 0.01, 0.005, 0.003, 0.002], np.float32)


def result(clips: int = 0, classes: tuple[str, ...] = CLASSES, **changed: bool) -> Result:
    windows = max(clips, 1)
    gates = np.zeros((windows, 4, 2), np.float32)
    gates[:, 0, :] = 0.5
    trace = Trace(
        routing="routed",
        experts=("a", "b"),
        attribute_names=(),
        attributes=np.zeros((windows, 0), np.float32),
        saliency=np.full((windows, 4), 0.25, np.float32),
        gates=gates,
        ms={"model": 4.0, "head": 0.25},
        left_out=np.zeros_like(gates),
        predicted_ms={},
    )
    if clips:
        return Result((("rain",),) * clips, np.tile(SCORES, (clips, 1)), trace, classes=classes, **changed)
    return Result(("rain",), SCORES, trace, classes=classes, **changed)


def test_a_clip_has_its_labels_and_best_scores_by_name() -> None:
    assert str(result()) == repr(result())
    assert str(result()).splitlines() == [
        "rain (rain 0.900, ship 0.050, <b> 0.030, whale 0.010, ping 0.005, and 2 more)",
        "routed, 2 pairs run in 1 window, 4.2 ms",
    ]


def test_a_batch_has_a_line_for_each_clip_and_not_for_hundreds() -> None:
    lines = str(result(clips=200)).splitlines()
    assert len(lines) == 12
    assert lines[-2:] == ["and 190 more clips", "routed, 400 pairs run in 200 windows, 4.2 ms"]


def test_what_was_left_out_or_late_is_said() -> None:
    assert str(result(degraded=True, late=True)).endswith(", degraded, late")


def test_scores_without_names_have_numbers() -> None:
    assert str(result(classes=())).startswith("rain (1 0.900, 0 0.050, ")


def test_notebooks_show_a_table_with_escaped_names() -> None:
    shown = result()._repr_html_()
    assert "<th>rain</th><td>rain 0.900</td><td>ship 0.050</td><td>&lt;b&gt; 0.030</td>" in shown
    assert "<b>" not in shown
    assert "and 190 more clips" in result(clips=200)._repr_html_()
