"""What the router's use of experts adds up to: known answers."""

from __future__ import annotations

import numpy as np
import pytest

from xaimoe_audio.training.assess import Answers
from xaimoe_audio.training.usage import describe_usage, expert_usage, macs_run
from xaimoe_runtime.result import Outputs

EXPERTS, LABELS = ("A", "B"), ("cat", "dog")


@pytest.fixture
def answers() -> Answers:
    """Three windows of two recordings, three patches, two experts; the last window runs nothing."""
    gates = np.zeros((3, 3, 2), np.float32)
    gates[0, 0] = [0.6, 0.2]
    gates[1, :2, 0] = [0.1, 0.1]
    nothing = np.zeros((3, 1), np.float32)
    outputs = Outputs(scores=nothing, attributes=nothing, saliency=nothing, gates=gates, ms={}, left_out=0 * gates)
    return Answers(np.zeros((2, 2), np.float32), outputs, np.array([0, 1, 1]))


TARGETS = np.eye(2, dtype=np.float32)


def test_usage_counts_windows_pairs_and_gates(answers: Answers) -> None:
    found = expert_usage(answers, EXPERTS, TARGETS, LABELS)
    assert found["selection_rate"] == pytest.approx({"A": 2 / 3, "B": 1 / 3})
    assert found["pair_share"] == pytest.approx({"A": 3 / 4, "B": 1 / 4})
    assert found["gate_share"] == pytest.approx({"A": 0.8, "B": 0.2})
    assert found["k_histogram"] == {"0": 1, "1": 1, "2": 1}
    assert (found["k_mean"], found["pairs_per_window"], found["pairs_possible"]) == pytest.approx((1, 4 / 3, 6))
    assert found["load_balance"] == pytest.approx(2 * (9 + 1) / 16)


def test_usage_by_class_is_that_of_its_windows(answers: Answers) -> None:
    by_class = expert_usage(answers, EXPERTS, TARGETS, LABELS)["per_class"]
    assert by_class["cat"] == {"k_mean": 2, "pairs_per_window": 2, "pair_share": pytest.approx({"A": 0.5, "B": 0.5})}
    assert by_class["dog"] == {"k_mean": 0.5, "pairs_per_window": 1, "pair_share": pytest.approx({"A": 1, "B": 0})}


def test_a_class_that_is_not_there_has_no_usage(answers: Answers) -> None:
    found = expert_usage(answers, EXPERTS, np.array([[1, 0], [1, 0]], np.float32), LABELS)
    assert list(found["per_class"]) == ["cat"]


def test_compute_follows_the_pairs(answers: Answers) -> None:
    routed, costs = answers.outputs.gates, {"A": 100, "B": 40}
    dense = np.ones_like(routed)
    dense[2, :, 1] = 0  # B is not compatible with the last window
    macs = macs_run(routed, dense, costs, floor=1_000)
    assert macs["experts_routed"] == pytest.approx((3 * 100 + 40) / 3)
    assert macs["experts_dense"] == pytest.approx((9 * 100 + 6 * 40) / 3)
    assert (macs["floor"], macs["dense"]) == (1_000, pytest.approx(1_380))
    assert macs["routed"] == pytest.approx(1_000 + macs["experts_routed"])
    assert macs["experts_share"] == pytest.approx(macs["experts_routed"] / 380)
    nothing = np.zeros_like(routed)
    assert macs_run(nothing, nothing, costs, floor=1_000)["experts_share"] == 0


def test_usage_in_words_names_every_expert_and_class(answers: Answers) -> None:
    text = describe_usage("val", expert_usage(answers, EXPERTS, TARGETS, LABELS))
    assert "1.3 of 6 pairs and 1.00 experts a window" in text
    assert "dog" in text and "100% of pairs by A" in text
