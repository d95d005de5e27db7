"""The front door for Python: training through it, and that every way to ask gives the same answer."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
import torch
from data import noise, write_wav
from data.damaged import tone, wav, write

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.checkpoint import load_checkpoint, save_checkpoint
from xaimoe_audio.fitting import LAUNCHED
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime import Result, Runtime
from xaimoe_runtime.errors import AudioError, ConfigError, DatasetError, ProviderError
from xaimoe_runtime.files import FileClassifier

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
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=1, batch_size=4, out_dir=out, force=True)
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
        (split, label) for split in ("train", "train", "val", "test") for label in ("low", "high", "low|high", "")
    ):
        present = label.split("|") if label else []  # recordings of no class are background (case 29)
        sound = sum((0.2 * tones[name] for name in present), noise(4_000, seed=i, level=0.01))
        write_wav(tmp_path / f"{i}.wav", np.asarray(sound, np.float32), rate=8_000)
        rows.append(f"{i}.wav,{split},{label}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    cut = tmp_path / "0.wav"
    cut.write_bytes(cut.read_bytes()[:12_000])
    classifier = MoEAudioClassifier(task="multi_label", **TINY)
    with pytest.raises(DatasetError, match=r"row 2: 0\.wav \(decoded 0\.\d+ s of 0\.50 s .*: is incomplete; .*allow"):
        classifier.fit(tmp_path, epochs=2, batch_size=3, out_dir=tmp_path / "run")
    classifier.fit(tmp_path, epochs=2, batch_size=3, out_dir=tmp_path / "run", allow_incomplete=True)
    assert classifier.evaluate(tmp_path, split="train")["incomplete"] == 1
    figures = classifier.evaluate(tmp_path)
    assert figures["incomplete"] == 0
    assert 0 <= figures["mAP"] <= 1
    assert set(figures["per_class"]) == {"low", "high"}
    assert "confusion" not in figures
    assert figures["recordings"] == 4
    assert classifier.labels == ("high", "low")
    assert json.loads((tmp_path / "run" / "profile.json").read_text())["overall"]["files"] == 16
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


def test_silence_has_no_class_by_any_door(classifier: MoEAudioClassifier, runtime: Runtime, tmp_path: Path) -> None:
    rate, size = classifier.engine.audio.sample_rate, classifier.engine.audio.clip_samples
    sound = noise(size)
    padded = np.concatenate([np.zeros(3 * size, np.float32), sound, np.zeros(2 * size, np.float32)])
    for samples, silent in ((np.zeros(2 * size, np.float32), True), (padded, False)):
        path = write_wav(tmp_path / "a.wav", samples, rate)
        results = classifier.predict(samples), classifier.predict(path), runtime.infer(samples)
        records = [next(iter(FileClassifier(engine).records([path]))) for engine in (classifier.engine, runtime)]
        assert {result.silent for result in results} | {record.silent for record in records} == {silent}  # type: ignore[union-attr]
        expected = ("unknown",) if silent else classifier.predict(sound).labels
        assert {result.labels for result in results} | {record.labels for record in records} == {expected}  # type: ignore[union-attr]


def test_a_mix_that_cancels_is_named_by_predict(
    classifier: MoEAudioClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = noise(30_000)
    result = classifier.predict(write_wav(tmp_path / "reversed.wav", np.stack([sound, -sound], axis=1)))
    assert result.silent and result.labels == ("unknown",)
    (warning,) = result.warnings
    assert warning.startswith("the channels cancel") and warning in caplog.text and warning in str(result)


def test_other_pools_are_evaluated(classifier: MoEAudioClassifier, scenes: Path) -> None:
    assert classifier.evaluate(scenes, pool="max")["recordings"] > 0
    with pytest.raises(ConfigError, match="pool: found 'median', expected mean, max, top3, lse"):
        classifier.evaluate(scenes, pool="median")  # type: ignore[arg-type]


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


@pytest.mark.parametrize("name", ["epochs", "batch_size", "devices", "nodes"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "2", None, True, math.nan])
def test_numbers_that_are_no_counts_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: found {value!r}, expected a whole number, 1 or more$"):
        MoEAudioClassifier(**TINY).fit(tmp_path, out_dir=tmp_path / "run", **{name: value})


@pytest.mark.parametrize("name", ["trials", "epochs", "batch_size"])
def test_tune_refuses_numbers_that_are_no_counts(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: found 'a', expected a whole number, 1 or more$"):
        MoEAudioClassifier(**TINY).tune(tmp_path, out_dir=tmp_path / "run", **{name: "a"})


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("predict", {"min_score": "a"}, "min_score: found 'a', expected 0 to 1"),
        ("predict", {"max_novelty": None}, "max_novelty: found None, expected 0 to 1"),
        ("predict", {"min_score": True}, "min_score: found True, expected 0 to 1"),
        ("predict", {"sample_rate": "a"}, "sample_rate: found a sampling rate of 'a'"),
        ("faithfulness", {"recordings": "a"}, "recordings: found 'a', expected a whole number, 1 or more"),
        ("export", {"score_tolerance": "a"}, "score_tolerance: found 'a', expected 0 or more"),
        ("export", {"accuracy_tolerance": math.inf}, "accuracy_tolerance: found inf, expected 0 or more"),
    ],
)
def test_numbers_of_another_type_are_refused_by_name(
    untrained: Path, tmp_path: Path, method: str, options: dict[str, Any], said: str
) -> None:
    classifier = MoEAudioClassifier.load(untrained, device="cpu")
    given = np.zeros(16_000, np.float32) if method == "predict" else tmp_path / "out"
    with pytest.raises((AudioError, ConfigError), match=f"^{said}"):
        getattr(classifier, method)(given, **options)


def test_numbers_of_numpy_are_numbers(untrained: Path) -> None:
    classifier = MoEAudioClassifier.load(untrained, device="cpu")
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    assert classifier.predict(samples, min_score=np.float32(1.0)).labels == ("unknown",)


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


def test_predict_warns_of_a_recording_that_was_cut_short(
    classifier: MoEAudioClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "cut.wav", wav(tone(3.0))[:70_000])
    assert classifier.predict(path).labels
    assert any("cut.wav: incomplete: decoded 2.19 s of 3.00 s" in message for message in caplog.messages)


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
