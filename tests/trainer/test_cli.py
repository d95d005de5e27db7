"""The product's command line: the promised options, JSON on stdout, one line for an error, and the exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import Result
from data import noise, write_wav
from typer.testing import CliRunner

from xaimoe_audio import __version__, cli
from xaimoe_audio.scenes import CLASSES


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def error_of(result: Result) -> str:
    """The one line that an error is."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return lines[0]


def records_of(text: str) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in text.splitlines()]


def test_train_writes_the_run_folder(scenes: Path, tmp_path: Path) -> None:
    result = run(
        *("train", "--dataset", scenes, "--metadata", scenes / "metadata.csv", "--epochs", 1, "--batch-size", 16),
        *("--out", tmp_path, "--budget", "latency", "--device", "cpu", "--sample-rate", 8_000, "--clip-s", 0.5),
        *("--tile", "24x24", "--stride", "24x24", "--k-max", 1, "--experts", "TransientExpert, HarmonicExpert"),
        *("--fmin", 100, "--fmax", 3_500, "--seed", 4, "--task", "single_label", "--channel", "mix"),
        *("--expert-width", 6, "--learning-rate", 0.002, "--saliency-teacher", "both"),
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    assert f"wrote {tmp_path / 'best.pt'}" in result.stderr
    told = [" ".join(line.split()) for line in result.stderr.splitlines()]
    assert any(line.startswith("sample_rate 8000 [override] chosen by the user") for line in told)
    assert any(line.startswith("spectrogram logmel [usual] ") for line in told)
    config = json.loads((tmp_path / "run_config.json").read_text())
    assert config["model"]["tile"] == [24, 24]
    assert config["model"]["experts"] == ["TransientExpert", "HarmonicExpert"]
    assert config["model"]["frontend"]["fmax"] == 3_500
    assert config["model"]["expert_width"] == 6
    assert (config["recipe"]["learning_rate"], config["recipe"]["grad_cam_share"]) == (0.002, 0.5)
    assert (config["epochs"], config["batch_size"], config["seed"]) == (1, 16, 4)


def test_profile_prints_a_summary_and_writes_its_files(scenes: Path, tmp_path: Path) -> None:
    result = run("profile", "--dataset", scenes, "--metadata", scenes / "metadata.csv", "--out", tmp_path / "profile")
    assert result.exit_code == 0, result.stderr
    assert f"{6 * len(CLASSES)} recordings" in result.stdout
    for name in ("profile.json", "profile.csv", "profile.png"):
        assert (tmp_path / "profile" / name).stat().st_size > 0


def test_profile_of_a_dataset_with_a_broken_file_tells_it_and_exits_with_1(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", noise(8_000))
    (tmp_path / "b.wav").write_text("not audio")
    (tmp_path / "metadata.csv").write_text("filepath,split,label\na.wav,train,x\nb.wav,val,x\n")
    result = run("profile", "--dataset", tmp_path, "--out", tmp_path / "profile")
    assert result.exit_code == 1
    assert "row 3: " in result.stdout
    assert (tmp_path / "profile" / "profile.json").is_file()


def test_train_without_the_policy_takes_the_fixed_defaults(scenes: Path, tmp_path: Path) -> None:
    result = run(
        *("train", "--dataset", scenes, "--epochs", 1, "--out", tmp_path, "--budget", "latency", "--device", "cpu"),
        *("--no-auto-config", "--spectrogram", "stft", "--clip-s", 0.5),
    )
    assert result.exit_code == 0, result.stderr
    policy = json.loads((tmp_path / "policy.json").read_text())
    rules = {choice["choice"]: choice["rule"] for choice in policy["choices"]}
    assert (rules["sample_rate"], rules["spectrogram"], rules["clip_s"]) == ("default", "override", "override")
    assert json.loads((tmp_path / "spectro_config.json").read_text())["spectrogram"] == "stft"


def test_tune_prints_the_outcome_as_json_and_tells_each_trial(scenes: Path, tmp_path: Path) -> None:
    result = run(
        *("tune", "--dataset", scenes, "--out", tmp_path, "--trials", 1, "--epochs", 1, "--batch-size", 16),
        *("--budget", "latency", "--device", "cpu", "--no-auto-config", "--expert-width", 8, "--tile", "48x32"),
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "tune.json").read_text())
    assert found["best"]["number"] == 0
    # What was given is not searched.
    assert sorted(found["best"]["overrides"]) == ["experts", "k_max", "learning_rate"]
    policy = json.loads((tmp_path / "trial_000" / "policy.json").read_text())
    rules = {choice["choice"]: choice["rule"] for choice in policy["choices"]}
    assert (rules["expert_width"], rules["tile"], rules["sample_rate"]) == ("override", "override", "default")
    assert "trial 0: score " in result.stderr


def test_eval_gives_one_json_object(scenes: Path, checkpoint: Path, run_folder: Path) -> None:
    result = run(
        *("eval", "--dataset", scenes, "--metadata", scenes / "metadata.csv", "--split", "test", "--ckpt", checkpoint)
    )
    assert result.exit_code == 0, result.stderr
    (figures,) = records_of(result.stdout)
    assert figures["accuracy"] == json.loads((run_folder / "metrics.json").read_text())["test"]["accuracy"]


def test_infer_gives_a_record_for_each_recording_and_a_summary(scenes: Path, checkpoint: Path) -> None:
    audio = scenes / "audio" / "rain_005.flac"
    result = run("infer", "--audio", audio, "--ckpt", checkpoint)
    assert result.exit_code == 0, result.stderr
    answer, summary = records_of(result.stdout)
    assert (answer["kind"], answer["path"]) == ("result", str(audio))
    assert set(answer["scores"]) == set(CLASSES)
    assert (summary["kind"], summary["files"], summary["errors"]) == ("summary", 1, 0)
    assert summary["source"] == str(checkpoint)


def test_infer_takes_a_folder_and_writes_to_a_file(scenes: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = run("infer", "--audio", scenes / "audio", "--ckpt", checkpoint, "--out", tmp_path / "answers.jsonl")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    records = records_of((tmp_path / "answers.jsonl").read_text())
    assert len(records) == 6 * len(CLASSES) + 1


def test_infer_with_a_bundle_agrees_with_the_checkpoint(scenes: Path, checkpoint: Path, bundle: Path) -> None:
    audio = scenes / "audio" / "ping_004.flac"
    by_bundle, by_checkpoint = (
        records_of(run("infer", "--audio", audio, *model).stdout)[0]
        for model in (("--bundle", bundle, "--provider", "cpu"), ("--ckpt", checkpoint))
    )
    assert by_bundle["labels"] == by_checkpoint["labels"]
    assert by_bundle["scores"] == pytest.approx(by_checkpoint["scores"], abs=2e-4)


def test_a_recording_that_fails_gets_a_record_and_exit_code_1(scenes: Path, checkpoint: Path, tmp_path: Path) -> None:
    good = scenes / "audio" / "rain_005.flac"
    result = run("infer", "--audio", tmp_path / "gone.wav", "--audio", good, "--ckpt", checkpoint)
    assert result.exit_code == 1
    error, answer, summary = records_of(result.stdout)
    assert (error["kind"], error["error"]) == ("error", "AudioError")
    assert "no such file" in error["message"]
    assert answer["kind"] == "result"
    assert summary["errors"] == 1


def test_export_refuses_a_folder_that_exists(checkpoint: Path, bundle: Path) -> None:
    result = run("export", "--ckpt", checkpoint, "--out", bundle)
    assert result.exit_code == 2
    assert f"{bundle}: exists already" in error_of(result)


def test_device_inspect_shows_a_bundle(bundle: Path) -> None:
    result = run("device", "inspect", bundle)
    assert result.exit_code == 0, result.stderr
    for word in ("TransientExpert", "16000 Hz", "rain"):
        assert word in result.stdout


def test_device_verify_proves_a_bundle(bundle: Path) -> None:
    result = run("device", "verify", bundle, "--provider", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "verified on provider cpu" in result.stdout


@pytest.mark.parametrize("text", ["64", "64x", "x32", "64x32x2", "-64x32", "64 x 32", "64,32", "ax32", "6.4x32"])
@pytest.mark.parametrize("flag", ["--tile", "--stride"])
def test_tiles_are_two_numbers_of_cells(scenes: Path, tmp_path: Path, flag: str, text: str) -> None:
    result = run("train", "--dataset", scenes, "--out", tmp_path, f"{flag}={text}")
    assert result.exit_code == 2
    assert f"{flag}: found {text!r}, expected FxT" in error_of(result)


def test_a_broken_dataset_is_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("filepath,split,label\ngone.wav,train,boat\n")
    result = run("train", "--dataset", tmp_path, "--out", tmp_path / "run", "--device", "cpu")
    assert result.exit_code == 2
    assert "metadata.csv: 3 defect(s):" in result.stderr
    lines = [line.strip() for line in result.stderr.splitlines()]  # one defect a line
    assert "split train has no usable recording, expected at least one" in lines
    assert any(line.startswith("row 2: gone.wav: does not exist") for line in lines)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["eval", "infer", "export"])
def test_a_checkpoint_that_is_refused_is_exit_code_3(scenes: Path, tmp_path: Path, command: str) -> None:
    broken = tmp_path / "best.pt"
    broken.write_bytes(b"nothing of the kind")
    more = {
        "eval": ("--dataset", scenes),
        "infer": ("--audio", scenes / "audio"),
        "export": ("--out", tmp_path / "bundle"),
    }
    result = run(command, "--ckpt", broken, *more[command])
    assert result.exit_code == 3
    assert f"{broken}: not a checkpoint" in error_of(result)


def test_a_bundle_that_is_refused_is_exit_code_3(scenes: Path, tmp_path: Path) -> None:
    result = run("infer", "--bundle", tmp_path, "--audio", scenes / "audio")
    assert result.exit_code == 3
    assert "found no manifest.json" in error_of(result)


@pytest.mark.parametrize(
    "arguments",
    [
        ("infer",),
        ("infer", "--ckpt", "best.pt"),
        ("infer", "--audio", "a.wav"),
        ("infer", "--audio", "a.wav", "--ckpt", "best.pt", "--bundle", "bundle"),
    ],
)
def test_infer_needs_recordings_and_one_model(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "expected recordings (--audio A, or paths) and either --ckpt R/best.pt or --bundle B" in error_of(result)


@pytest.mark.parametrize("option", [("--threads", 2), ("--percentile", "p99"), ("--budget-ms", 5), ("--workers", 2)])
def test_what_only_a_bundle_can_do_is_refused_with_a_checkpoint(option: tuple[str, object]) -> None:
    result = run("infer", "--audio", "a.wav", "--ckpt", "best.pt", *option)
    assert result.exit_code == 2
    assert f"found {option[0]} with --ckpt; expected --bundle" in error_of(result)


def test_pytorchs_device_is_refused_with_a_bundle() -> None:
    result = run("infer", "--audio", "a.wav", "--bundle", "bundle", "--device", "cpu")
    assert result.exit_code == 2
    assert "found --device with --bundle; expected --provider" in error_of(result)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--dataset", "d"),
        ("train", "--dataset", "d", "--out", "o", "--epochs", "0"),
        ("train", "--dataset", "d", "--out", "o", "--budget", "cheap"),
        ("eval", "--dataset", "d", "--ckpt", "c", "--split", "dev"),
        ("infer", "--audio", "a", "--ckpt", "c", "--routing", "best"),
        ("compose",),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--dataset", "d", "--out", "o"),
        ("eval", "--dataset", "d", "--ckpt", "c"),
        ("infer", "--audio", "a", "--ckpt", "c"),
        ("tune", "--dataset", "d", "--out", "o"),
        ("export", "--ckpt", "c", "--out", "o"),
        ("demo",),
    ],
)
@pytest.mark.parametrize("missing", ["torch", "lightning", "onnx"])
def test_missing_training_packages_are_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, missing: str, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == missing else object())
    result = run(*arguments)
    assert result.exit_code == 2
    assert 'pip install "xai-moe-audio[train,cpu]"' in error_of(result)


def test_a_bundle_needs_no_training_packages(monkeypatch: pytest.MonkeyPatch, scenes: Path, bundle: Path) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    result = run("infer", "--bundle", bundle, "--provider", "cpu", scenes / "audio" / "rain_005.flac")
    assert result.exit_code == 0, result.stderr


def test_the_version_is_shown() -> None:
    assert run("--version").stdout.strip() == __version__


@pytest.mark.parametrize("command", ["train", "tune", "profile", "eval", "infer", "export", "demo", "device"])
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert re.search(r"Usage: .* " + command, result.stdout)
