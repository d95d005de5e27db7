"""Figures of merit: known answers for small cases."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from xaimoe_audio.training.metrics import headline, measure
from xaimoe_runtime.schema import TaskKind, TaskSpec

LABELS = ("a", "b", "c")


def task(kind: TaskKind, threshold: float = 0.5, labels: tuple[str, ...] = LABELS) -> TaskSpec:
    return TaskSpec(kind=kind, labels=labels, thresholds=(threshold,) * len(labels), temperatures=(1.0, 1.0))


def figures(scores: ArrayLike, targets: ArrayLike, spec: TaskSpec):  # type: ignore[no-untyped-def]
    return measure(np.asarray(scores, np.float32), np.asarray(targets, np.float32), spec)


def test_single_label_figures() -> None:
    scores = [[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
    targets = [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    found = figures(scores, targets, task("single_label"))
    assert found["recordings"] == 4
    assert found["accuracy"] == 0.75
    assert found["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert found["per_class"] == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 1.0})
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_calibration_error_is_how_far_confidence_is_from_accuracy() -> None:
    targets = [[1, 0, 0]] * 3 + [[0, 1, 0]]
    found = figures([[0.75, 0.15, 0.10]] * 4, targets, task("single_label"))
    assert found["ece"] == pytest.approx(0.0, abs=1e-6)
    found = figures([[1.0, 0.0, 0.0]] * 4, targets, task("single_label"))
    assert found["ece"] == pytest.approx(0.25)


def test_a_class_that_the_split_does_not_hold_is_left_out_of_the_means() -> None:
    scores = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]
    found = figures(scores, [[1, 0, 0], [0, 1, 0]], task("single_label"))
    assert found["per_class"] == {"a": 1.0, "b": 1.0}
    assert found["macro_f1"] == 1.0
    assert np.shape(found["confusion"]) == (3, 3)


def test_multi_label_figures() -> None:
    scores = [[0.9, 0.8, 0.1], [0.8, 0.4, 0.2], [0.1, 0.6, 0.7], [0.2, 0.1, 0.9]]
    targets = [[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1]]
    found = figures(scores, targets, task("multi_label"))
    assert found["recordings"] == 4
    # b is ranked right, wrong, right: (1/1 + 2/3) / 2
    assert found["per_class"] == pytest.approx({"a": 1.0, "b": 5 / 6, "c": 1.0})
    assert found["mAP"] == pytest.approx((1 + 5 / 6 + 1) / 3)
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx((1 + 0.5 + 1) / 3)


def test_thresholds_decide_what_counts_as_present() -> None:
    scores, targets = [[0.4, 0.1, 0.1], [0.1, 0.4, 0.4]], [[1, 0, 0], [0, 1, 1]]
    assert figures(scores, targets, task("multi_label", 0.5))["accuracy"] == 0.0
    assert figures(scores, targets, task("multi_label", 0.3))["accuracy"] == 1.0


def test_multi_label_classes_absent_from_the_split_are_left_out_of_the_means() -> None:
    scores, targets = [[0.9, 0.1, 0.3], [0.1, 0.9, 0.3]], [[1, 0, 0], [0, 1, 0]]
    found = figures(scores, targets, task("multi_label"))
    assert found["per_class"] == {"a": 1.0, "b": 1.0}
    assert found["mAP"] == 1.0
    assert found["accuracy"] == 1.0


def test_recordings_of_no_class_count_as_false_alarms_only() -> None:
    scores, targets = [[0.9, 0.1, 0.1], [0.8, 0.2, 0.1], [0.1, 0.2, 0.1]], [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    found = figures(scores, targets, task("multi_label"))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["macro_f1"] == pytest.approx(2 / 3)  # one of the two alarms was right
    assert found["mAP"] == 1.0


def test_a_split_of_no_class_at_all_has_an_accuracy_and_no_means() -> None:
    found = figures([[0.9, 0.1, 0.1], [0.1, 0.1, 0.1]], [[0, 0, 0], [0, 0, 0]], task("multi_label"))
    assert found["accuracy"] == 0.5
    assert (found["mAP"], found["macro_f1"], found["ece"], found["per_class"]) == (None, None, None, {})


def test_a_multi_label_split_with_one_class_has_all_figures() -> None:
    scores, targets = [[0.9, 0.1, 0.3], [0.1, 0.1, 0.3], [0.6, 0.1, 0.1]], [[1, 0, 0], [0, 0, 0], [1, 0, 0]]
    found = figures(scores, targets, task("multi_label"))
    assert found["per_class"] == {"a": 1.0}
    assert found["mAP"] == 1.0
    assert found["accuracy"] == 1.0
    assert found["macro_f1"] == 1.0


def test_the_headline_goes_by_the_task() -> None:
    assert headline(task("single_label")) == "accuracy"
    assert headline(task("multi_label")) == "mAP"


def test_silence_is_no_answer_whatever_the_first_class_is() -> None:
    scores = [[0.8, 0.1, 0.1], [0, 0, 0], [0.1, 0.8, 0.1], [0, 0, 0]]
    targets = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    found = figures(scores, targets, task("single_label"))
    assert found["accuracy"] == 0.5
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert found["per_class"] == pytest.approx({"a": 2 / 3, "b": 1.0, "c": 0.0})


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_calibration_is_measured_in_15_bins(kind: TaskKind) -> None:
    """Confidences of 0.7 and 0.77 lie in one of 3 bins, where a right and a wrong answer would make up for each
    other."""
    first, second = 0.7, 0.77
    if kind == "single_label":
        scores, targets = [[first, 0.3, 0.0], [second, 0.23, 0.0]], [[1, 0, 0], [0, 1, 0]]
    else:
        scores, targets = [[first, 0.0, 0.0], [second, 0.0, 0.0]], [[1, 0, 0], [0, 0, 0]]
    found = figures(scores, targets, task(kind))
    assert found["ece"] == pytest.approx(((1 - first) + second) / 2, abs=1e-5)
