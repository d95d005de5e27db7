"""The front door for Python: what ``fit`` leaves behind, and that every way to ask gives the same answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from data import noise, write_wav

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.checkpoint import load_checkpoint, save_checkpoint
from xaimoe_audio.fitting import LAUNCHED
from xaimoe_audio.scenes import CLASSES
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime import Result, Runtime
from xaimoe_runtime.errors import AudioError, ConfigError, DatasetError, ProviderError

TINY: dict[str, Any] = {"budget": "latency", "device": "cpu", "clip_s": 0.5, "sample_rate": 8_000}


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> MoEAudioClassifier:
    return MoEAudioClassifier.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def recording(scenes: Path) -> Path:
    return scenes / "audio" / "ship_005.flac"


@pytest.fixture(scope="module")
def tiny_run(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch on two classes, with seed 1."""
    out = tmp_path_factory.mktemp("tiny")
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=1, batch_size=4, out_dir=out)
    return out


# The run folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("best.pt", "last.pt", "run_config.json", "profile.json", "policy.json", "spectro_config.json"),
        *("metrics.json", "expert_usage.json", "architecture.txt"),
    ],
)
def test_the_run_folder_holds(run_folder: Path, name: str) -> None:
    assert (run_folder / name).stat().st_size > 0


def test_the_run_folder_holds_no_left_overs(run_folder: Path) -> None:
    assert not [path.name for path in run_folder.rglob("*") if path.name.startswith(".")]


def test_the_run_config_says_how_to_repeat_the_run(run_folder: Path) -> None:
    config = json.loads((run_folder / "run_config.json").read_text())
    assert config["labels"] == sorted(CLASSES)
    assert (config["seed"], config["epochs"], config["batch_size"]) == (3, 8, 4)
    assert config["overrides"] == {"seed": 3}
    assert (config["task"], config["budget"], config["device"]) == ("single_label", "latency", "cpu")
    assert {"torch", "python", "xai-moe-audio"} <= config["versions"].keys()
    assert len(config["dataset_sha256"]) == 64
    assert config["recipe"]["learning_rate"] > 0
    assert config["policy"] == json.loads((run_folder / "policy.json").read_text())
    assert config["profile"] == json.loads((run_folder / "profile.json").read_text())
    assert config["model"]["frontend"] == json.loads((run_folder / "spectro_config.json").read_text())


def test_the_policy_follows_the_profile(run_folder: Path) -> None:
    """The scenes come at 8 to 48 kHz; the model's rate is one that half of them reach."""
    policy = json.loads((run_folder / "policy.json").read_text())
    chosen = {choice["choice"]: choice for choice in policy["choices"]}
    assert chosen["sample_rate"]["rule"] == "mixture of rates"
    assert chosen["sample_rate"]["value"] <= policy["facts"]["rate"] * 1.1
    assert load_checkpoint(run_folder / "best.pt").info.model.frontend.sample_rate == chosen["sample_rate"]["value"]


def test_metrics_cover_val_and_test_and_every_routing(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert set(metrics) == {"val", "test"}
    for figures in metrics.values():
        assert figures["recordings"] == len(CLASSES)
        assert set(figures["by_routing"]) == {"routed", "dense", "glance"}
        assert figures["by_routing"]["routed"] == {"accuracy": figures["accuracy"], "ece": figures["ece"]}
        assert np.shape(figures["confusion"]) == (len(CLASSES), len(CLASSES))


def test_metrics_count_the_multiply_accumulates_of_a_window(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    usage = json.loads((run_folder / "expert_usage.json").read_text())
    for split, figures in metrics.items():
        macs = figures["macs"]
        assert macs["floor"] <= macs["routed"] <= macs["dense"]
        assert macs["routed"] == pytest.approx(macs["floor"] + macs["experts_share"] * macs["experts_dense"])
        assert (macs["experts_share"] > 0) == (usage[split]["pairs_per_window"] > 0)


@pytest.mark.parametrize("name", ["confusion_val.png", "confusion_test.png", "learning_curves.png"])
def test_figures_are_drawn(run_folder: Path, name: str) -> None:
    assert (run_folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_learning_curves_follow_the_saliency(run_folder: Path) -> None:
    curves = pd.read_csv(run_folder / "logs" / "metrics.csv").groupby("epoch").last()
    assert len(curves) == 8
    for column in ("loss", "val_loss", "val_score", "val_pairs_share", "val_experts_share"):
        assert curves[column].notna().all()
    assert curves["val_rank_correlation"].between(-1, 1).all()
    assert curves["val_deletion"].between(0, 1).all()
    assert curves["val_insertion"].between(0, 1).all()


def test_expert_usage_adds_up(run_folder: Path) -> None:
    usage = json.loads((run_folder / "expert_usage.json").read_text())
    config = load_checkpoint(run_folder / "best.pt").info.model
    for found in usage.values():
        assert set(found["selection_rate"]) == set(config.experts)
        windows = sum(found["k_histogram"].values())
        assert found["k_mean"] == pytest.approx(sum(int(k) * n for k, n in found["k_histogram"].items()) / windows)
        assert found["k_mean"] == pytest.approx(sum(found["selection_rate"].values()))
        assert all(n == 0 for k, n in found["k_histogram"].items() if int(k) > config.router.k_max)
        assert found["pairs_per_window"] <= config.router.max_pairs
        if found["pairs_per_window"]:
            assert sum(found["pair_share"].values()) == pytest.approx(1)
            assert 1 <= found["load_balance"] <= len(config.experts)


def test_training_adds_no_file_to_the_dataset(scenes: Path, run_folder: Path) -> None:
    assert {path.name for path in scenes.iterdir()} == {"audio", "metadata.csv"}


# Training ------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run(few: Path, tiny_run: Path, tmp_path: Path) -> None:
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=1, batch_size=4, out_dir=tmp_path)
    assert (tmp_path / "metrics.json").read_bytes() == (tiny_run / "metrics.json").read_bytes()
    found, wanted = (load_checkpoint(run / "best.pt").model.state_dict() for run in (tmp_path, tiny_run))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_new_run_leaves_no_curves_of_the_old_one(few: Path, tiny_run: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (out / "logs" / "resumed_1").mkdir()
    (out / "logs" / "resumed_1" / "metrics.csv").write_text("epoch,loss\n7,1.0\n")
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=1, batch_size=4, out_dir=out)
    assert not list((out / "logs").glob("resumed_*"))


def test_a_recipe_and_what_it_says_itself_are_not_both_taken(few: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipe: has a learning rate and a saliency teacher of its own"):
        MoEAudioClassifier(learning_rate=1e-3, **TINY).fit(few, epochs=1, out_dir=tmp_path, recipe=Recipe())


def test_more_machines_than_a_launcher_knows_of_are_refused(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="nodes: found 2, but no launcher told this process which it is"):
        MoEAudioClassifier(**TINY).fit(few, epochs=1, out_dir=tmp_path, nodes=2)


def test_batches_are_normalised_while_training(tiny_run: Path) -> None:
    """Lightning trains each part in the mode it finds it in; the engine that measured it before had set it to eval."""
    model = load_checkpoint(tiny_run / "best.pt").model
    buffers = dict(model.named_buffers())
    assert all(value.any() for name, value in buffers.items() if "glance" in name and name.endswith("running_mean"))
    assert all(value.any() for name, value in buffers.items() if "trunk" in name and name.endswith("running_mean"))


def test_the_best_checkpoint_is_a_whole_one_even_while_training(tiny_run: Path) -> None:
    info = load_checkpoint(tiny_run / "best.pt").info
    assert info.model.labels == ("ping", "rain")
    assert [attribute.name for attribute in info.attributes][:2] == ["snr", "flatness"]
    assert all(attribute.q05 <= attribute.q50 <= attribute.q95 for attribute in info.attributes)


def test_training_several_labels_at_once(tmp_path: Path) -> None:
    time = np.arange(4_000) / 8_000
    tones = {"low": np.sin(2 * np.pi * 300 * time), "high": np.sin(2 * np.pi * 2_500 * time)}
    rows = ["filepath,split,label"]
    for i, (split, label) in enumerate(
        (split, label) for split in ("train", "train", "val", "test") for label in ("low", "high", "low|high")
    ):
        sound = sum((0.2 * tones[name] for name in label.split("|")), noise(4_000, seed=i, level=0.01))
        write_wav(tmp_path / f"{i}.wav", np.asarray(sound, np.float32), rate=8_000)
        rows.append(f"{i}.wav,{split},{label}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    classifier = MoEAudioClassifier(task="multi_label", **TINY)
    classifier.fit(tmp_path, epochs=2, batch_size=3, out_dir=tmp_path / "run")
    figures = classifier.evaluate(tmp_path)
    assert 0 <= figures["mAP"] <= 1
    assert set(figures["per_class"]) == {"low", "high"}
    assert "confusion" not in figures
    result = classifier.predict(tmp_path / "0.wav")
    thresholds = classifier.engine.task.thresholds
    found = zip(classifier.labels, result.scores, thresholds, strict=True)
    assert set(result.labels) == {name for name, score, threshold in found if score >= threshold}


# Asking --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ["routed", "dense", "glance"])
def test_a_file_gets_the_runtimes_answer(
    classifier: MoEAudioClassifier, runtime: Runtime, recording: Path, routing: str
) -> None:
    samples, rate = soundfile.read(recording, dtype="float32")
    by_path, wanted = classifier.predict(recording, routing=routing), runtime.infer(samples, rate, routing)
    assert isinstance(by_path, Result)
    np.testing.assert_allclose(by_path.scores, wanted.scores, atol=1e-4)
    assert by_path.labels == wanted.labels
    assert by_path.trace.routing == routing


@pytest.mark.parametrize("shape", ["one clip", "a batch"])
def test_samples_get_the_runtimes_answer(classifier: MoEAudioClassifier, runtime: Runtime, shape: str) -> None:
    samples = noise(3 * 24_000).reshape(3, 24_000)
    samples[1] *= (np.arange(24_000) % 4_000) < 40
    asked = samples[1] if shape == "one clip" else samples
    found, wanted = classifier.predict(asked, 12_000), runtime.infer(asked, 12_000)
    assert found.scores.shape == wanted.scores.shape
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    np.testing.assert_allclose(found.trace.gates, wanted.trace.gates, atol=1e-3)
    assert found.labels == wanted.labels


def test_below_the_least_score_the_answer_is_unknown(classifier: MoEAudioClassifier, recording: Path) -> None:
    assert classifier.predict(recording, min_score=1.0).labels == ("unknown",)


def test_evaluate_repeats_the_figures_of_the_run(
    classifier: MoEAudioClassifier, scenes: Path, run_folder: Path
) -> None:
    written = json.loads((run_folder / "metrics.json").read_text())
    for split in ("val", "test"):
        found = classifier.evaluate(scenes, split=split)  # type: ignore[arg-type]
        for name in ("accuracy", "macro_f1", "confusion", "per_class"):
            assert found[name] == written[split][name]
    glance = classifier.evaluate(scenes, routing="glance")
    assert written["test"]["by_routing"]["glance"] == pytest.approx(
        {name: glance[name] for name in ("accuracy", "ece")}
    )
    assert glance["expert_usage"]["pairs_per_window"] == 0


def test_evaluate_needs_no_other_split(classifier: MoEAudioClassifier, scenes: Path, tmp_path: Path) -> None:
    table = tmp_path / "test.csv"
    table.write_text(f"filepath,split,label\n{scenes}/audio/rain_000.flac,test,rain\n")
    assert classifier.evaluate(scenes, table)["recordings"] == 1


def test_evaluate_refuses_a_class_that_was_never_trained(
    classifier: MoEAudioClassifier, scenes: Path, tmp_path: Path
) -> None:
    table = tmp_path / "other.csv"
    rows = [f"{scenes}/audio/rain_00{i}.flac,{split},owl" for i, split in enumerate(("train", "val", "test"))]
    table.write_text("\n".join(["filepath,split,label", *rows]) + "\n")
    with pytest.raises(DatasetError, match=r"found the class\(es\) owl, which the model does not know"):
        classifier.evaluate(scenes, table)


def test_the_architecture_is_printed_with_its_cost(
    classifier: MoEAudioClassifier, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier.print_architecture()
    printed = capsys.readouterr().out
    assert printed == (run_folder / "architecture.txt").read_text()
    for word in ("frontend", "saliency", "router", "TransientExpert", "head", "total", "MACs", "8 classes"):
        assert word in printed


def test_the_use_of_experts_is_printed(classifier: MoEAudioClassifier, capsys: pytest.CaptureFixture[str]) -> None:
    classifier.print_expert_usage()
    printed = capsys.readouterr().out
    assert "val: " in printed
    assert "test: " in printed
    assert "HighbandGeneral" in printed
    assert "load balance" in printed


def test_the_use_of_experts_is_missed_when_the_run_folder_is(checkpoint: Path, tmp_path: Path) -> None:
    alone = MoEAudioClassifier.load(shutil.copy(checkpoint, tmp_path / "best.pt"), device="cpu")
    with pytest.raises(ConfigError, match=r"expert_usage\.json: no such file"):
        alone.print_expert_usage()


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "guess"}, "task: found 'guess', expected single_label or multi_label"),
        ({"budget": "cheap"}, "budget: found 'cheap', expected accuracy or latency"),
        ({"device": "tpu"}, "device: found 'tpu', expected auto, cuda or cpu"),
        ({"tiles": (8, 8)}, "tiles"),
        ({"sample_rate": "fast"}, "sample_rate"),
        ({"tile": (8,)}, "tile"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"sample_rate": 16_000, "fmax": 9_000.0}, "fmin, fmax: found 0 and 9000 Hz"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_choices(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MoEAudioClassifier(**arguments)
    assert message in str(caught.value)


def test_an_unknown_override_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match="expected sample_rate, fmin, fmax, spectrogram, experts, k_max, tile, stride, clip_s, expert_width",
    ):
        MoEAudioClassifier(tiles=(8, 8))


@pytest.mark.parametrize("overrides", [{"sample_rate": -1}, {"sample_rate": 7}, {"k_max": 9}, {"experts": ["Sonar"]}])
def test_an_override_out_of_range_is_refused_by_fit(few: Path, tmp_path: Path, overrides: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(overrides))}: found"):
        MoEAudioClassifier(budget="latency", device="cpu", **overrides).fit(few, epochs=1, out_dir=tmp_path)
    assert not (tmp_path / "best.pt").exists()


@pytest.mark.parametrize(
    "overrides", [{"fmin": 15_000.0}, {"tile": (64, 4_000)}, {"fmax": 90_000.0}, {"sample_rate": np.int64(256_000)}]
)
def test_what_suits_some_data_is_not_refused_before_the_data_is_known(overrides: dict[str, Any]) -> None:
    assert MoEAudioClassifier(device="cpu", **overrides).overrides


def test_a_class_of_which_nothing_is_heard_is_refused(tmp_path: Path) -> None:
    rows = ["filepath,split,label"]
    for i in range(8):
        label = "ab"[i % 2]
        write_wav(tmp_path / f"{i}.wav", noise(4_000, i) if label == "a" else np.zeros(4_000, np.float32))
        rows.append(f"{i}.wav,{'train' if i < 6 else 'val'},{label}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(DatasetError, match=r"class\(es\) b: all training recordings are silent"):
        MoEAudioClassifier(device="cpu").fit(tmp_path, epochs=1, out_dir=tmp_path / "run")


@pytest.mark.parametrize("auto_config", [True, False])
def test_a_loaded_classifier_has_the_options_it_was_trained_with(
    tmp_path: Path, checkpoint: Path, auto_config: bool
) -> None:
    info = load_checkpoint(checkpoint).info
    changed = msgspec.structs.replace(info, auto_config=auto_config)
    save_checkpoint(tmp_path / "best.pt", load_checkpoint(checkpoint).model, changed)
    assert MoEAudioClassifier.load(tmp_path / "best.pt", device="cpu").auto_config is auto_config


@pytest.mark.parametrize("numbers", [{"epochs": 0}, {"batch_size": 0}])
def test_numbers_below_one_are_refused(few: Path, tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="epochs, batch_size: found"):
        MoEAudioClassifier(**TINY).fit(few, out_dir=tmp_path, **numbers)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is here")
def test_cuda_that_is_not_there_is_an_error_that_names_auto() -> None:
    with pytest.raises(ProviderError, match=r"'cuda' was asked for.* use device='auto' or 'cpu'"):
        MoEAudioClassifier(device="cuda")
    assert MoEAudioClassifier(device="auto").device.type == "cpu"


@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.predict(noise(1_000)),
        lambda c: c.evaluate(Path()),
        lambda c: c.export("bundle"),
        lambda c: c.labels,
        lambda c: c.print_architecture(),
        lambda c: c.print_expert_usage(),
    ],
)
def test_a_classifier_that_is_not_trained_says_so(use: Any) -> None:
    with pytest.raises(ConfigError, match="not trained; call fit, or load a checkpoint"):
        use(MoEAudioClassifier(device="cpu"))


def test_predict_refuses_what_has_no_single_answer(classifier: MoEAudioClassifier, recording: Path) -> None:
    with pytest.raises(ConfigError, match="channel: predict gives one answer"):
        classifier.predict(recording, channel="each")
    with pytest.raises(ConfigError, match="routing: found 'best', expected routed, dense, glance"):
        classifier.predict(recording, routing="best")
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        classifier.predict("gone.wav")


def test_evaluate_refuses_an_unknown_split(classifier: MoEAudioClassifier, scenes: Path) -> None:
    with pytest.raises(ConfigError, match="split: found 'dev', expected train, val, test"):
        classifier.evaluate(scenes, split="dev")  # type: ignore[arg-type]
