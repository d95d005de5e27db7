"""What a training step runs and learns from: who explores, who is taught, and by which teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
import torch
from data.configs import model_config

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.training.clips import Clips
from xaimoe_audio.training.losses import compute_share
from xaimoe_audio.training.module import TrainingModule
from xaimoe_audio.training.recipe import Recipe

BATCH = 12


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return model_config("latency", ("boat", "rain", "whale"), {"duration": 1.0})


def a_module(config: ModelConfig, taught: int = 0, step: int = 0, **recipe: Any) -> TrainingModule:
    torch.manual_seed(0)
    model = MoEAudioModel(config)
    model.frontend.window.mean.fill_(-60)
    model.frontend.window.deviation.fill_(15)

    class AtStep(TrainingModule):
        """Thinks that it is at a step of 100."""

        global_step = step  # type: ignore[assignment]

        def log(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
            self.logged = getattr(self, "logged", {}) | {name: float(torch.as_tensor(value).detach())}

    module = AtStep(model, msgspec.structs.replace(Recipe(), **recipe), 100, torch.ones(3), taught)
    module.on_fit_start()
    return module.train()


def clips(module: TrainingModule, taught: int = 0) -> Clips:
    torch.manual_seed(1)
    frontend = module.model.config.frontend
    time = torch.arange(frontend.clip_samples) / frontend.sample_rate
    pitch = 200.0 * (1 + torch.arange(BATCH))[:, None]
    waveform = 0.3 * torch.sin(2 * torch.pi * pitch * time) * (time % 0.4 < 0.2) + 1e-3 * torch.randn(BATCH, len(time))
    with torch.no_grad():
        power, sums = module.model.frontend.frame(waveform)
    source = torch.tensor([[float(frontend.sample_rate), 0.0]] * BATCH)
    return Clips(power, sums, source, torch.eye(3)[torch.arange(BATCH) % 3], torch.randn(BATCH, taught))


def routed_of(module: TrainingModule) -> Routed:
    spectrogram, attributes, _ = module._augmented(clips(module))
    return module.model.route(spectrogram, attributes)


LATE = {"step": 70, "drop_share": 0.0}


def test_at_first_a_generalist_hears_whole_clips_and_the_experts_are_its_copies(config: ModelConfig) -> None:
    module = a_module(config, step=0)
    before = [p.clone() for p in module.generalist.parameters()]
    optimizer = module.configure_optimizers()["optimizer"]
    for _ in range(2):
        optimizer.zero_grad()
        module.training_step(clips(module), 0).backward()
        assert all(p.grad is None for p in module.model.bank.fronts.parameters())
        assert all(p.grad is None for p in module.model.router.parameters())
        assert all(p.grad is not None for p in module.model.bank.trunk.parameters())
        optimizer.step()
    assert not all(torch.equal(p, old) for p, old in zip(module.generalist.parameters(), before, strict=True))
    module.eval()
    module._heard_whole(module._augmented(clips(module))[0])
    patches = module.model.bank.tiles(module._augmented(clips(module))[0])[:, 0]
    with torch.no_grad():
        for front in module.model.bank.fronts.values():
            assert torch.allclose(front(patches), module.generalist(patches), atol=1e-4)


def test_later_the_experts_learn_and_the_generalist_does_not(config: ModelConfig) -> None:
    module = a_module(config, step=60)
    module.training_step(clips(module), 0).backward()
    assert all(p.grad is None for p in module.generalist.parameters())
    assert all(p.grad is not None for p in module.model.router.parameters())


def test_experts_that_have_parted_are_not_made_copies_again(config: ModelConfig) -> None:
    module = a_module(config, step=60)
    module.training_step(clips(module), 0)
    kept: dict[str, Any] = {}
    module.on_save_checkpoint(kept)
    longer = a_module(config, step=20)
    assert longer.hears_whole
    longer.on_load_checkpoint(kept)
    assert not longer.hears_whole


def test_then_all_clips_explore(config: ModelConfig) -> None:
    module = a_module(config, step=50)
    routed = routed_of(module)
    gates, explores = module._training_gates(routed)
    assert explores.all()
    assert not ((gates > 0) & (routed.gates_dense == 0)).any()
    assert ((gates > 0) & (routed.gates == 0)).any()
    compatible = (routed.gates_dense > 0).any(2)
    assert torch.equal((gates > 0).sum(2), compatible.long())  # each patch once
    assert torch.allclose(gates.sum(2), compatible / compatible.sum(1, keepdim=True))  # all alike
    one_for_all = (routed.gates_dense > 0).all(1).any(1)
    assert ((gates > 0).any(1).sum(1)[one_for_all] == 1).all()
    drawn = torch.cat([module._training_gates(routed)[0] for _ in range(20)])
    assert (drawn > 0).any((0, 1)).all()  # each expert has its turn


def test_later_most_clips_run_what_the_router_chose(config: ModelConfig) -> None:
    module = a_module(config, **LATE, explore=0.0)
    routed = routed_of(module)
    gates, explores = module._training_gates(routed)
    assert not explores.any() and torch.equal(gates, routed.gates)
    module = a_module(config, **LATE, explore=0.5)
    drawn = [module._training_gates(routed) for _ in range(20)]
    for gates, explores in drawn:
        assert torch.equal(gates[~explores], routed.gates[~explores])
    assert 0.35 < float(torch.stack([explores for _, explores in drawn]).float().mean()) < 0.65


def test_dropping_goes_down_to_no_pair_at_all(config: ModelConfig) -> None:
    module = a_module(config, step=70, drop_share=1.0, explore=0.0)
    routed = routed_of(module)
    runs = torch.stack([module._training_gates(routed)[0] for _ in range(60)])
    kept, chosen = (runs > 0).sum((2, 3)), (routed.gates > 0).sum((1, 2))
    assert (kept <= chosen).all()
    assert (kept == 0).any() and (kept == chosen).any()
    assert torch.equal(runs[runs > 0], routed.gates.expand_as(runs)[runs > 0])


def test_the_experts_answer_for_themselves_too(config: ModelConfig) -> None:
    losses = []
    for weight in (0.0, 0.5, 1.0):
        module = a_module(config, **LATE, explore=0.0, experts_weight=weight)
        losses.append(module.training_step(clips(module), 0).item())
    assert losses[1] - losses[0] > 0.1
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-4)


def test_a_batch_in_which_no_pair_runs_still_teaches_the_glance(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = a_module(config, step=70, drop_share=1.0, explore=0.0, taught=5)
    monkeypatch.setattr("xaimoe_audio.training.module._drop_pairs", torch.zeros_like)
    loss = module.training_step(clips(module, 5), 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert module.model.glance.prior[1].weight.grad.abs().sum() > 0
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@pytest.mark.parametrize("grad_cam_share", [0.0, 0.5, 1.0])
def test_a_step_learns_from_its_teachers(config: ModelConfig, grad_cam_share: float) -> None:
    module = a_module(config, step=70, grad_cam_share=grad_cam_share)
    loss = module.training_step(clips(module), 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert module.logged["saliency_loss"] > 0  # type: ignore[attr-defined]
    assert module.model.glance.saliency[-1].weight.grad is not None
    assert module.model.glance.saliency[-1].weight.grad.abs().sum() > 0


def test_the_teacher_is_asked_about_the_clips_that_explore_and_no_others(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = a_module(config, step=70, explore=0.0)
    module.training_step(clips(module), 0)
    assert "saliency_loss" not in module.logged  # type: ignore[attr-defined]
    module = a_module(config, step=70, explore=0.5)
    asked: list[torch.Tensor] = []

    def recorded(saliency: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        asked.append(teacher)
        return saliency.sum()

    monkeypatch.setattr("xaimoe_audio.training.module.saliency_loss", recorded)
    module.training_step(clips(module), 0)
    assert 0 < len(asked[0]) < BATCH


def test_the_two_teachers_differ(config: ModelConfig) -> None:
    losses = []
    for share in (0.0, 1.0):
        module = a_module(config, step=70, grad_cam_share=share)
        module.training_step(clips(module), 0)
        losses.append(module.logged["saliency_loss"])  # type: ignore[attr-defined]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_an_expert_that_is_never_chosen_is_raised(config: ModelConfig) -> None:
    module = a_module(config, **LATE)
    bias = module.model.router.clip_affinity.bias
    routed = routed_of(module)
    gates = torch.zeros_like(routed.gates)
    gates[:, :, 1:] = 1.0
    for _ in range(20):
        module._raise_starved(replace(routed, gates=gates))
    assert bias[0] > 0 and not bias[1:].any()


def test_who_is_starved_is_asked_of_the_clips_as_they_were_recorded(config: ModelConfig) -> None:
    module = a_module(config, **LATE)
    same: list[bool] = []

    def compare(routed: Routed) -> None:
        heard, glance = clips(module), module.model.glance.eval()
        wanted = module.model.route(*module.model.frontend.window(heard.power, heard.sums, heard.source))
        glance.train()
        same.append(torch.allclose(routed.gates, wanted.gates, atol=1e-6))

    module._raise_starved = compare  # type: ignore[method-assign]
    module.training_step(clips(module), 0)
    assert same == [True]
    assert module.model.glance.training


def test_a_student_repeats_another_classifier(config: ModelConfig) -> None:
    module = a_module(config, taught=5, step=50)
    module.training_step(clips(module, 5), 0).backward()
    assert module.student is not None and module.student.weight.grad is not None
    assert module.logged["distill_loss"] > 0  # type: ignore[attr-defined]
    assert not any("student" in name for name, _ in module.model.named_parameters())


def test_compute_in_the_loss_lowers_the_gates(config: ModelConfig) -> None:
    """The gradient of the compute term alone moves the router's bars up."""
    module = a_module(config, **LATE)
    routed = routed_of(module)
    compute_share(routed.gates, module.costs).backward()
    gradient = module.model.router.thrift.bias.grad
    assert gradient is not None and float(gradient) < 0


def test_the_router_learns_slower_than_the_rest(config: ModelConfig) -> None:
    module = a_module(config)
    groups = module.configure_optimizers()["optimizer"].param_groups
    own = {id(p) for p in module.model.router.parameters()}
    rates = {float(group["initial_lr"]) for group in groups if own & {id(p) for p in group["params"]}}
    others = {float(group["initial_lr"]) for group in groups if not own & {id(p) for p in group["params"]}}
    assert rates == {module.recipe.router_rate * module.recipe.learning_rate}
    assert others == {module.recipe.learning_rate}
    counted = [id(p) for group in groups for p in group["params"]]
    assert len(counted) == len(set(counted)) == len(list(module.parameters()))
