"""The recipe's numbers take effect: each loss term, each augmentation, schedule, averaging, clipping and patience."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import msgspec
import numpy as np
import pytest
import torch
from data import noise, write_wav
from data.configs import model_config, random_model
from data.recordings import tone
from torch import Tensor
from torch.utils.data import DataLoader

from xaimoe_audio.config import ModelConfig, Overrides
from xaimoe_audio.data.dataset import Data, load_dataset
from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_audio.spectrogram import LogMel
from xaimoe_audio.spectrogram.backend import decibels
from xaimoe_audio.spectrogram.frontend import SILENCE_RAMP
from xaimoe_audio.training import augment, loop
from xaimoe_audio.training.assess import answer
from xaimoe_audio.training.clips import Clips, ValidationWindows
from xaimoe_audio.training.job import Job
from xaimoe_audio.training.losses import balance_loss, classification_loss, compute_share, losses_of, z_loss
from xaimoe_audio.training.metrics import measure
from xaimoe_audio.training.module import TrainingModule
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime.schema import TaskKind, TaskSpec

BATCH, LABELS, TAUGHT, STEPS = 8, ("boat", "rain", "whale"), 4, 100
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 2.0])
TASK = TaskSpec(kind="single_label", labels=LABELS, thresholds=(0.5,) * 3, temperatures=(1.0, 1.0))


class AtStep(TrainingModule):
    """A module at step 70 of 100, where the experts learn and some clips explore, that keeps what it logs."""

    global_step = 70  # type: ignore[assignment]

    def log(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
        self.logged = getattr(self, "logged", {}) | {name: float(torch.as_tensor(value).detach())}


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return model_config("latency", LABELS, {"duration": 1.0})


@pytest.fixture(scope="module")
def module(config: ModelConfig) -> AtStep:
    torch.manual_seed(0)
    model = MoEAudioModel(config)
    model.frontend.window.mean.fill_(-60)
    model.frontend.window.deviation.fill_(15)
    module = AtStep(model, Recipe(), STEPS, CLASS_WEIGHTS, TAUGHT)
    module.on_fit_start()
    return module.train()  # type: ignore[return-value]


@pytest.fixture(scope="module")
def clips(module: AtStep) -> Clips:
    frontend = module.model.config.frontend
    torch.manual_seed(1)
    time = torch.arange(frontend.clip_samples) / frontend.sample_rate
    pitch = 200.0 * (1 + torch.arange(BATCH))[:, None]
    waveform = 0.3 * torch.sin(2 * torch.pi * pitch * time) * (time % 0.4 < 0.2) + 1e-3 * torch.randn(BATCH, len(time))
    with torch.no_grad():
        power, sums = module.model.frontend.frame(waveform)
    source = torch.tensor([[float(frontend.sample_rate), 0.0]] * BATCH)
    return Clips(power, sums, source, torch.eye(3)[torch.arange(BATCH) % 3], torch.randn(BATCH, TAUGHT))


@pytest.fixture(scope="module")
def routed(module: AtStep, clips: Clips) -> Routed:
    return module.model.route(*module.model.frontend.window(clips.power, clips.sums, clips.source))


# The loss ------------------------------------------------------------------------------------------------------------

TERMS = ("prior", "experts", "saliency", "balance", "z", "compute", "distill")
DROPLESS = {"drop_share": 0.0, "explore": 0.5}
NONE = {f"{term}_weight": 0.0 for term in TERMS} | DROPLESS


def loss_of(module: AtStep, routed: Routed, clips: Clips, **recipe: float) -> float:
    """The routed loss with other numbers in the recipe, and always the same random draws."""
    before, module.recipe = module.recipe, msgspec.structs.replace(Recipe(), **recipe)
    try:
        torch.manual_seed(2)
        return float(module._routed_loss(routed, clips).detach())
    finally:
        module.recipe = before


def terms_of(module: AtStep, routed: Routed, clips: Clips) -> dict[str, float]:
    """The terms whose values are known without running an expert."""
    logits = module.model.router.affinity_logits(routed.context, routed.attributes)
    prior = classification_loss(routed.prior_logits, clips.targets, "single_label", 0.1, CLASS_WEIGHTS)
    found = {
        "prior": prior,
        "balance": balance_loss(routed.gates_dense),
        "z": z_loss(logits),
        "compute": compute_share(routed.gates, module.costs),
    }
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("term", TERMS)
def test_each_term_of_the_loss_counts_by_its_weight(term: str, module: AtStep, routed: Routed, clips: Clips) -> None:
    without, whole = loss_of(module, routed, clips, **NONE), Recipe()
    name = f"{term}_weight"
    once = loss_of(module, routed, clips, **NONE | {name: getattr(whole, name)}) - without
    twice = loss_of(module, routed, clips, **NONE | {name: 2 * getattr(whole, name)}) - without
    assert once > 0
    assert twice == pytest.approx(2 * once, rel=1e-2, abs=2e-6)
    known = terms_of(module, routed, clips) | {
        "saliency": module.logged["saliency_loss"],
        "distill": module.logged["distill_loss"],
    }
    if term in known:
        assert once == pytest.approx(getattr(whole, name) * known[term], rel=1e-2, abs=2e-6)


def test_the_loss_is_the_sum_of_its_terms_with_the_recipes_weights(
    module: AtStep, routed: Routed, clips: Clips
) -> None:
    without, recipe = loss_of(module, routed, clips, **NONE), Recipe()
    weights = {f"{term}_weight": getattr(recipe, f"{term}_weight") for term in TERMS}
    alone = [loss_of(module, routed, clips, **NONE | {name: weight}) - without for name, weight in weights.items()]
    assert loss_of(module, routed, clips, **DROPLESS) == pytest.approx(without + sum(alone), abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_targets_are_smoothed_and_classes_weighed(module: AtStep, smoothing: float) -> None:
    before, module.recipe = module.recipe, msgspec.structs.replace(Recipe(), label_smoothing=smoothing)
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    targets = torch.eye(3)[[0, 2]]
    log_share = torch.log_softmax(logits, 1)
    smooth = targets * (1 - smoothing) + smoothing / 3
    expected = -(smooth * log_share * CLASS_WEIGHTS).sum(1).mean()
    found = module._loss(logits, targets)
    module.recipe = before
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert Recipe().label_smoothing == 0.1


# Augmentation --------------------------------------------------------------------------------------------------------

OF_CLIPS = {
    "mix_between_classes": ("mix", lambda given: given[1]),
    "add_noise": ("noise", lambda given: given[2]),
    "band_limit": ("resample", lambda given: given[3]),
}
OF_SPECTROGRAMS = {
    "level_jitter": "level_jitter",
    "equalise": "equalise",
    "stretch": "stretch",
    "time_shift": "time_shift",
    "frequency_shift": "frequency_shift",
    "spec_augment": "masks",
}


def test_each_augmentation_is_called_once_with_its_field(
    module: AtStep, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [*(field for field, _ in OF_CLIPS.values()), *OF_SPECTROGRAMS.values()]
    numbers = {field: (i + 1) / 100 for i, field in enumerate(fields)}
    monkeypatch.setattr(module, "recipe", msgspec.structs.replace(Recipe(), **numbers))
    seen: list[tuple[str, float]] = []

    def recorded(name: str, field: Callable[[Any], Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            seen.append((name, field(given)))
            return given[0]

        return call

    for name, (_, field) in OF_CLIPS.items():
        monkeypatch.setattr(augment, name, recorded(name, field))
    for name in OF_SPECTROGRAMS:
        monkeypatch.setattr(augment, name, recorded(name, lambda given: given[1]))
    spectrogram, _, batch = module._augmented(clips)
    expected = {name: numbers[field] for name, (field, _) in OF_CLIPS.items()}
    expected |= {name: numbers[field] for name, field in OF_SPECTROGRAMS.items()}
    assert dict(seen) == expected
    assert len(seen) == len(expected)
    assert batch is clips
    plain, _ = module.model.frontend.window(clips.power, clips.sums, clips.source)
    assert torch.equal(spectrogram, plain)


@pytest.mark.parametrize("field", OF_SPECTROGRAMS.values())
def test_each_augmentation_changes_the_spectrogram(module: AtStep, clips: Clips, field: str) -> None:
    """The recipe's own number of one of them; the others are off."""
    off = dict.fromkeys(["mix", "noise", "resample", *OF_SPECTROGRAMS.values()], 0)
    recipe = msgspec.structs.replace(Recipe(), **off)

    def augmented(recipe: Recipe) -> Tensor:
        before, module.recipe = module.recipe, recipe
        torch.manual_seed(4)
        spectrogram = module._augmented(clips)[0]
        module.recipe = before
        return spectrogram

    plain = augmented(recipe)
    changed = augmented(msgspec.structs.replace(recipe, **{field: getattr(Recipe(), field)}))
    assert (changed - plain).abs().mean() > 0.02


# The schedule --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls_as_a_cosine(module: AtStep) -> None:
    configured = module.configure_optimizers()
    factor = configured["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert configured["lr_scheduler"]["interval"] == "step"
    assert configured["optimizer"].defaults["lr"] == Recipe().learning_rate
    assert Recipe().rise * STEPS == 4
    expected = [min((step + 1) / 4, 1.0) * 0.5 * (1 + math.cos(math.pi * step / STEPS)) for step in range(STEPS)]
    assert [factor(step) for step in range(STEPS)] == pytest.approx(expected, abs=1e-3)
    assert factor(STEPS) == factor(2 * STEPS) == pytest.approx(1e-3)


# What is given to the trainer ----------------------------------------------------------------------------------------

RATE = 8_000


@pytest.fixture
def recordings(tmp_path: Path) -> tuple[MoEAudioModel, dict[str, Data]]:
    """Boats of 5 clips' length each, and as many rains of one clip's."""
    model = MoEAudioModel(model_config("latency", ("boat", "rain"), sample_rate=RATE, clip_s=0.5))
    clip = model.config.frontend.clip_samples
    rows = ["filepath,split,label"]
    for i in range(8):
        label = ("boat", "rain")[i % 2]
        write_wav(tmp_path / f"{i}.wav", noise(5 * clip if label == "boat" else clip, seed=i), RATE)
        rows.append(f"{i}.wav,{'train' if i < 4 else 'val'},{label}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    found = load_dataset(tmp_path, tmp_path / "metadata.csv", "single_label", RATE)
    return model, dict(found.with_targets(("boat", "rain")))  # type: ignore[arg-type]


class Given(Exception):
    """Ends a training where it would begin."""


def begun(
    recordings: tuple[MoEAudioModel, dict[str, Data]], out: Path, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What a training with a recipe of odd numbers gives to the trainer, the averaging and the module."""
    model, data = recordings
    recipe = Recipe(clip_gradient=3.25, average_share=0.2, patience_share=0.3, class_balance=1.0)
    job = Job(
        dataset_dir=out,
        metadata_csv=out / "metadata.csv",
        task="single_label",
        budget="latency",
        auto_config=True,
        overrides=Overrides(),
        epochs=epochs,
        batch_size=4,
        out=out / "run",
        channel="mix",
        device=torch.device("cpu"),
    )
    given: dict[str, Any] = {}
    averaging = loop.Averaging

    def noted(steps: float) -> loop.Averaging:
        given["averaged_steps"] = steps
        return averaging(steps)

    def trainer(**options: Any) -> Any:
        given.update(options)
        raise Given

    def make_module(model: MoEAudioModel, recipe: Recipe, steps: int, weights: Tensor, taught: int) -> TrainingModule:
        given.update(steps=steps, weights=weights)
        return TrainingModule(model, recipe, steps, weights, taught)

    monkeypatch.setattr(loop, "Averaging", noted)
    monkeypatch.setattr(lightning, "Trainer", trainer)
    with pytest.raises(Given):
        loop.train(model, job, recipe, data["train"], data["val"], lambda: None, make_module=make_module)
    return given


@pytest.mark.parametrize(("epochs", "patience"), [(20, 10), (60, 18)])
def test_the_trainer_is_given_clipping_averaging_and_patience(
    recordings: tuple[MoEAudioModel, dict[str, Data]],
    tmp_path: Path,
    epochs: int,
    patience: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = begun(recordings, tmp_path, epochs, monkeypatch)
    assert given["gradient_clip_val"] == 3.25
    assert given["max_epochs"] == epochs
    assert given["steps"] == epochs * 3  # 12 clips in batches of 4
    assert given["averaged_steps"] == pytest.approx(0.2 * given["steps"])
    (stopping,) = (one for one in given["callbacks"] if isinstance(one, loop.Patience))
    assert stopping.patience == patience


def test_classes_are_weighed_by_the_clips_that_are_drawn(
    recordings: tuple[MoEAudioModel, dict[str, Data]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two boats give 10 clips and two rains 2: with full balance both have half of the loss."""
    weights = begun(recordings, tmp_path, 20, monkeypatch)["weights"]
    assert (weights * torch.tensor([10.0, 2.0])).tolist() == pytest.approx([6.0, 6.0])


# Validation by recording ---------------------------------------------------------------------------------------------


def test_a_long_recording_counts_in_validation_as_much_as_a_short_one(module: AtStep) -> None:
    """One recording of 20 windows that are wrong, two of one window that are right."""
    owners = torch.tensor([0] * 20 + [1, 2])
    scores = torch.tensor([[0.1, 0.8, 0.1]] * 20 + [[0.9, 0.05, 0.05]] * 2)
    targets = torch.eye(3)[[0] * 22]
    for part in (slice(0, 13), slice(13, 22)):
        module.validated.append((scores[part], targets[part], torch.ones(22)[part], owners[part]))
    module.on_validation_epoch_end()
    assert module.recording_losses == pytest.approx([-math.log(0.1), -math.log(0.9), -math.log(0.9)], rel=1e-5)
    assert module.logged["val_loss"] == pytest.approx(np.mean(module.recording_losses), rel=1e-5)
    assert module.logged["val_score"] == pytest.approx(2 / 3)
    assert not module.validated


def test_scores_of_a_recording_are_pooled_before_its_loss(module: AtStep, routed: Routed) -> None:
    """The windows come from the model; a recording's loss is that of its mean score."""
    batch = (
        routed.spectrogram[:4],
        routed.attributes[:4],
        torch.eye(3)[[1] * 4],
        torch.ones(4),
        torch.tensor([0, 0, 0, 1]),
    )
    module.eval()
    with torch.no_grad():
        module.validation_step(batch, 0)
        ((scores, *_),) = module.validated
        module.on_validation_epoch_end()
    module.train()
    expected = [-math.log(float(scores[:3, 1].mean())), -math.log(float(scores[3, 1]))]
    assert module.recording_losses == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("task", ["single_label", "multi_label"])
def test_validation_gives_a_recording_the_scores_of_its_results(
    config: ModelConfig, tmp_path: Path, task: TaskKind
) -> None:
    """A clip of noise, a silent one and one that is silent for its larger part; faint, silent and plain recordings."""
    rate, clip = config.frontend.sample_rate, config.frontend.clip_samples
    silence = np.zeros(clip, np.float32)
    partly = silence.copy()
    partly[: clip // 4] = tone(clip / rate, rate, hz=900.0)[: clip // 4]
    faint = noise(clip, seed=3, level=1e-5)  # -100 dB: sound in floating point, and silence in 16 bits
    write_wav(tmp_path / "mixed.wav", np.concatenate([noise(clip), silence, partly]), rate)
    write_wav(tmp_path / "faint.wav", faint, rate)
    write_wav(tmp_path / "coarse.wav", faint, rate, subtype="PCM_16")
    write_wav(tmp_path / "silent.wav", silence, rate)
    write_wav(tmp_path / "plain.wav", noise(clip, seed=2), rate)
    labels = {"mixed": "whale", "faint": "rain", "coarse": "boat", "silent": "boat", "plain": "rain"}
    rows = "".join(f"{name}.wav,val,{label}\n" for name, label in labels.items())
    (tmp_path / "metadata.csv").write_text("filepath,split,label\n" + rows)
    data = load_dataset(tmp_path, tmp_path / "metadata.csv", task, rate, splits=("val",), required=("val",))
    items, targets = data.with_targets(LABELS)["val"]
    model = random_model(msgspec.structs.replace(config, task=task))
    with torch.no_grad():
        model.glance.prior[1].weight.mul_(20)  # noise and tone have other answers
    module = AtStep(model, Recipe(), STEPS, CLASS_WEIGHTS).eval()
    for batch in DataLoader(ValidationWindows(items, targets, model), 2):
        module.validation_step(batch, 0)
    windows = torch.cat([scores for scores, *_ in module.validated])
    module.on_validation_epoch_end()
    answers = answer(TorchEngine(model, (0.5,) * 3, torch.device("cpu"), "a model"), items, "routed")
    expected = losses_of(torch.from_numpy(answers.scores).double(), torch.from_numpy(targets).double(), task)
    assert module.recording_losses == pytest.approx(expected.tolist(), rel=1e-4)
    assert module.logged["val_loss"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert answers.outputs.sounding == pytest.approx([1, 0, 0.25, 1, 0, 0, 1], abs=0.03)
    plain = losses_of(windows[:3].mean(0, keepdim=True), torch.eye(3)[[2]], task)
    assert module.recording_losses[0] != pytest.approx(float(plain), rel=1e-2)
    if task == "single_label":
        assert module.logged["val_score"] == pytest.approx(measure(answers.scores, targets, TASK)["accuracy"], abs=1e-6)


def test_a_silent_recording_has_no_right_answer(module: AtStep) -> None:
    scores = torch.tensor([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05]])
    module.validated.append((scores, torch.eye(3)[[0, 0]], torch.tensor([0.0, 1.0]), torch.tensor([0, 1])))
    module.on_validation_epoch_end()
    assert module.logged["val_score"] == pytest.approx(0.5)


def test_scores_that_are_not_finite_make_a_loss_that_is_not(module: AtStep) -> None:
    scores = torch.tensor([[math.nan, 0.05, 0.05], [0.9, 0.05, 0.05]])
    module.validated.append((scores, torch.eye(3)[[0, 0]], torch.ones(2), torch.tensor([0, 1])))
    module.on_validation_epoch_end()
    assert math.isnan(module.recording_losses[0]) and math.isfinite(module.recording_losses[1])


# Silence -------------------------------------------------------------------------------------------------------------


def test_silence_stays_silent_through_all_augmentations(module: AtStep, clips: Clips) -> None:
    """Half of the clips are silent as a whole, the others in their second half."""
    frames = clips.power.shape[2]
    power, sums = clips.power.clone(), clips.sums.clone()
    power[:, :, frames // 2 :] = 0
    sums[:, :, frames // 2 :] = 0
    power[::2], sums[::2] = 0, 0
    recipe = Recipe(mix=1.0, noise=1.0, stretch=0.0, time_shift=0.0, frequency_shift=0.0)
    before, module.recipe = module.recipe, recipe
    torch.manual_seed(5)
    spectrogram, _, batch = module._augmented(clips._replace(power=power, sums=sums))
    module.recipe = before
    assert (spectrogram[::2] == -4).all()
    assert torch.equal(batch.targets[::2], clips.targets[::2])
    assert (spectrogram[1::2] > -4).any()


def test_jitter_equaliser_and_masks_leave_cells_at_the_floor() -> None:
    torch.manual_seed(6)
    spectrogram = torch.randn(16, 1, 48, 96).clamp(-3, 3)
    spectrogram[:, :, :, 50:] = -4.0
    for changed in (
        augment.level_jitter(spectrogram, 0.4),
        augment.equalise(spectrogram, 0.4),
        augment.spec_augment(spectrogram, 2),
    ):
        assert (changed[:, :, :, 50:] == -4).all()
        assert not torch.equal(changed, spectrogram)


def test_a_cell_too_soft_for_the_spectrogram_is_silence_to_augmentation_and_saliency_too(config: ModelConfig) -> None:
    """Noise of -96 dB re full scale, after loud noise, reads as the lower limit, as digital silence does. The model
    sees the same cells, so that neither is raised, masked with the mean, or salient."""
    clip, rate = config.frontend.clip_samples, config.frontend.sample_rate
    model = random_model(config)
    model.frontend.window.mean.fill_(-40)
    model.frontend.window.deviation.fill_(6)
    first = np.arange(clip) < 0.4 * clip
    loud = np.where(first, noise(clip, level=0.3), 0)
    soft = loud + np.where(first, 0, noise(clip, seed=2, level=10 ** (-96 / 20)))
    waveform = torch.from_numpy(np.stack([loud, soft]).astype(np.float32))
    with torch.no_grad():
        power, _ = model.frontend.frame(waveform)
        assert float(decibels(power)[1, :, -20:].min()) > SILENCE_RAMP[1]  # it is not silence
        spectrogram, _ = model.frontend(waveform, torch.tensor([[float(rate), 0.0]] * 2))
        later = spectrogram.shape[3] // 2
        assert (spectrogram[:, :, :, later:] == -4).all()
        saliency = model.glance(spectrogram)[0].reshape(2, *model.grid.shape)
    torch.testing.assert_close(saliency[0], saliency[1])
    assert (saliency[:, :, -1] == 0).all() and (saliency[:, :, 0] > 0).all()
    for change in (augment.level_jitter, augment.equalise):
        torch.manual_seed(7)
        changed = change(spectrogram, 0.4)
        assert (changed[:, :, :, later:] == -4).all()
        assert (changed != spectrogram)[spectrogram.abs() < 3].any()
    torch.manual_seed(7)
    assert (augment.spec_augment(spectrogram, 3)[:, :, :, later:] == -4).all()


def test_noise_that_is_loud_enough_has_no_cell_at_the_lower_limit(module: AtStep, clips: Clips) -> None:
    """So jitter, equaliser and masks reach all of an ordinary clip."""
    spectrogram, _ = module.model.frontend.window(clips.power, clips.sums, clips.source)
    assert (spectrogram > -4).all()


def test_the_noises_are_louder_than_silence_only(config: ModelConfig, module: AtStep, clips: Clips) -> None:
    centres = LogMel(config.frontend).centres().float()
    silent = clips._replace(power=torch.zeros_like(clips.power), sums=torch.zeros_like(clips.sums))
    noisy = augment.add_noise(silent, module.noise, 1.0, config.frontend.hop, centres)
    assert not noisy.power.any() and not noisy.sums.any()
