"""The saliency's teacher: gradient times input of the whole model, rectified and pooled to patches."""

from __future__ import annotations

import torch
from data import noise
from torch import Tensor

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.teacher import gradient_times_input, saliency_loss


def spectrograms(config: ModelConfig, batch: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(batch, 1, config.frontend.bins, config.frontend.frames)


def test_relevance_is_the_gradient_times_the_input_summed_over_each_tile(
    model: MoEAudioModel, config: ModelConfig
) -> None:
    """On a linear model, where the gradient is known without autograd."""
    spectrogram = spectrograms(config, 2)
    weight = torch.randn(3, *spectrogram.shape[2:])
    leaf = spectrogram.clone().requires_grad_()
    logits = torch.einsum("bxft,lft->bl", leaf, weight)
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.3, 0.7]])
    found = gradient_times_input(logits, targets, leaf, model)
    relevance = (torch.einsum("bl,lft->bft", targets, weight) * spectrogram[:, 0]).clamp(min=0)
    (height, width), (down, right) = config.tile, config.stride
    wanted = torch.stack(
        [
            relevance[:, top : top + height, left : left + width].sum((1, 2))
            for top in range(0, config.frontend.bins - height + 1, down)
            for left in range(0, config.frontend.frames - width + 1, right)
        ],
        dim=1,
    )
    torch.testing.assert_close(found, wanted / wanted.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_relevance_of_the_whole_model_is_a_distribution_and_depends_on_the_class(
    model: MoEAudioModel, config: ModelConfig
) -> None:
    waveform = torch.from_numpy(noise(2 * config.frontend.clip_samples)).reshape(2, -1)
    spectrogram, attributes = model.frontend(waveform, torch.tensor([[16_000.0, 0.0]] * 2))
    spectrogram.requires_grad_()
    routed = model.route(spectrogram, attributes)
    mixture = model.mixture(routed.spectrogram, routed.gates_dense)
    logits = model.head.logits(*mixture, routed.prior_logits)
    found = [gradient_times_input(logits, torch.eye(3)[[label, label]], spectrogram, model) for label in range(3)]
    for relevance in found:
        assert relevance.shape == (2, model.grid.count)
        assert not relevance.requires_grad
        torch.testing.assert_close(relevance.sum(1), torch.ones(2))
    assert not torch.allclose(found[0], found[1], atol=1e-3)
    logits.sum().backward()  # the graph was kept for the training step


def test_without_positive_relevance_every_patch_counts_alike(model: MoEAudioModel, config: ModelConfig) -> None:
    leaf = spectrograms(config, 2).abs().requires_grad_()
    logits = -leaf.sum((1, 2, 3))[:, None].repeat(1, 3)
    found = gradient_times_input(logits, torch.ones(2, 3), leaf, model)
    torch.testing.assert_close(found, torch.full_like(found, 1 / model.grid.count))


def test_the_loss_is_nothing_for_the_teacher_itself_and_positive_otherwise() -> None:
    torch.manual_seed(0)
    teacher = torch.softmax(torch.randn(4, 8), dim=1)
    assert abs(float(saliency_loss(teacher, teacher))) < 1e-6
    assert saliency_loss(torch.full((4, 8), 1 / 8), teacher) > 0.01


def test_training_on_the_saliency_loss_alone_brings_saliency_and_teacher_together(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = MoEAudioModel(config)
    spectrogram = spectrograms(config, 4)
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
