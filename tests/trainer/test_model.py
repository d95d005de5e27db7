"""The whole model: exact dispatch, the prior without pairs, and the glance's saliency."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from data import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaimoe_audio.checkpoint import load_checkpoint
from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.glance import Glance
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_runtime.schema import ROUTINGS, Routing


def waveforms(config: ModelConfig, count: int) -> tuple[Tensor, Tensor]:
    size = config.frontend.clip_samples
    time = torch.arange(size) / config.frontend.sample_rate
    sounds = [
        torch.from_numpy(noise(size, seed, level=10 ** (-(seed % 4) - 1)))
        + 0.3 * torch.sin(2 * torch.pi * 150 * (1 + seed % 40) * time) * (time % 0.5 < 0.1 * (1 + seed % 5))
        for seed in range(count)
    ]
    return torch.stack(sounds), torch.tensor([[16_000.0, 0.0]] * count)


# Dispatch ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("routing", ROUTINGS)
def test_dispatch_equals_running_every_expert_on_every_patch(
    model: MoEAudioModel, config: ModelConfig, routing: Routing
) -> None:
    routed = model.route(*model.frontend(*waveforms(config, 8)))
    gates = routed.gates_for(routing)
    assert (gates > 0).any() == (routing != "glance")
    for found, wanted in zip(
        model.bank(routed.spectrogram, gates), model.bank.reference(routed.spectrogram, gates), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**16), share=st.floats(0, 1), batch=st.integers(1, 3))
def test_dispatch_is_exact_for_any_gates(model: MoEAudioModel, seed: int, share: float, batch: int) -> None:
    torch.manual_seed(seed)
    grid, config = model.grid, model.config
    spectrogram = torch.randn(batch, 1, grid.rows, grid.columns)
    gates = torch.rand(batch, grid.count, len(config.experts))
    gates = gates * (torch.rand_like(gates) < share)
    for found, wanted in zip(model.bank(spectrogram, gates), model.bank.reference(spectrogram, gates), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_all_experts_have_one_trunk(model: MoEAudioModel) -> None:
    trunks = {id(expert.trunk) for expert in model.bank.experts.values()}
    assert trunks == {id(model.bank.trunk)}
    learned = [name for name in model.state_dict() if "trunk" in name]
    assert learned and all(name.startswith("bank.trunk.") for name in learned)  # kept once


def test_tiles_are_the_cells_that_the_grid_says(model: MoEAudioModel) -> None:
    grid = model.grid
    spectrogram = torch.arange(grid.rows * grid.columns).float().reshape(1, 1, grid.rows, grid.columns)
    tiles = model.bank.tiles(spectrogram)[0]
    assert len(tiles) == grid.count > grid.shape[1] > 1
    for patch, (row, column) in enumerate(itertools.product(range(grid.shape[0]), range(grid.shape[1]))):
        top, left = row * grid.stride[0], column * grid.stride[1]
        wanted = spectrogram[0, :, top : top + grid.tile[0], left : left + grid.tile[1]]
        assert torch.equal(tiles[patch], wanted)


@torch.no_grad()
def test_without_any_pair_the_answer_is_exactly_the_calibrated_prior(model: MoEAudioModel, config: ModelConfig) -> None:
    scores, routed = model(*waveforms(config, 4), "glance")
    assert torch.equal(scores, torch.softmax(routed.prior_logits / model.head.temperatures[0], dim=1))


@torch.no_grad()
def test_the_more_mass_the_more_the_experts_are_believed(model: MoEAudioModel) -> None:
    features, labels = model.config.features, len(model.config.labels)
    torch.manual_seed(0)
    answer, prior = torch.rand(1, features), torch.randn(1, labels)
    from_prior = torch.softmax(prior / model.head.temperatures[0], 1)
    distance = []
    for mass in (0.0, 1e-3, 0.1, 1.0):
        scores = model.head(mass * answer, torch.full((1, 1), mass), prior)
        distance.append(float((scores - from_prior).abs().sum()))
    assert distance[0] == 0
    assert distance == sorted(distance)


@torch.no_grad()
def test_a_clip_alone_gets_the_answer_it_gets_in_a_batch(model: MoEAudioModel, config: ModelConfig) -> None:
    waveform, source = waveforms(config, 64)
    together, _ = model(waveform, source)
    for i in (0, 13, 63):
        alone, _ = model(waveform[i : i + 1], source[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


# Saliency ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_saliency_sums_to_one_and_differs_from_clip_to_clip(model: MoEAudioModel, config: ModelConfig) -> None:
    routed = model.route(*model.frontend(*waveforms(config, 8)))
    torch.testing.assert_close(routed.saliency.sum(1), torch.ones(8))
    assert routed.saliency.min() > 0
    assert (routed.saliency - routed.saliency.mean(0)).abs().max() > 1e-3


@torch.no_grad()
def test_saliency_of_a_spectrogram_on_its_floor_is_uniform(model: MoEAudioModel, config: ModelConfig) -> None:
    floor = torch.full((1, 1, config.frontend.bins, config.frontend.frames), -4.0)
    saliency, *_ = model.glance(floor)
    assert torch.allclose(saliency, torch.full_like(saliency, 1 / model.grid.count), atol=1e-7)


@torch.no_grad()
def test_no_expert_is_asked_about_silence_beside_a_sound(model: MoEAudioModel, config: ModelConfig) -> None:
    waveform = torch.zeros(1, config.frontend.clip_samples)
    waveform[:, : config.frontend.clip_samples // 4] = torch.rand(1, config.frontend.clip_samples // 4) - 0.5
    routed = model.route(*model.frontend(waveform, torch.tensor([[float(config.frontend.sample_rate), 0.0]])))
    silent = model.bank.tiles(routed.spectrogram).amax((2, 3, 4)) == routed.spectrogram.min()
    assert 0 < silent.sum() < silent.numel()
    assert (routed.saliency[silent] == 0).all()
    assert (routed.gates[silent] == 0).all()
    assert routed.gates.sum() > 0
    assert routed.saliency.sum().item() == pytest.approx(1)


def test_saliency_of_silence_is_uniform_in_a_trained_model(checkpoint) -> None:  # type: ignore[no-untyped-def]
    model = load_checkpoint(checkpoint).model
    silence = torch.zeros(1, model.config.frontend.clip_samples)
    routed = model.route(*model.frontend(silence, torch.tensor([[16_000.0, 0.0]])))
    uniform = torch.full_like(routed.saliency, 1 / model.grid.count)
    torch.testing.assert_close(routed.saliency, uniform, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_patch_is_judged_by_the_mean_and_the_maximum_of_its_cells(model: MoEAudioModel, config: ModelConfig) -> None:
    """A short burst in a patch hardly moves the mean of its cells; what the saliency is made from holds both."""
    glance, seen = model.glance, []
    handles = [
        glance.body.register_forward_hook(lambda _module, _inputs, deep: seen.append(deep)),
        glance.saliency.register_forward_hook(lambda _module, inputs, _judged: seen.append(inputs[0])),
    ]
    glance(torch.randn(2, 1, config.frontend.bins, config.frontend.frames))
    for handle in handles:
        handle.remove()
    deep, judged = seen
    grid = model.grid
    cells = [rows // parts for rows, parts in zip((grid.rows, grid.columns), deep.shape[2:], strict=True)]
    (tile_f, tile_t), (stride_f, stride_t) = (
        tuple(size // cell for size, cell in zip(pair, cells, strict=True)) for pair in (grid.tile, grid.stride)
    )
    patches = deep.unfold(2, tile_f, stride_f).unfold(3, tile_t, stride_t).flatten(4)  # [B, deep, rows, columns, cells]
    expected = (patches.mean(4) + patches.amax(4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(judged[:, :, : deep.shape[1]], expected)


def test_with_several_labels_the_least_clear_one_says_how_unsure_the_glance_is(config: ModelConfig) -> None:
    glance = Glance(config.grid, 3, "multi_label")
    logits = torch.tensor([[8.0, -8.0, 0.0], [8.0, -8.0, 8.0], [math.log(3), -8.0, 8.0]])
    assert glance.unsure(logits)[:, 0].tolist() == pytest.approx([1.0, 0.0, 0.5], abs=1e-3)
    glance.temperature.fill_(2.0)
    assert glance.unsure(2 * logits)[:, 0].tolist() == pytest.approx([1.0, 0.0, 0.5], abs=1e-3)


def test_with_one_label_what_lies_on_the_others_says_how_unsure_the_glance_is(config: ModelConfig) -> None:
    glance = Glance(config.grid, 3, "single_label")
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    assert glance.unsure(logits).item() == pytest.approx(0.3)
