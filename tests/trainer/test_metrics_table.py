"""The table that ends a training, and printed metrics."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from xaimoe_audio.metrics_table import Gain, Metrics, closing_table, gain_over_glance
from xaimoe_runtime.schema import TaskSpec

TASK = TaskSpec(kind="single_label", labels=("a", "b"), thresholds=(0.5, 0.5), temperatures=(1.0, 1.0))


def answers(right: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Scores of a model that is right where it says so."""
    return np.where(right[:, None], targets, 1 - targets).astype(np.float32)


@pytest.fixture
def targets() -> np.ndarray:
    return np.eye(2, dtype=np.float32)[np.arange(100) % 2]


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (3, 2), (20, 0), (30, 5), (0, 20)])
def test_the_gain_and_its_standard_error_are_those_of_paired_answers(
    targets: np.ndarray, better: int, worse: int
) -> None:
    """Of n recordings `better` are right only with the experts, `worse` only without."""
    order = np.random.default_rng(0).permutation(100)
    routed, glance = np.ones(100, bool), np.ones(100, bool)
    glance[order[:better]] = False
    routed[order[better : better + worse]] = False
    found = gain_over_glance(answers(routed, targets), answers(glance, targets), targets, TASK)
    assert found["gain"] == pytest.approx((better - worse) / 100, abs=1e-6)
    expected = math.sqrt((better + worse - (better - worse) ** 2 / 100) / 100**2)
    assert found["error"] == pytest.approx(expected, rel=0.5, abs=1e-6)
    assert (found["gain"] > 2 * found["error"]) == (better >= 20)


def test_one_recording_shows_nothing(targets: np.ndarray) -> None:
    found = gain_over_glance(targets[:1], 1 - targets[:1], targets[:1], TASK)
    assert found == {"gain": 1.0, "error": None}
    assert json.loads(msgspec.json.encode(found)) == {"gain": 1.0, "error": None}


def table(gain: float, error: float | None, splits: tuple[str, ...] = ("val", "test"), metric: str = "accuracy") -> str:
    found: dict[str, Any] = {
        "recordings": 160,
        "by_routing": {r: {"ece": 0.1, metric: a} for r, a in (("routed", 0.9), ("dense", 0.91), ("glance", 0.8))},
        "macs": {"routed": 12.34e6, "dense": 45e6, "floor": 2e6, "frontend": 8e6},
    }
    gains: dict[str, Gain] = {"val": {"gain": 1.0, "error": 0.0}}
    gains[splits[-1]] = {"gain": gain, "error": error}
    ms = {"routed": 3.0, "dense": 9.0, "glance": 1.0}
    return closing_table(dict.fromkeys(splits, found), gains, ms, "torch-cpu")


def test_the_closing_table_has_score_cost_and_time_of_each_routing() -> None:
    assert [line.split() for line in table(0.1, 0.03).splitlines()] == [
        ["routed", "dense", "glance"],
        ["val", "accuracy", "0.900", "0.910", "0.800", "160", "recordings"],
        ["test", "accuracy", "0.900", "0.910", "0.800", "160", "recordings"],
        ["MACs", "of", "a", "window", "12.34", "M", "45.00", "M", "2.00", "M", "and", "8.00", "M", "before"],
        ["time", "of", "a", "window", "3.00", "ms", "9.00", "ms", "1.00", "ms", "torch-cpu"],
    ]


def test_experts_that_add_nothing_are_named_with_the_numbers() -> None:
    nothing = "add nothing that 160 test recordings can show: accuracy routed minus glance is +0.010 ± 0.024 (two"
    assert nothing in table(0.01, 0.012)
    worse = "make it worse: accuracy routed minus glance is -0.100 ± 0.060 on 160 test recordings."
    assert worse in table(-0.1, 0.03)
    assert "accuracy routed minus glance is +1.000. More" in table(1.0, None)
    assert "experts" not in table(0.1, 0.03)


def test_the_verdict_says_which_metric_and_that_there_is_no_test_split() -> None:
    line = table(0.01, 0.012, ("val",), "mAP").splitlines()[-1]
    assert "160 val recordings (there is no test split) can show: mAP routed minus glance is +0.010" in line
    assert table(0.01, 0.012, ("val",), "mAP").splitlines()[1].split()[:3] == ["val", "mAP", "0.900"]
    assert table(-0.1, 0.03, ("val",), "mAP").splitlines()[-1].endswith("160 val recordings (there is no test split).")


def test_metrics_are_a_dictionary_that_prints_as_a_short_table() -> None:
    plain = {
        "recordings": 40,
        "accuracy": 0.95,
        "macro_f1": 0.94,
        "ece": 0.03,
        "confusion": [[1] * 50] * 50,
        "per_class": {f"c{i}": i / 50 for i in range(49)} | {"<b>": 0.5},
    }
    found = Metrics(plain)
    assert found == plain and found["accuracy"] == 0.95
    assert json.loads(msgspec.json.encode(found)) == plain
    lines = str(found).splitlines()
    assert repr(found) == str(found)
    assert lines[0].split() == ["recordings", "40"]
    assert lines[1].split() == ["accuracy", "0.950"]
    assert lines[4].split() == ["F1", "of", "c0", "0.000"]  # the worst class first
    assert lines[-2:] == ["and 30 more classes", "also: confusion"]
    assert "<td>0.950</td>" in found._repr_html_()
    assert "average precision of &lt;b&gt;" in Metrics({"mAP": 0.5, "per_class": {"<b>": 0.5}})._repr_html_()


@pytest.mark.parametrize(
    ("present", "gain"),
    [([0, 0, 0], 0.0), ([1, 0, 0], 0.5)],
    ids=["no recording has a class", "one recording has"],
)
def test_recordings_of_no_class_leave_the_gain_unknown(present: list[int], gain: float) -> None:
    task = TaskSpec(kind="multi_label", labels=("a",), thresholds=(0.5,), temperatures=(1.0, 1.0))
    targets = np.array(present, np.float32)[:, None]
    routed, glance = np.array([[0.9], [0.1], [0.2]], np.float32), np.array([[0.3], [0.4], [0.1]], np.float32)
    assert gain_over_glance(routed, glance, targets, task) == {"gain": pytest.approx(gain), "error": None}


def test_incomplete_recordings_are_shown_if_there_are_any() -> None:
    assert str(Metrics(recordings=2, incomplete=1, accuracy=0.5)).splitlines()[1].split() == ["incomplete", "1"]
    assert "incomplete" not in str(Metrics(recordings=2, incomplete=0, accuracy=0.5))


def test_a_metric_that_is_not_there_is_a_dash() -> None:
    assert str(Metrics(recordings=2, accuracy=0.5, mAP=None)).splitlines()[2].split() == ["mAP", "-"]
