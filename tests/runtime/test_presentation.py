"""What ``print(result)`` and notebooks show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

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


@pytest.mark.parametrize(("labels", "said"), [(("unknown",), "unknown (silent)"), ((), "no label (silent)")])
def test_silence_has_no_scores_to_show(labels: tuple[str, ...], said: str) -> None:
    clip = result()
    silent = replace(
        clip,
        labels=labels,
        scores=np.zeros_like(SCORES),
        trace=replace(clip.trace, sounding=np.zeros(1, np.float32)),
    )
    assert str(silent).splitlines() == [said, "routed, 2 pairs run in 1 window (1 silent), 4.2 ms"]
    assert f"<tr><th>{said.partition(' (')[0]}</th><td>silent</td></tr>" in silent._repr_html_()


def test_a_silent_clip_of_a_batch_is_named() -> None:
    batch = result(clips=2)
    trace = replace(batch.trace, sounding=np.array([1, 0], np.float32))
    scores = np.stack([SCORES, np.zeros_like(SCORES)])
    shown = replace(batch, labels=(("rain",), ("unknown",)), scores=scores, trace=trace)
    assert str(shown).splitlines()[0].startswith("rain (rain 0.900, ")
    assert str(shown).splitlines()[1:] == ["unknown (silent)", "routed, 4 pairs run in 2 windows (1 silent), 4.2 ms"]
