"""Explanations: figures and numbers of what in a recording spoke for an answer."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from data import bursts, noise, write_wav
from typer.testing import CliRunner

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.cli import app
from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.explaining import Answer, attribution, explain_recording, numbers_of, write_explanation
from xaimoe_audio.model.moe import MoEAudioModel, Routed
from xaimoe_runtime import AudioError, ConfigError, ProviderError

ALL = ("gradcam", "gradxinput", "saliency_router", "patch_routing", "patch_grid")


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> MoEAudioClassifier:
    return MoEAudioClassifier.load(checkpoint, "cpu")


@pytest.fixture(scope="module")
def recording(scenes: Path) -> Path:
    return sorted((scenes / "audio").glob("ping_*.*"))[0]


@pytest.fixture(scope="module")
def routed(classifier: MoEAudioClassifier, recording: Path) -> Routed:
    """One clip as the model routes it."""
    model = classifier.engine.model
    frontend = model.config.frontend
    waveform = torch.from_numpy(bursts(frontend.clip_samples))[None]
    with torch.no_grad():
        return model.route(*model.frontend(waveform, torch.tensor([[float(frontend.sample_rate), 0.0]])))


@pytest.mark.parametrize(
    ("method", "drawn"),
    [("gradcam", {"gradcam"}), ("gradxinput", {"gradxinput"}), ("saliency", set()), ("all", {"gradcam", "gradxinput"})],
)
def test_a_method_writes_its_figures_and_the_numbers(
    classifier: MoEAudioClassifier, recording: Path, tmp_path: Path, method: str, drawn: set[str]
) -> None:
    found = classifier.explain(recording, method, tmp_path / "out")
    wanted = {f"{name}.{ending}" for name in (*drawn, *ALL[2:]) for ending in ("png", "svg")} | {"explain.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == wanted
    assert {Path(file).name for file in found["files"]} == wanted
    kept = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert kept == {name: value for name, value in found.items() if name != "files"}
    assert set(kept["attributions"]) == drawn
    assert kept["label"] == max(kept["scores"], key=kept["scores"].__getitem__)
    assert sum(patch["saliency"] for patch in kept["patches"]) == pytest.approx(1, abs=1e-4)
    assert all(pair["gate"] > 0 for pair in kept["pairs"])
    assert (tmp_path / "out" / "patch_grid.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_folder_nothing_is_written(
    classifier: MoEAudioClassifier, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert classifier.explain(recording)["files"] == []
    assert list(tmp_path.iterdir()) == []


def test_the_numbers_are_those_of_the_prediction(classifier: MoEAudioClassifier, recording: Path) -> None:
    found, wanted = classifier.explain(recording, "saliency"), classifier.predict(recording)
    assert list(found["scores"].values()) == pytest.approx(wanted.scores.tolist(), abs=1e-5)


def test_another_label_is_explained_when_asked_for(classifier: MoEAudioClassifier, recording: Path) -> None:
    labels = classifier.labels
    found = {label: classifier.explain(recording, "gradxinput", label=label) for label in labels[:2]}
    assert [one["label"] for one in found.values()] == list(labels[:2])
    first, second = (one["attributions"]["gradxinput"]["patches"] for one in found.values())
    assert first != second


def test_gradient_times_input_is_that(classifier: MoEAudioClassifier, routed: Routed) -> None:
    model: MoEAudioModel = classifier.engine.model
    spectrogram = routed.spectrogram.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(Answer(model, routed.attributes)(spectrogram)[0, 1], spectrogram)
    wanted = (gradient * spectrogram)[0, 0].detach().numpy()
    np.testing.assert_allclose(attribution(model, routed, 1, "gradxinput"), wanted, atol=1e-6)


def test_grad_cam_lies_on_patches_that_were_heard(classifier: MoEAudioClassifier, routed: Routed) -> None:
    model = classifier.engine.model
    heard = attribution(model, routed, 0, "gradcam")
    assert heard.shape == tuple(routed.spectrogram.shape[2:])
    assert np.isfinite(heard).all()
    ran = (routed.gates[0] > 0).any(1)
    assert ran.any()
    covered = np.zeros(heard.shape, bool)
    (height, width), (down, along) = model.grid.tile, model.grid.stride
    for patch in torch.nonzero(ran).flatten().tolist():
        row, column = divmod(patch, model.grid.shape[1])
        covered[row * down : row * down + height, column * along : column * along + width] = True
    assert not heard[~covered].any()
    assert heard[covered].any()


def test_where_no_expert_was_asked_grad_cam_is_the_glances(classifier: MoEAudioClassifier, routed: Routed) -> None:
    model = classifier.engine.model
    silent = torch.full_like(routed.spectrogram, float(routed.spectrogram.min()))
    attributes = torch.zeros_like(routed.attributes)  # of no quality at all
    with torch.no_grad():
        found = model.route(silent, attributes)
    assert not found.gates.any()
    assert attribution(model, found, 0, "gradcam").shape == tuple(silent.shape[2:])


@pytest.mark.parametrize("what", ["silence", "50 ms", "ten seconds"])
def test_odd_recordings_are_explained_too(classifier: MoEAudioClassifier, tmp_path: Path, what: str) -> None:
    samples = {"silence": np.zeros(48_000, np.float32), "50 ms": noise(800), "ten seconds": noise(160_000)}[what]
    found = classifier.explain(write_wav(tmp_path / "a.wav", samples), "all", tmp_path / "out")
    assert len(found["files"]) == 2 * len(ALL) + 1
    assert np.isfinite([patch["saliency"] for patch in found["patches"]]).all()


def test_where_nothing_is_answered_the_best_label_is_explained_whatever_its_name(
    classifier: MoEAudioClassifier, recording: Path, tmp_path: Path
) -> None:
    model = copy.deepcopy(classifier.engine.model)
    labels = tuple(f"../{label}/$鯨$_\\" for label in model.config.labels)
    model.config = msgspec.structs.replace(model.config, task="multi_label", labels=labels)
    engine = TorchEngine(model, (1.0,) * len(labels), torch.device("cpu"), "best.pt")
    explanation = explain_recording(engine, recording, "all")
    assert explanation.heard.answer.startswith("answered nothing")
    assert explanation.label == labels[int(explanation.scores.argmax())]
    files = write_explanation(explanation, numbers_of(explanation, engine, recording), tmp_path / "out")
    assert {file.parent for file in files} == {tmp_path / "out"} and all(file.stat().st_size for file in files)
    assert json.loads((tmp_path / "out" / "explain.json").read_text())["label"] == explanation.label


def test_silence_is_explained_without_an_answer(classifier: MoEAudioClassifier, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "silent.wav", np.zeros(40_000, np.float32))
    explanation = explain_recording(classifier.engine, path, "all")
    assert (explanation.answer, set(explanation.scores.tolist())) == (("unknown",), {0.0})
    assert explanation.heard.answer == "answered unknown (silent)"
    assert set(explanation.maps) == {"gradcam", "gradxinput"}
    assert not any(heat.any() for heat in explanation.maps.values())


def test_of_many_labels_one_that_was_answered_is_explained(classifier: MoEAudioClassifier, recording: Path) -> None:
    """The best score need not reach its label's threshold."""
    model = copy.deepcopy(classifier.engine.model)
    model.config = msgspec.structs.replace(model.config, task="multi_label")
    labels = model.config.labels
    (best, second, *_) = explain_recording(classifier.engine, recording, "saliency").scores.argsort()[::-1]
    thresholds = [1.0] * len(labels)
    thresholds[second] = 0.0
    engine = TorchEngine(model, tuple(thresholds), torch.device("cpu"), "best.pt")
    explanation = explain_recording(engine, recording, "gradcam")
    assert explanation.scores[best] > explanation.scores[second]
    assert explanation.answer == (labels[second],) and explanation.label == labels[second]
    told = numbers_of(explanation, engine, recording)
    assert told["answer"] == [labels[second]] and told["thresholds"][labels[second]] == 0.0


def test_what_is_only_repeated_is_told_apart(classifier: MoEAudioClassifier, tmp_path: Path) -> None:
    rate = classifier.engine.audio.sample_rate
    found = classifier.explain(write_wav(tmp_path / "a.wav", noise(rate // 2), rate), "saliency")
    assert found["end_s"] == pytest.approx(0.5)
    assert {patch["repeated"] for patch in found["patches"]} == {False, True}
    assert all(patch["repeated"] == (patch["middle_s"] > 0.5) for patch in found["patches"])


def test_of_a_long_recording_the_clearest_window_is_explained(classifier: MoEAudioClassifier, recording: Path) -> None:
    explanation = explain_recording(classifier.engine, recording, "saliency")
    scores = [window.result.scores for window in _windows(classifier, recording)]
    best = int(np.argmax([score[classifier.labels.index(explanation.label)] for score in scores]))
    assert explanation.heard.start_s == pytest.approx(_windows(classifier, recording)[best].start_s)


def _windows(classifier: MoEAudioClassifier, recording: Path) -> list[Any]:
    from xaimoe_runtime.inference import answer, file_windows, run_windows
    from xaimoe_runtime.result import DEFAULT_RULES

    engine = classifier.engine
    return [
        answer(engine, run_windows(engine, [w], "routed"), "routed", DEFAULT_RULES, (w.start_s, w.end_s), None)
        for _, w in file_windows(recording, engine.audio)
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "lime"}, "method: found 'lime', expected gradcam, saliency, gradxinput, all"),
        ({"label": "unicorn"}, "label: found 'unicorn', the model knows"),
        ({"channel": "each"}, "channel: found each"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    classifier: MoEAudioClassifier, recording: Path, options: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        classifier.explain(recording, **options)  # type: ignore[arg-type]


def test_bad_places_are_told(classifier: MoEAudioClassifier, recording: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match="cannot be written"):
        classifier.explain(recording, "saliency", tmp_path / "file" / "out")
    with pytest.raises(AudioError, match="no such file"):
        classifier.explain(tmp_path / "gone.wav")


@pytest.mark.parametrize("package", ["captum.attr", "matplotlib.figure"])
def test_missing_packages_are_told_with_what_to_install(
    classifier: MoEAudioClassifier, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"captum.attr": "explain", "matplotlib.figure": "figures"}[package]
    with pytest.raises(ProviderError, match=rf"xai-moe-audio\[{extra}\]"):
        classifier.explain(recording, "gradcam", tmp_path)


def test_a_training_explains_samples_of_the_test_split(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    classifier = MoEAudioClassifier(budget="latency", device="cpu", explainability="gradcam")
    classifier.fit(scenes, epochs=1, out_dir=out)
    table = (scenes / "metadata.csv").read_text().splitlines()
    tested = [f"line{number}" for number, row in enumerate(table, 1) if ",test," in row]
    found = sorted(path.name for path in (out / "explain").iterdir())
    assert 0 < len(found) <= 8 and set(found) <= set(tested)
    kept = json.loads((out / "explain" / found[0] / "explain.json").read_text())
    assert kept["labels"] == [table[int(found[0].removeprefix("line")) - 1].split(",")[2]]
    assert set(kept["attributions"]) == {"gradcam", "gradxinput"}
    MoEAudioClassifier(budget="latency", device="cpu").fit(scenes, epochs=1, out_dir=out, force=True)
    assert not (out / "explain").exists()


def test_missing_packages_are_told_before_the_training(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xaimoe_audio.explaining.find_spec", lambda package: None)
    with pytest.raises(ProviderError, match=r"xai-moe-audio\[explain\]"):
        MoEAudioClassifier(device="cpu", explainability="gradcam").fit(scenes, out_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_other_kind_of_explanation_is_promised() -> None:
    with pytest.raises(ConfigError, match="explainability: found 'lime', expected gradcam or None"):
        MoEAudioClassifier(explainability="lime")  # type: ignore[arg-type]


def test_the_command_writes_and_prints(checkpoint: Path, recording: Path, tmp_path: Path) -> None:
    arguments = ["explain", "--audio", recording, "--ckpt", checkpoint, "--out", tmp_path / "e", "--device", "cpu"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert Path(told["files"][0]) == tmp_path / "e" / "gradcam.png"
