"""Temperatures, and thresholds of several labels: known answers for small cases."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from data import noise, write_wav
from data.configs import model_config
from data.recordings import tone

from xaimoe_audio.checkpoint import load_checkpoint
from xaimoe_audio.data.dataset import load_dataset
from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training import calibrate
from xaimoe_audio.training.assess import answer, batches
from xaimoe_audio.training.calibrate import DOUBTS, THRESHOLD, fit_head, fit_thresholds, likeliest
from xaimoe_audio.training.normalise import fit_normalisation


def thresholds(scores: list[float], present: list[int]) -> float:
    (found,) = fit_thresholds(np.array(scores, np.float32)[:, None], np.array(present, np.float32)[:, None])
    return found


def temperature(recordings: int, margin: float, wrong: float) -> float:
    """Of an answer that is ahead by a margin every time, and wrong that often."""

    def surprise(temperature: float) -> float:
        share = 1 / (1 + math.exp(-margin / temperature))
        return -recordings * ((1 - wrong) * math.log(share) + wrong * math.log(1 - share))

    return likeliest(surprise)[0]


def test_many_recordings_have_the_temperature_that_they_ask_for() -> None:
    right = 1 / (1 + math.exp(-2.0))
    assert temperature(10_000, 4.0, 1 - right) == pytest.approx(2.0, rel=0.03)
    assert temperature(10_000, 1.0, 1 - right) == pytest.approx(0.5, rel=0.03)


def test_a_few_that_are_all_right_do_not_ask_for_the_extreme() -> None:
    assert temperature(10_000, 4.0, 0.0) < 0.4
    assert 0.45 < temperature(20, 4.0, 0.0) < 0.9


def test_a_threshold_lies_between_the_scores_that_it_separates() -> None:
    assert thresholds([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]) == pytest.approx(0.25)


def test_of_thresholds_as_good_the_one_next_to_one_half_is_taken() -> None:
    assert thresholds([0.1, 0.9], [0, 1]) == pytest.approx(THRESHOLD)


def test_a_rare_class_is_not_missed_for_a_low_score() -> None:
    """One half would find nothing; F1 is highest where one false alarm comes with the two that are right."""
    scores = [0.05, 0.05, 0.05, 0.30, 0.28, 0.26]
    assert 0.05 < thresholds(scores, [0, 0, 0, 1, 0, 1]) < 0.26


def test_overlapping_scores_are_cut_where_f1_is_highest() -> None:
    scores, present = np.array([0.2, 0.4, 0.5, 0.6, 0.8]), np.array([0, 1, 0, 1, 1])

    def f1(threshold: float) -> float:
        over = scores >= threshold
        return float(2 * (over & (present == 1)).sum() / (over.sum() + present.sum()))

    found = thresholds(scores.tolist(), present.tolist())
    assert f1(found) == max(f1(threshold) for threshold in np.linspace(0, 1, 101))


@pytest.mark.parametrize("present", [[0, 0], [1, 1]])
def test_a_class_that_is_everywhere_or_nowhere_keeps_the_usual_threshold(present: list[int]) -> None:
    assert thresholds([0.1, 0.2], present) == THRESHOLD


def test_each_class_has_its_own() -> None:
    scores = np.array([[0.1, 0.6], [0.2, 0.7], [0.3, 0.8]], np.float32)
    low, high = fit_thresholds(scores, np.array([[0, 0], [1, 0], [1, 1]], np.float32))
    assert (low, high) == pytest.approx((0.15, 0.75))


def test_the_head_believes_its_experts_as_far_as_the_validation_split_says(
    checkpoint: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_checkpoint(checkpoint).model
    rate = model.config.frontend.sample_rate
    splits = load_dataset(scenes, scenes / "metadata.csv", "single_label", rate).with_targets(model.config.labels)
    items, targets = splits["val"]

    def fitted(doubts: tuple[float, ...]) -> tuple[float, float, float]:
        """Negative log-likelihood of the recordings and of the temperature, the doubt, and the glance's temperature."""
        monkeypatch.setattr(calibrate, "DOUBTS", doubts)
        fit_head(model, items, targets, torch.device("cpu"))
        engine = TorchEngine(model, (THRESHOLD,) * len(model.config.labels), torch.device("cpu"), "a model")
        scores = answer(engine, items, "routed").scores
        surprise = -np.log(scores[np.arange(len(scores)), targets.argmax(1)]).sum()
        glance, whole = model.head.temperatures.tolist()
        own = 0.5 * (math.log(whole) / calibrate.USUAL_SPREAD) ** 2
        return float(surprise + own), float(torch.nn.functional.softplus(model.head.doubt.detach())), glance

    doubts = calibrate.DOUBTS
    alone = [fitted((doubt,)) for doubt in doubts]
    surprise, doubt, glance = fitted(doubts)
    assert surprise == pytest.approx(min(one[0] for one in alone), rel=1e-4)
    assert doubt == pytest.approx(doubts[int(np.argmin([one[0] for one in alone]))], rel=1e-3)
    assert {one[2] for one in alone} == {glance}
    assert fitted(doubts) == (surprise, doubt, glance)  # fitted again, it stays


def test_the_head_is_fitted_to_the_scores_that_are_given_to_the_user(
    model: MoEAudioModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One recording has a silent clip, one that is mostly silent, and noise; another is silent."""
    model = copy.deepcopy(model)
    frontend = model.config.frontend
    rate, clip = frontend.sample_rate, frontend.clip_samples
    silence = np.zeros(clip, np.float32)
    partly = np.where(np.arange(clip) < clip // 4, tone(clip / rate, rate, hz=900.0)[:clip], 0).astype(np.float32)
    write_wav(tmp_path / "mixed.wav", np.concatenate([noise(clip), silence, partly]), rate)
    write_wav(tmp_path / "silent.wav", silence, rate)
    (tmp_path / "metadata.csv").write_text("filepath,split,label\nmixed.wav,val,rain\nsilent.wav,val,boat\n")
    table = tmp_path / "metadata.csv"
    data = load_dataset(tmp_path, table, "single_label", rate, splits=("val",), required=("val",))
    items, targets = data.with_targets(model.config.labels)["val"]
    pooled: list[np.ndarray] = []

    def surprise(scores: torch.Tensor, truth: torch.Tensor, task: str) -> float:
        pooled.append(scores.numpy().copy())
        return 0.0

    monkeypatch.setattr(calibrate, "_surprise", surprise)
    monkeypatch.setattr(calibrate, "DOUBTS", (0.1,))
    monkeypatch.setattr(calibrate, "TEMPERATURES", [1.0])
    fit_head(model, items, targets, torch.device("cpu"))
    engine = TorchEngine(model, (THRESHOLD,) * 3, torch.device("cpu"), "a model")
    for scores, routing in zip(pooled, ("glance", "routed"), strict=True):
        np.testing.assert_allclose(scores, answer(engine, items, routing).scores, atol=1e-5)
        assert scores[0].any() and not scores[1].any()


@pytest.mark.parametrize(("right", "doubt"), [("experts", min(DOUBTS)), ("glance", max(DOUBTS))])
def test_the_experts_are_believed_if_they_are_right_and_doubted_if_they_are_not(
    right: str, doubt: float, tmp_path: Path
) -> None:
    """The labels are what the experts answer without the glance, or what the glance answers without them."""
    torch.manual_seed(3)
    model = MoEAudioModel(model_config("latency", ("a", "b", "c"), sample_rate=8_000, clip_s=0.5)).eval()
    model.router.config = msgspec.structs.replace(model.router.config, unsure=None)
    rows = ["filepath,split,label"]
    for i in range(24):
        samples = noise(4_000, seed=i) + tone(0.5, 8_000, hz=100.0 * (i + 2), level=0.02 * i)
        write_wav(tmp_path / f"{i}.wav", samples, 8_000)
        rows.append(f"{i}.wav,val,a")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    table = tmp_path / "metadata.csv"
    items = list(load_dataset(tmp_path, table, "single_label", 8_000, splits=("val",), required=("val",)).items)
    with torch.no_grad():
        fit_normalisation(model, items, torch.device("cpu"))
        ((_, waveform, source),) = batches(model, items, torch.device("cpu"))
        _, routed = model(waveform, source)
        assert (routed.gates > 0).flatten(1).any(1).all()
        model.head.experts[1].weight.mul_(20)
        model.glance.prior[1].weight.mul_(20)
        prior = model.glance(routed.spectrogram)[2]
        experts = model.head.of_experts(*model.bank(routed.spectrogram, routed.gates))
        answers = experts - experts.mean(0) if right == "experts" else prior - prior.mean(0)
        model.head.experts[1].bias.sub_(experts.mean(0))
        model.glance.prior[1].bias.sub_(prior.mean(0))
    targets = np.eye(3, dtype=np.float32)[answers.argmax(1).numpy()]
    fit_head(model, items, targets, torch.device("cpu"))
    assert float(torch.nn.functional.softplus(model.head.doubt.detach())) == pytest.approx(doubt, rel=1e-3)
