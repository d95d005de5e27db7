"""What training makes small: known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xaimoe_audio.training.losses import (
    balance_loss,
    class_weights,
    classification_loss,
    compute_share,
    losses_of,
    z_loss,
)


def test_classes_weigh_by_their_rarity() -> None:
    targets = np.repeat(np.eye(2, dtype=np.float32), [90, 10], axis=0)
    assert class_weights(targets, 0.0).tolist() == pytest.approx([1, 1])
    half, whole = class_weights(targets, 0.5), class_weights(targets, 1.0)
    assert (half[1] / half[0]).item() == pytest.approx(3)
    assert (whole[1] / whole[0]).item() == pytest.approx(9)
    for weights in (half, whole):
        assert (weights @ torch.tensor([0.9, 0.1])).item() == pytest.approx(1)


def test_a_class_that_is_hardly_there_does_not_weigh_without_bounds() -> None:
    targets = np.repeat(np.eye(2, dtype=np.float32), [1_000, 1], axis=0)
    weights = class_weights(targets, 1.0)
    assert (weights[1] / weights[0]).item() == pytest.approx(10)


def test_a_class_without_a_recording_has_a_finite_weight() -> None:
    assert torch.isfinite(class_weights(np.array([[1, 0], [1, 0]], np.float32), 1.0)).all()


def test_the_loss_of_one_class_is_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    found = classification_loss(logits, nn.functional.one_hot(labels, 3).float(), "single_label", 0.1)
    assert found.item() == pytest.approx(nn.functional.cross_entropy(logits, labels, label_smoothing=0.1).item())


def test_the_weight_of_a_class_is_that_of_its_clips() -> None:
    logits, targets = torch.zeros(2, 2), torch.eye(2)
    weights = torch.tensor([1.0, 3.0])
    logits.requires_grad_()
    classification_loss(logits, targets, "single_label", weights=weights).backward()
    assert logits.grad is not None
    assert (logits.grad[1].abs().sum() / logits.grad[0].abs().sum()).item() == pytest.approx(3)


def test_the_loss_of_several_classes_is_binary() -> None:
    logits, targets = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    wanted = nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert classification_loss(logits, targets, "multi_label").item() == pytest.approx(wanted.item())
    smooth = classification_loss(logits, targets, "multi_label", 0.2)
    assert smooth > wanted


def test_the_load_is_even_at_1_and_worst_at_the_number_of_experts() -> None:
    even, one = torch.ones(4, 5, 3), torch.zeros(4, 5, 3)
    one[:, :, 1] = 1
    assert balance_loss(even).item() == pytest.approx(1)
    assert balance_loss(one).item() == pytest.approx(3, rel=1e-4)


def test_the_load_is_balanced_over_the_batch_and_not_in_each_clip() -> None:
    each_its_own = torch.zeros(3, 5, 3)
    for clip in range(3):
        each_its_own[clip, :, clip] = 1
    assert balance_loss(each_its_own).item() == pytest.approx(1, rel=1e-4)


def test_small_logits_have_a_small_z_loss() -> None:
    logits = torch.randn(2, 3, 4)
    assert z_loss(logits) < z_loss(5 * logits)
    assert z_loss(torch.zeros(2, 3, 4)).item() == pytest.approx(np.log(4) ** 2, rel=1e-5)


def test_compute_counts_each_pair_that_runs_by_its_cost() -> None:
    costs = torch.tensor([0.75, 0.25])
    gates = torch.zeros(1, 4, 2)
    assert compute_share(gates, costs).item() == 0
    gates[0, :2, 0] = 0.5
    assert compute_share(gates, costs).item() == pytest.approx(2 / 4 * 0.75, rel=0.05)
    gates[0, :, :] = 0.5
    assert compute_share(gates, costs).item() == pytest.approx(1, rel=0.05)


def test_less_gate_is_less_compute() -> None:
    costs, gates = torch.tensor([0.5, 0.5]), torch.full((1, 4, 2), 0.01, requires_grad=True)
    compute_share(gates, costs).backward()
    assert gates.grad is not None
    assert (gates.grad > 0).all()


def test_the_losses_of_scores_are_cross_entropies() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    targets = nn.functional.one_hot(labels, 3).float()
    found = losses_of(torch.softmax(logits, 1), targets, "single_label")
    torch.testing.assert_close(found, nn.functional.cross_entropy(logits, labels, reduction="none"))
    several = losses_of(torch.sigmoid(logits), targets, "multi_label")
    expected = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    torch.testing.assert_close(several, expected)
    assert torch.isfinite(losses_of(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), "single_label")).all()
