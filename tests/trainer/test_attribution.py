"""Grad-CAM marks nothing that the answer cannot depend on."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from data.configs import model_config, random_model

from xaimoe_audio.explaining import Answer, ExpertAnswer, _grad_cam, attribution
from xaimoe_audio.model.moe import MoEAudioModel, Routed


@pytest.fixture(scope="module")
def model() -> MoEAudioModel:
    """Random weights; tiles of 64 frames that overlap by half, of which an expert reads the middle."""
    return random_model(model_config("latency", ("boat", "rain", "whale"), {"duration": 4.0}))


@pytest.fixture(scope="module", params=[(2,), (1, 3), (0,)], ids=str)
def routed(model: MoEAudioModel, request: pytest.FixtureRequest) -> Routed:
    """One clip of noise, of which the router chose a few patches."""
    config = model.config.frontend
    waveform = torch.randn(1, config.clip_samples, generator=torch.Generator().manual_seed(1)) / 10
    with torch.no_grad():
        found = model.route(*model.frontend(waveform, torch.tensor([[float(config.sample_rate), 0.0]])))
    gates = torch.zeros_like(found.gates)
    gates[0, list(request.param), :2] = 0.2
    return dataclasses.replace(found, gates=gates)


def gradient_of(model: MoEAudioModel, routed: Routed, target: int) -> np.ndarray:
    spectrogram = routed.spectrogram.clone().requires_grad_()
    ExpertAnswer(model, routed)(spectrogram)[0, target].backward()
    assert spectrogram.grad is not None
    return spectrogram.grad[0, 0].numpy()


def test_tiles_overlap_and_are_not_read_whole(model: MoEAudioModel, routed: Routed) -> None:
    assert model.config.tile[1] == 64 and model.config.stride[1] == 32
    tiles = np.zeros(tuple(routed.spectrogram.shape[2:]), bool)
    for patch in torch.nonzero(routed.gates[0].any(1)).flatten().tolist():
        tiles[:, patch * 32 : patch * 32 + 64] = True
    assert tiles.any() and not tiles.all()


@pytest.mark.parametrize("target", [0, 1, 2])
def test_grad_cam_is_zero_where_the_gradient_is(model: MoEAudioModel, routed: Routed, target: int) -> None:
    heat = attribution(model, routed, target, "gradcam")
    assert heat.shape == tuple(routed.spectrogram.shape[2:])
    assert not heat[gradient_of(model, routed, target) == 0].any()
    assert heat.any()


def test_grad_cam_lies_on_cells_of_the_patches_that_ran(model: MoEAudioModel, routed: Routed) -> None:
    heat = attribution(model, routed, 1, "gradcam")
    own = np.zeros(heat.shape, bool)
    for patch in torch.nonzero(routed.gates[0].any(1)).flatten().tolist():
        own[model.grid.owned_cells()[patch]] = True
    assert heat[own].any() and not heat[~own].any()


def test_cells_of_an_experts_map_that_are_not_read_count_as_nothing(model: MoEAudioModel, routed: Routed) -> None:
    """Plain Grad-CAM weighs them like the others."""
    from captum.attr import LayerGradCam

    answer, layer = ExpertAnswer(model, routed), model.bank.trunk.body
    spectrogram = routed.spectrogram.clone().requires_grad_()
    _, _, patches = torch.nonzero(routed.gates.permute(2, 0, 1), as_tuple=True)
    read = model.bank.trunk.summary.territory(model.bank.positions[patches]) > 0
    plain = LayerGradCam(answer, layer).attribute(spectrogram, target=1).detach().abs()
    assert plain[~read].sum() > 0.1 * plain.sum()
    found = _grad_cam(answer, layer, spectrogram, 1)
    assert not found[~read].any() and found[read].any()


def test_what_lies_outside_of_grad_cams_tiles_does_not_change_the_experts_answer(
    model: MoEAudioModel, routed: Routed
) -> None:
    """The receptive field of the pairs that ran: noise outside of it leaves the logits as they are."""
    answer = ExpertAnswer(model, routed)
    heat = attribution(model, routed, 0, "gradcam")
    (_, width), (_, along) = model.grid.tile, model.grid.stride
    read = torch.zeros(heat.shape[1], dtype=torch.bool)
    for patch in torch.nonzero(routed.gates[0].any(1)).flatten().tolist():
        read[patch % model.grid.shape[1] * along :][:width] = True
    other = torch.where(read, routed.spectrogram, torch.randn(routed.spectrogram.shape))
    with torch.no_grad():
        torch.testing.assert_close(answer(other), answer(routed.spectrogram))
    assert not heat[:, ~read.numpy()].any()


def test_where_no_expert_ran_the_map_is_the_glances_and_zero_where_the_gradient_is(
    model: MoEAudioModel, routed: Routed
) -> None:
    none = dataclasses.replace(routed, gates=torch.zeros_like(routed.gates))
    spectrogram = none.spectrogram.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Answer(model, none.attributes)(spectrogram)[0, 0], spectrogram)
    heat = attribution(model, none, 0, "gradcam")
    assert heat.shape == tuple(spectrogram.shape[2:]) and np.isfinite(heat).all()
    assert not heat[gradient[0, 0].numpy() == 0].any()
