"""The device's command line: records on stdout alone, errors in one line, one exit code for each kind of failure."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import typer
from data import bursts, write_wav
from data.bundles import EditableBundle
from data.commands import call
from typer.testing import CliRunner, Result

from xaimoe_runtime import (
    AudioError,
    BundleError,
    ConfigError,
    DatasetError,
    ProviderError,
    Runtime,
    XaimoeError,
    __version__,
)
from xaimoe_runtime.console import CommandGroup, write_json

COMMAND = [sys.executable, "-c", "from xaimoe_runtime.cli import run; run()"]


def kinds(stdout: str) -> list[str]:
    """Kinds of the records; every line must be one."""
    return [json.loads(line)["kind"] for line in stdout.splitlines()]


def error_line(result: Result) -> str:
    """The last line on stderr, which is the error; stdout stays clean and no traceback is shown."""
    assert "Traceback" not in result.stderr
    *before, line = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert not any(other.startswith("error: ") for other in before)
    return line


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "recording.wav", bursts(40_000))


# infer ---------------------------------------------------------------------------------------------------------------


def test_infer_writes_a_record_for_each_recording_and_a_summary(bundle: Path, recording: Path) -> None:
    another = recording.with_name("another.wav")
    another.write_bytes(recording.read_bytes())
    result = call("infer", bundle, recording, another)
    assert result.exit_code == 0
    assert kinds(result.stdout) == ["result", "result", "summary"]


def test_infer_says_on_stderr_what_it_runs_on(bundle: Path, recording: Path) -> None:
    assert f"{bundle}: provider cpu" in call("infer", bundle, recording, "--provider", "cpu").stderr


def test_infer_takes_a_folder(bundle: Path, recording: Path) -> None:
    assert kinds(call("infer", bundle, recording.parent).stdout) == ["result", "summary"]


def test_infer_takes_its_options(bundle: Path, recording: Path) -> None:
    result = call(
        "infer", bundle, recording, "--windows", "--hop", "0.5", "--channel", "each", "--min-score", "1",
        "--routing", "glance", "--threads", "2",
    )  # fmt: skip
    *heard, whole, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["start_s"] for record in heard][:3] == [0, 0.5, 1]
    assert (whole["labels"], whole["channel"], whole["pairs"]) == (["unknown"], 0, 0)
    assert summary["routing"] == "glance"


def test_infer_writes_to_a_file_and_leaves_stdout_empty(bundle: Path, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "records.jsonl"
    result = call("infer", bundle, recording, "--out", out)
    assert (result.exit_code, result.stdout) == (0, "")
    assert kinds(out.read_text()) == ["result", "summary"]


def test_infer_ends_with_1_when_a_recording_failed_and_classifies_the_rest(bundle: Path, recording: Path) -> None:
    result = call("infer", bundle, recording.parent / "missing.wav", recording)
    assert result.exit_code == 1
    assert kinds(result.stdout) == ["error", "result", "summary"]
    assert "Traceback" not in result.stderr


def test_a_hop_that_skips_sound_is_a_warning_and_ends_with_0(bundle: Path, recording: Path, runtime: Runtime) -> None:
    clip_s = runtime.audio.clip_samples / runtime.audio.sample_rate
    write_wav(recording, bursts(4 * runtime.audio.clip_samples), runtime.audio.sample_rate)
    result = call("infer", bundle, recording, "--hop", 2 * clip_s)
    assert result.exit_code == 0
    record, summary = map(json.loads, result.stdout.splitlines())
    assert record["skipped_s"] == summary["skipped_s"] == pytest.approx(2 * clip_s)
    assert record["complete"] and summary["incomplete"] == 0
    assert "are skipped, and counted as skipped_s" in result.stderr


def test_infer_to_a_folder_is_a_usage_error(bundle: Path, recording: Path) -> None:
    result = call("infer", bundle, recording, "--out", recording.parent)
    assert result.exit_code == 2
    assert "found a folder" in error_line(result)


# Exit codes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--hop", "0"], "hop: found 0 s, expected more than 0"),
        (["--channel", "left"], "channel: found 'left', expected mix, each"),
        (["--provider", "tpu"], "provider: found 'tpu', expected auto, cpu, cuda, tensorrt"),
    ],
)
def test_an_option_that_makes_no_sense_ends_with_2(
    bundle: Path, recording: Path, options: list[str], what: str
) -> None:
    result = call("infer", bundle, recording, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert what in error_line(result)


@pytest.mark.parametrize(
    "options",
    [["--routing", "all"], ["--threads", "0"], ["--min-score", "2"], ["--no-such-option"]],
)
def test_an_option_out_of_its_range_ends_with_2(bundle: Path, recording: Path, options: list[str]) -> None:
    result = call("infer", bundle, recording, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert options[0] in result.stderr


def test_a_folder_without_recordings_ends_with_2(bundle: Path, tmp_path: Path) -> None:
    result = call("infer", bundle, tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path}: found no recordings" in error_line(result)


@pytest.mark.parametrize("command", ["infer", "verify", "inspect"])
def test_a_bundle_that_is_refused_ends_with_3(bundle_copy: Path, recording: Path, command: str) -> None:
    (bundle_copy / "head.onnx").unlink()
    result = call(command, bundle_copy, *([recording] if command == "infer" else []))
    assert (result.exit_code, result.stdout) == (3, "")
    assert "head.onnx: missing" in error_line(result)


def test_a_provider_that_is_missing_ends_with_4(bundle: Path, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    result = call("infer", bundle, recording, "--provider", "cuda")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "provider 'cuda' is missing" in error_line(result)


@pytest.mark.parametrize("error", [AudioError, ConfigError, DatasetError, BundleError, ProviderError])
def test_an_error_becomes_one_line_and_its_exit_code(error: type[XaimoeError]) -> None:
    result = CliRunner().invoke(_failing(error("a.wav: found\n  nothing")), ["fail"])
    assert (result.exit_code, result.stdout) == (error.exit_code, "")
    line = (
        "a.wav: found\n  nothing" if error is DatasetError else "a.wav: found nothing"
    )  # a defect of a dataset a line
    assert result.stderr == f"error: {line}\n"


def test_ctrl_c_ends_with_130() -> None:
    result = CliRunner().invoke(_failing(KeyboardInterrupt()), ["fail"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


def _failing(error: BaseException) -> typer.Typer:
    """A command line whose only command meets this error."""
    failing = typer.Typer(cls=CommandGroup)
    failing.callback()(lambda: None)

    @failing.command()
    def fail() -> None:
        raise error

    return failing


def test_no_command_shows_what_there_is() -> None:
    result = call()
    assert all(command in result.output for command in ("infer", "verify", "inspect"))


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"{__version__}\n")


# verify and inspect --------------------------------------------------------------------------------------------------


def test_verify_names_every_graph_and_passes(bundle: Path, runtime: Runtime) -> None:
    result = call("verify", bundle, "--provider", "cpu")
    assert result.exit_code == 0
    *lines, last = result.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert all(any(name in line for line in lines) for name in runtime.dispatcher.graphs)
    assert last == f"{bundle}: verified on provider cpu, fp32"


def test_verify_ends_with_3_when_an_answer_deviates(editable: EditableBundle) -> None:
    with np.load(editable.path / "golden.npz") as arrays:
        golden = dict(arrays)
    golden["gates_dense"] = golden["gates_dense"] + np.float32(0.1)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **golden)
    editable.put(editable.manifest["golden"], buffer.getvalue())
    result = call("verify", editable.save(), "--provider", "cpu")
    assert result.exit_code == 3
    assert [line.split()[2] for line in result.stdout.splitlines() if line.startswith("FAIL")] == ["router/gates_dense"]
    assert "fp32 router/gates_dense deviate from the golden answers on provider cpu" in error_line(result)


def test_inspect_shows_what_is_in_a_bundle(bundle: Path, runtime: Runtime) -> None:
    result = call("inspect", bundle)
    assert result.exit_code == 0
    manifest = runtime.manifest
    for part in (
        manifest.bundle_id[:16],
        f"{manifest.audio.sample_rate} Hz",
        f"{manifest.patches.grid.count} (",
        *manifest.task.labels,
        *(expert.purpose for expert in manifest.experts),
        *(attribute.name for attribute in manifest.attributes),
        *(graph.file for graph in manifest.graphs),
    ):
        assert part in result.stdout


def test_inspect_gives_the_manifest_as_json(bundle: Path) -> None:
    result = call("inspect", bundle, "--json")
    shown, written = json.loads(result.stdout), json.loads((bundle / "manifest.json").read_bytes())
    assert shown == written


def test_one_json_object_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": [1, 2]})
    assert capsys.readouterr().out == '{"a":[1,2]}\n'


# The process ---------------------------------------------------------------------------------------------------------


def test_the_process_ends_with_the_errors_code_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "inspect", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_records_go_to_stdout_although_progress_shows_on_a_terminal(bundle: Path, recording: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*COMMAND, "infer", bundle, recording], stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = bytearray()

    def watch() -> None:
        try:
            while part := os.read(ours, 4096):
                shown.extend(part)
        except OSError:  # the other end is closed
            pass

    terminal = threading.Thread(target=watch)
    terminal.start()
    stdout, _ = process.communicate(timeout=60)
    terminal.join(timeout=10)
    os.close(ours)
    assert kinds(stdout.decode()) == ["result", "summary"]
    assert b"classifying" in shown
    assert b'"kind"' not in shown


@pytest.mark.skipif(os.name == "nt", reason="no SIGPIPE there")
def test_a_reader_that_goes_away_is_no_traceback(bundle: Path, recording: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "infer", bundle, *[recording] * 3], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stderr
    process.stdout.close()
    shown = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert "Traceback" not in shown
    assert "BrokenPipe" not in shown
