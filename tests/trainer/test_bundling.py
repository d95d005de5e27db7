"""What an export is given of a checkpoint: its graphs, its recordings, and every option of the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
from data import noise
from data.hand import write_keys
from typer.testing import CliRunner

from xaimoe_audio import MoEAudioClassifier, bundling
from xaimoe_audio.cli import app
from xaimoe_export import ExportOptions, PrecisionPlan, Recordings
from xaimoe_export.plan import Choice
from xaimoe_export.report import ExportReport, PrecisionReport
from xaimoe_runtime import ConfigError, DatasetError, EventSettings, Runtime


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the exporter was asked for; nothing is exported."""
    found: dict[str, Any] = {}

    def export_bundle(graphs: Any, description: Any, out: Path, options: ExportOptions, *rest: Any) -> ExportReport:
        calibration, validation, _ = rest
        found.update(graphs=graphs, description=description, out=out, options=options)
        found.update(calibration=calibration, validation=validation)
        line = PrecisionReport(scores={"routed": 0.0}, same_predictions=True, accuracy=None, ms=1.0)
        return ExportReport(
            bundle_id="0" * 64,
            bytes=1,
            clips=8,
            real_clips=0,
            recordings=0,
            accuracy_in_fp32=None,
            precisions={"fp32": line},
            graphs={},
            refused_by_tensorrt={},
            tensorrt="0",
        )

    monkeypatch.setattr(bundling, "export_bundle", export_bundle)
    return found


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_recordings_are_those_of_the_run(checkpoint: Path, asked: dict[str, Any], scenes: Path) -> None:
    MoEAudioClassifier.load(checkpoint, "cpu").export("bundle")
    calibration, validation = asked["calibration"], asked["validation"]
    assert isinstance(calibration, Recordings)
    rows = (scenes / "metadata.csv").read_text().splitlines()
    assert len(calibration.targets) == len(calibration.waveform) == min(sum(",train," in row for row in rows), 64)
    assert len(validation.targets) == sum(",val," in row for row in rows)
    assert (calibration.targets.sum(1) == 1).all()


def test_graphs_are_all_roles_with_both_stages_of_a_stream(checkpoint: Path, asked: dict[str, Any]) -> None:
    MoEAudioClassifier.load(checkpoint, "cpu").export("bundle")
    roles = [graph.role for graph in asked["graphs"]]
    assert {"frontend", "saliency", "router", "expert", "head", "frames", "window"} == set(roles)


def test_event_settings_come_from_a_file(checkpoint: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    classifier, file = MoEAudioClassifier.load(checkpoint, "cpu"), tmp_path / "events.json"
    classifier.export("bundle")
    assert asked["description"].events == EventSettings()
    file.write_text(json.dumps({"on": {classifier.labels[0]: 0.7}, "smooth": 3}))
    classifier.export("bundle", events=file)
    assert asked["description"].events == EventSettings(on={classifier.labels[0]: 0.7}, smooth=3)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"events\.json: cannot be read"),
        ("{", "expected event settings as JSON: some of on, off, smooth"),
        ('{"colour": 1}', "unknown field `colour`"),
        ('{"smooth": 0}', "smooth"),
        ('{"on": {"unicorn": 0.5}}', "found thresholds for unicorn"),
    ],
)
def test_event_settings_that_are_none_are_refused(
    checkpoint: Path, asked: dict[str, Any], tmp_path: Path, content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "events.json").write_text(content)
    with pytest.raises(ConfigError, match=told):
        MoEAudioClassifier.load(checkpoint, "cpu").export("bundle", events=tmp_path / "events.json")
    assert not asked


@pytest.mark.parametrize("change", ["no run_config", "broken run_config", "moved recordings", "no disk"])
def test_without_its_recordings_an_export_says_so(
    checkpoint: Path, asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    shutil.copy(checkpoint, tmp_path / "best.pt")
    told = json.loads((checkpoint.parent / "run_config.json").read_text())
    if change == "broken run_config":
        (tmp_path / "run_config.json").write_text("{")
    elif change == "moved recordings":
        told |= {"dataset_dir": str(tmp_path / "gone"), "metadata_csv": str(tmp_path / "gone" / "metadata.csv")}
        (tmp_path / "run_config.json").write_text(json.dumps(told))
    elif change == "no disk":
        (tmp_path / "run_config.json").write_text(json.dumps(told | {"dataset_dir": str(tmp_path / "gone")}))
    MoEAudioClassifier.load(tmp_path / "best.pt", "cpu").export("bundle")
    assert asked["calibration"] is asked["validation"] is None
    assert "compared with PyTorch on made-up clips alone; give the dataset (--dataset)" in capsys.readouterr().err


def test_recordings_that_cannot_be_read_are_an_error(checkpoint: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"no recording")
    soundfile.write(tmp_path / "b.wav", noise(16_000), 16_000)
    (tmp_path / "metadata.csv").write_text("filepath,split,label\na.wav,train,ship\nb.wav,val,ship\n")
    with pytest.raises(DatasetError, match=r"a\.wav"):
        MoEAudioClassifier.load(checkpoint, "cpu").export("bundle", dataset_dir=tmp_path)
    (tmp_path / "metadata.csv").write_text("filepath,split,label\nb.wav,val,ship\n")
    with pytest.raises(DatasetError, match="split train has no usable recording"):
        MoEAudioClassifier.load(checkpoint, "cpu").export("bundle", dataset_dir=tmp_path)
    assert not asked


def test_what_is_not_possible_is_said_before_recordings_are_decoded(
    checkpoint: Path, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "load_dataset", lambda *_, **__: pytest.fail("decodes"))
    (tmp_path / "bundle").mkdir()
    with pytest.raises(ConfigError, match="bundle: exists already"):
        MoEAudioClassifier.load(checkpoint, "cpu").export(tmp_path / "bundle")


def test_few_long_recordings_give_as_many_windows(checkpoint: Path, asked: dict[str, Any], tmp_path: Path) -> None:
    classifier = MoEAudioClassifier.load(checkpoint, "cpu")
    audio = classifier.engine.audio
    rows = ["filepath,split,label"]
    for split, name, clips in (("train", "a", 80), ("train", "b", 3), ("val", "c", 2)):
        soundfile.write(tmp_path / f"{name}.wav", noise(clips * audio.clip_samples), audio.sample_rate)
        rows.append(f"{name}.wav,{split},{classifier.labels[0]}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    classifier.export("bundle", dataset_dir=tmp_path)
    windows = [(asked["calibration"].owners == owner).sum() for owner in (0, 1)]
    assert windows == [61, 3], "of the short one all there are"
    assert len(asked["validation"].owners) >= 2


def test_channels_are_no_more_than_recordings_would_be(
    checkpoint: Path, asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "CALIBRATION", 3)
    classifier = MoEAudioClassifier.load(checkpoint, "cpu")
    audio = classifier.engine.audio
    many = noise(8 * audio.clip_samples).reshape(-1, 8)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", many, audio.sample_rate)
    label = classifier.labels[0]
    (tmp_path / "metadata.csv").write_text(f"filepath,split,label\na.wav,train,{label}\nb.wav,val,{label}\n")
    classifier.export("bundle", dataset_dir=tmp_path, channel="each")
    assert len(asked["calibration"].targets) == 3
    assert len(asked["validation"].targets) == 8


@pytest.mark.parametrize("options", [{"channel": "0"}, {"metadata_csv": "table.csv"}])
def test_options_for_recordings_without_a_folder_are_refused(checkpoint: Path, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="give dataset_dir as well"):
        MoEAudioClassifier.load(checkpoint, "cpu").export("bundle", **options)  # type: ignore[arg-type]


def test_every_option_of_the_command_line_reaches_the_exporter(
    checkpoint: Path, asked: dict[str, Any], tmp_path: Path
) -> None:
    private, _ = write_keys(tmp_path)
    MoEAudioClassifier.load(checkpoint, "cpu").export("bundle")
    choices = {graph.name: Choice(used=False, why="") for graph in asked["graphs"]}
    (tmp_path / "plan.json").write_bytes(PrecisionPlan({"fp16": choices}).encoded())
    result = run(
        *("--ckpt", checkpoint, "--out", tmp_path / "bundle", "--precision", "fp16, fp32", "--fused", "--force"),
        *("--precision-plan", tmp_path / "plan.json", "--sign", private, "--triton", tmp_path / "triton"),
        *("--licence", "MIT", "--score-tolerance", 0.001, "--accuracy-tolerance", 0.1),
    )
    assert result.exit_code == 0, result.output
    options = asked["options"]
    assert options.plan is not None
    assert options == ExportOptions(
        precisions=("fp16", "fp32"),
        fused=True,
        plan=options.plan,
        sign=private,
        triton=tmp_path / "triton",
        licence="MIT",
        force=True,
        score_tolerance=0.001,
        accuracy_tolerance=0.1,
    )
    assert json.loads(result.stdout)["precisions"]["fp32"]["same_predictions"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--precision", "int4"), "precision: found int4, expected some of fp32, int8, fp16"),
        (("--licence", "do as you like"), "licence: found 'do as you like'"),
        (("--precision-plan", "nowhere.json"), "nowhere.json: cannot be read"),
        (("--sign", "nowhere.pem"), "nowhere.pem: cannot be read"),
        (("--score-tolerance", "-1"), "score_tolerance: found -1.0, expected 0 or more"),
    ],
)
def test_options_that_make_no_sense_end_with_2(
    checkpoint: Path, tmp_path: Path, options: tuple[str, str], why: str
) -> None:
    result = run("--ckpt", checkpoint, "--out", tmp_path / "bundle", *options)
    assert result.exit_code == 2
    assert why in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_the_product_in_half_precision_alone_proves_itself(checkpoint: Path, tmp_path: Path) -> None:
    report = MoEAudioClassifier.load(checkpoint, "cpu").export(tmp_path / "bundle", precision="fp16")
    assert report["refused_by_tensorrt"]
    assert not any(report["refused_by_tensorrt"].values())
    assert max(report["precisions"]["fp16"]["scores"].values()) < 0.01
    runtime = Runtime.load(tmp_path / "bundle", "cpu")
    assert runtime.precision == "fp16"
    assert not (tmp_path / "bundle" / "saliency.onnx").exists()
