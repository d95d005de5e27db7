"""The saliency's teacher: what each patch adds to the model's answer, whatever the saliency says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import noise
from torch import Tensor

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.model.territory import means_of_territories
from xaimoe_audio.training.faithfulness import rank_correlation
from xaimoe_audio.training.teacher import (
    ALIKE,
    Activations,
    evenly,
    explained,
    grad_cam,
    gradient_times_input,
    relevance,
    relevance_in_whole,
    saliency_loss,
)

CLIPS = 6


@pytest.fixture
def routed(model: MoEAudioModel, config: ModelConfig) -> Routed:
    samples = config.frontend.clip_samples
    waveform = torch.from_numpy(noise(CLIPS * samples)).reshape(CLIPS, -1)
    waveform = waveform * torch.linspace(0.2, 2, samples)  # so that patches differ
    with torch.no_grad():
        return model.route(*model.frontend(waveform, torch.tensor([[16_000.0, 0.0]] * CLIPS)))


def relevance_for(
    model: MoEAudioModel, routed: Routed, gates: Tensor, label: int, grad_cam_share: float
) -> tuple[Tensor, Tensor]:
    """Relevance of the patches for a label, and how far the label's logit is ahead."""
    with Activations.recorded(model) as activations:
        mixture = model.bank(routed.spectrogram, gates)
    logits = model.head.logits(*mixture, routed.prior_logits)
    targets = torch.eye(logits.shape[1])[[label] * len(logits)]
    found = relevance(logits, targets, model.config.task, activations, gates, grad_cam_share)
    return found, logits[:, label] - logits.mean(1)


def test_gradient_times_input_is_what_each_patch_would_add_over_the_others_at_the_same_weight() -> None:
    """Where the answer is linear in the features, the gradient is known without autograd."""
    torch.manual_seed(0)
    gates = torch.rand(3, 5, 2) * (torch.rand(3, 5, 2) < 0.7)
    experts, clips, patches = torch.nonzero(gates.permute(2, 0, 1), as_tuple=True)
    features = torch.randn(len(clips), 4, requires_grad=True)
    weight = torch.randn(4)
    found = gradient_times_input((gates[clips, patches, experts] * (features @ weight)).sum(), features, gates)
    wanted = torch.zeros(3, 5)
    for value, clip, patch, expert in zip((features @ weight).tolist(), clips, patches, experts, strict=True):
        wanted[clip, patch] += gates[clip, patch, expert] * value
    weights = gates.sum(2)
    wanted = wanted / weights.clamp(min=1e-9)
    mean = torch.stack([row[of > 0].mean() for row, of in zip(wanted, weights, strict=True)])[:, None]
    wanted = ((wanted - mean).clamp(min=0) + ALIKE * mean.abs()) * (weights > 0)
    torch.testing.assert_close(found, wanted / wanted.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("grad_cam_share", [0.0, 0.5, 1.0])
def test_relevance_is_a_distribution_and_depends_on_the_class(
    model: MoEAudioModel, routed: Routed, grad_cam_share: float
) -> None:
    first, answer = relevance_for(model, routed, routed.gates_dense, 0, grad_cam_share)
    second, _ = relevance_for(model, routed, routed.gates_dense, 1, grad_cam_share)
    for found in (first, second):
        assert found.shape == (CLIPS, model.grid.count)
        assert not found.requires_grad
        torch.testing.assert_close(found.sum(1), torch.ones(CLIPS))
    assert not torch.allclose(first, second, atol=1e-3)
    answer.sum().backward()  # the graph was kept for the training step


def test_evenly_all_patches_count_alike_and_what_does_not_run_has_no_gate() -> None:
    pairs = torch.tensor([[[3.0, 1.0], [0.0, 5.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    gates = evenly(pairs)
    torch.testing.assert_close(gates[0], torch.tensor([[0.375, 0.125], [0.0, 0.5], [0.0, 0.0]]))
    assert not gates[1].any()


def test_relevance_ranks_patches_as_leaving_each_out_does(model: MoEAudioModel, routed: Routed) -> None:
    gates = evenly(routed.gates_dense)
    found, answer = relevance_for(model, routed, gates, 0, 0.0)
    costs = []
    for patch in range(model.grid.count):
        without = gates.clone()
        without[:, patch] = 0
        without = without / without.sum((1, 2), keepdim=True)
        costs.append(answer - relevance_for(model, routed, without, 0, 0.0)[1])
    assert float(rank_correlation(found, torch.stack(costs, dim=1)).mean()) > 0.8


@pytest.mark.parametrize("grad_cam_share", [0.0, 1.0])
def test_a_random_saliency_does_not_agree_with_the_teacher(
    model: MoEAudioModel, routed: Routed, grad_cam_share: float
) -> None:
    """As it would, were patches relevant by their weight."""
    torch.manual_seed(0)
    agreement = []
    for _ in range(20):
        saliency = torch.softmax(torch.randn_like(routed.saliency), dim=1)
        gates = model.router(saliency, routed.context, routed.attributes)[1]
        found, _ = relevance_for(model, routed, gates, 0, grad_cam_share)
        agreement.append(float(rank_correlation(saliency, found).mean()))
    assert abs(sum(agreement) / len(agreement)) < 0.1


def test_without_any_pair_or_any_relevance_every_patch_counts_alike(model: MoEAudioModel, routed: Routed) -> None:
    even = torch.full_like(routed.saliency, 1 / model.grid.count)
    logits = model.head.logits(*model.bank(routed.spectrogram, 0 * routed.gates), routed.prior_logits)
    found = relevance(logits, torch.eye(3)[[0] * CLIPS], "single_label", Activations(), 0 * routed.gates, 0.0)
    torch.testing.assert_close(found, even)
    gates = torch.full((1, 4, 1), 0.25)
    features, maps = torch.ones(4, 2, requires_grad=True), torch.ones(4, 2, 3, 3, requires_grad=True)
    torch.testing.assert_close(gradient_times_input(-features.sum(), features, gates), torch.full((1, 4), 0.25))
    torch.testing.assert_close(grad_cam(-maps.sum(), maps, gates), torch.full((1, 4), 0.25))


def test_the_loss_is_nothing_for_the_teacher_itself_and_positive_otherwise() -> None:
    torch.manual_seed(0)
    teacher = torch.softmax(torch.randn(4, 8), dim=1)
    assert abs(float(saliency_loss(teacher, teacher))) < 1e-6
    assert saliency_loss(torch.full((4, 8), 1 / 8), teacher) > 0.01


def test_training_on_the_saliency_loss_alone_brings_saliency_and_teacher_together(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = MoEAudioModel(config)
    spectrogram = torch.randn(4, 1, config.frontend.bins, config.frontend.frames)
    teacher = torch.softmax(2 * torch.randn(4, model.grid.count), dim=1)
    optimizer = torch.optim.Adam(model.glance.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = saliency_loss(model.glance(spectrogram)[0], teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("grad_cam_share", [0.0, 0.5, 1.0])
def test_of_a_whole_clip_the_patches_where_the_class_is_seen_are_relevant(
    config: ModelConfig, grad_cam_share: float
) -> None:
    """The one channel speaks for the first class in one patch, and against it everywhere else."""
    grid = config.grid
    rows, columns = grid.rows // 4, grid.columns // 4
    maps = torch.full((grid.count, 1, rows, columns), 0.01)
    centres = (torch.from_numpy(grid.positions()) * torch.tensor([rows, columns])).long()
    for clip, (row, column) in enumerate(centres.tolist()):
        maps[clip, 0, row, column] = 5.0
    maps.requires_grad_()
    found = maps.amax((2, 3))
    logits = torch.cat([found, -found, 0 * found], dim=1)
    targets = torch.eye(3)[[0] * grid.count]
    relevant = relevance_in_whole(logits, targets, config.task, maps, grid, grad_cam_share)
    assert relevant.shape == (grid.count, grid.count)
    torch.testing.assert_close(relevant.sum(1), torch.ones(grid.count))
    assert torch.equal(relevant.argmax(1), torch.arange(grid.count))
    logits.sum().backward()  # the graph was kept for the training step


def test_patches_that_say_the_same_are_relevant_alike(config: ModelConfig) -> None:
    maps = (torch.rand(2, 3, 1, 1) + 1e-6 * torch.rand(2, 3, 4, 8)).requires_grad_()
    logits = maps.mean((2, 3))
    found = relevance_in_whole(logits, torch.eye(3)[[0, 1]], config.task, maps, config.grid, 0.0)
    torch.testing.assert_close(found, torch.full_like(found, 1 / config.grid.count), rtol=1e-3, atol=0)


def test_silence_beside_a_sound_has_next_to_no_relevance(config: ModelConfig) -> None:
    grid = config.grid
    maps = torch.full((1, 3, grid.rows, grid.columns), 0.1)
    maps[0, 0, :, : grid.stride[1] // 2] = 5.0
    maps.requires_grad_()
    found = relevance_in_whole(maps.mean((2, 3)), torch.eye(3)[[0]], config.task, maps, grid, 0.0)
    heard = means_of_territories(maps[:, :1], grid) > 1
    assert 0 < heard.sum() < grid.count / 2
    assert float(found[heard].sum()) > 0.8


def test_a_clip_that_is_recognised_beyond_doubt_is_explained_as_any_other(config: ModelConfig) -> None:
    """Its probability has no gradient left that would say anything of its own class."""
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 12, 24, requires_grad=True)
    logits = maps.mean((2, 3)) @ torch.randn(3, 3)
    targets = torch.eye(3)[[1, 1]]
    doubtful = relevance_in_whole(logits, targets, config.task, maps, config.grid, 0.0)
    certain = relevance_in_whole(1e3 * logits, targets, config.task, maps, config.grid, 0.0)
    torch.testing.assert_close(doubtful, certain)


def test_without_targets_the_answer_is_explained_that_the_model_gives(model: MoEAudioModel, routed: Routed) -> None:
    logits = model.head.logits(*model.bank(routed.spectrogram, evenly(routed.gates_dense)), routed.prior_logits)
    answers = torch.eye(logits.shape[1])[logits.argmax(1)]
    own = explained(model, routed)
    torch.testing.assert_close(own, explained(model, routed, answers))
    assert not torch.allclose(own, explained(model, routed, answers.roll(1, 1)))
    assert not own.requires_grad


def test_what_speaks_for_all_classes_alike_speaks_for_none() -> None:
    """The first patch raises every logit, the second one only that of the label: the label's lead is all its own."""
    activations, gates = Activations(), torch.ones(1, 2, 1) / 2
    activations.features = torch.eye(2, requires_grad=True)
    weight = torch.tensor([[5.0, 5.0, 5.0], [1.0, 0.0, 0.0]])
    logits = (gates[0] * activations.features).sum(0, keepdim=True) @ weight
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    lead = relevance(logits, targets, "single_label", activations, gates, 0.0)[0]
    assert lead[1] > 0.8
    logit = relevance(logits, targets, "multi_label", activations, gates, 0.0)[0]  # of several labels each is its own
    assert logit[0] > 0.8


def test_the_saliency_loss_is_the_divergence_of_each_clip_whatever_the_number_of_patches() -> None:
    for patches in (4, 16):
        teacher = torch.eye(patches)[:2]
        uniform = torch.full((2, patches), 1 / patches)
        assert saliency_loss(uniform, teacher).item() == pytest.approx(np.log(patches), rel=1e-5)
