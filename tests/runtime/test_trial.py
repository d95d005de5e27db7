"""The first load of a bundle is tried in a child process, whose end is not ours."""

from __future__ import annotations

import json
import multiprocessing
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from xaimoe_runtime import BundleError, Runtime, cgroup, trial
from xaimoe_runtime.cli import app
from xaimoe_runtime.onnx_safety import operators

pytestmark = [
    pytest.mark.trial,
    pytest.mark.skipif(sys.platform != "linux", reason="no memory cap on this system"),
]


def bundle(path: Path, digest: str = "1" * 64) -> Any:
    """What the trial needs to know of a bundle; no folder, so that nothing can be loaded from it."""
    return SimpleNamespace(path=path, manifest=SimpleNamespace(digest=digest), files={"head.onnx": b"12"})


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "_passed", set())
    monkeypatch.setattr(trial, "_warned", set())
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroup, "OF_PROCESS", tmp_path / "of_process")


def leave_memory(tmp_path: Path, megabytes: int | str, used: int = 0, copies: int = 0) -> None:
    """Puts the process into a control group with a limit of so many megabytes."""
    (tmp_path / "of_process").write_text("0::/unit\n")
    folder = tmp_path / "cgroup" / "unit"
    folder.mkdir(parents=True, exist_ok=True)
    limit = f"{megabytes}000000" if isinstance(megabytes, int) else megabytes
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}000000\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {copies}000000\nactive_file 0\n")


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> list[int]:
    """Gives the child another program; returns a list that grows with each child."""
    started: list[int] = []
    real = trial._run

    def run(*given: Any) -> Any:
        started.append(1)
        return real(*given)

    monkeypatch.setattr(trial, "CODE", code)
    monkeypatch.setattr(trial, "_run", run)
    return started


PASSES = "print('ready'); print('passed')"


def test_a_bundle_that_passed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = child(monkeypatch, PASSES)
    trial.try_first(bundle(tmp_path))
    trial.try_first(bundle(tmp_path))
    monkeypatch.setattr(trial, "_passed", set())  # another process
    trial.try_first(bundle(tmp_path))
    assert len(started) == 1
    trial.try_first(bundle(tmp_path, "2" * 64))
    assert len(started) == 2


def test_where_nothing_can_be_kept_each_process_tries_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "file"))
    started = child(monkeypatch, PASSES)
    trial.try_first(bundle(tmp_path))
    trial.try_first(bundle(tmp_path))
    assert len(started) == 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('ready', flush=True); import os; os.abort()", "ended with status -6"),
        (
            "print('ready', flush=True)\n"
            "import resource; resource.setrlimit(resource.RLIMIT_DATA, (200_000_000, 200_000_000)); x = bytes(10**9)",
            "ended with status 1",
        ),
        ("print('ready', flush=True); import time; time.sleep(30)", "took more than 1 s"),
        (f"print('ready'); print('refused', {json.dumps(json.dumps('head.onnx: no'))})", "head.onnx: no"),
    ],
)
def test_a_child_that_does_not_get_through_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, expected: str
) -> None:
    child(monkeypatch, code)
    monkeypatch.setattr(trial, "TIMEOUT_S", 20.0 if "sleep" not in code else 1.0)
    with pytest.raises(BundleError, match=expected):
        trial.try_first(bundle(tmp_path))
    with pytest.raises(BundleError, match=expected):
        trial.try_first(bundle(tmp_path))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('no numpy here')", "the child process ended with status 1 before it opened the bundle"),
        ("print('something else')", "the child process ended with status 0 before it opened the bundle"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed, perhaps since the machine's memory"),
        ("import time; time.sleep(30)", "took more than 1 s before it opened the bundle"),
        (f"print('unable', {json.dumps(json.dumps('two builds'))})", "could not be made: two builds; load bundles"),
    ],
    ids=["import", "other", "killed", "slow", "unable"],
)
def test_a_child_that_cannot_start_says_nothing_of_the_bundle_and_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, code: str, reason: str
) -> None:
    started = child(monkeypatch, code)
    monkeypatch.setattr(trial, "TIMEOUT_S", 20.0 if "sleep" not in code else 1.0)
    trial.try_first(bundle(tmp_path))
    trial.try_first(bundle(tmp_path))
    assert len(started) == 2, "it is tried again"
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: loaded without a trial in a child process")
    assert reason in message
    trial.try_first(bundle(tmp_path, "2" * 64))
    assert len(caplog.messages) == 2, "another bundle"


def test_a_process_that_works_for_another_leaves_the_warning_to_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    child(monkeypatch, "raise ImportError")
    monkeypatch.setattr(trial, "_is_helper", False)
    trial.leave_warnings_to_parent()
    trial.try_first(bundle(tmp_path))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "value", "starts", "reason"),
    [
        ("executable", "/nowhere/python", 1, "no process can be started"),
        ("executable", "", 0, "no Python interpreter of its own"),
        ("executable", "/usr/bin/uwsgi", 0, "no Python interpreter of its own"),
        ("frozen", True, 0, "no Python interpreter of its own"),
        ("platform", "darwin", 0, r"memory cannot be capped on this system \(darwin\)"),
    ],
    ids=["no such file", "nothing", "embedded", "frozen", "system"],
)
def test_without_a_python_of_its_own_or_processes_there_is_no_trial(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    name: str,
    value: object,
    starts: int,
    reason: str,
) -> None:
    started = child(monkeypatch, PASSES)
    monkeypatch.setattr(sys, name, value, raising=False)
    trial.try_first(bundle(tmp_path))
    trial.try_first(bundle(tmp_path))
    assert len(started) == 2 * starts
    (message,) = caplog.messages
    assert re.search(reason, message)


def test_operators_that_a_child_would_not_know_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    started = child(monkeypatch, PASSES)
    monkeypatch.setattr(operators, "ADDED", {"Like": "Relu", "Own": lambda call: None})
    trial.try_first(bundle(tmp_path))
    assert started == []
    assert "operators that were added as functions (Own)" in caplog.text


def test_no_warning_where_the_trial_is_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    child(monkeypatch, PASSES)
    trial.try_first(bundle(tmp_path))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("limit", "used", "copies", "cap"),
    [
        (300, 60, 20, 300 - 60 + 20 - trial.RESERVE_MB),
        (4_000, 100, 0, trial.MEMORY_MB),
        ("max", 100, 0, trial.MEMORY_MB),
    ],
    ids=["MemoryMax=300M", "large", "unlimited"],
)
def test_the_cap_is_what_the_control_group_leaves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: int | str, used: int, copies: int, cap: int
) -> None:
    caps: list[int] = []
    monkeypatch.setattr(trial, "_run", lambda bundle, memory_mb: caps.append(memory_mb) or ([trial.PASSED], 0))
    leave_memory(tmp_path, limit, used, copies)
    trial.try_first(bundle(tmp_path))
    assert caps == [cap]


def test_a_control_group_that_leaves_too_little_is_no_refusal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    started = child(monkeypatch, PASSES)
    leave_memory(tmp_path, 200, used=120)
    trial.try_first(bundle(tmp_path))
    assert started == []
    (message,) = caplog.messages
    assert "the control group (container, systemd's MemoryMax) leaves 48 MB, expected 128" in message


def test_the_child_has_one_thread_whatever_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    code = "import os; print('ready'); print('refused', json.dumps(os.environ['OMP_NUM_THREADS'] + ' thread'))"
    child(monkeypatch, f"import json; {code}")
    with pytest.raises(BundleError, match="1 thread"):
        trial.try_first(bundle(tmp_path))


def test_a_child_that_was_killed_on_the_way_is_a_refusal_that_names_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child(monkeypatch, "print('ready', flush=True); import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(BundleError, match="was killed, perhaps since the machine's memory ran out"):
        trial.try_first(bundle(tmp_path))


@pytest.mark.parametrize("limit", ["max", 300])
def test_the_child_itself_refuses_what_is_no_bundle(tmp_path: Path, limit: int | str) -> None:
    """The real child, on an empty folder; 300 MB are what the example of a systemd unit allows."""
    leave_memory(tmp_path, limit, used=60)
    with pytest.raises(BundleError, match=r"found no manifest\.json"):
        trial.try_first(bundle(tmp_path))


def _load(folder: Path, _recording: Path) -> None:
    Runtime.load(folder, provider="cpu")


def _call(name: str) -> Callable[[Path, Path], None]:
    def call(folder: Path, recording: Path) -> None:
        result = CliRunner().invoke(
            app, [name, str(folder), *([str(recording)] if name in ("infer", "stream") else [])]
        )
        assert result.exit_code == 0, result.output

    return call


DOORS = {"Runtime.load": _load} | {name: _call(name) for name in ("infer", "stream", "verify")}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_tries_a_bundle_with_the_real_child(
    bundle_copy: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    started = child(monkeypatch, trial.CODE)
    DOORS[door](bundle_copy, sorted((scenes / "audio").iterdir())[0])
    assert started == [1]
    assert trial._passed


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_what_the_child_refuses(
    bundle_copy: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    child(monkeypatch, f"print('ready'); print('refused', {json.dumps(json.dumps('head.onnx: no'))})")
    with pytest.raises((AssertionError, BundleError), match=r"head\.onnx: no"):
        DOORS[door](bundle_copy, sorted((scenes / "audio").iterdir())[0])


def _from_a_daemon(path: str, queue: Any) -> None:
    try:
        trial.try_first(bundle(Path(path)))
    except BundleError as error:
        queue.put(str(error))


def test_a_daemon_of_multiprocessing_may_try_a_bundle(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_from_a_daemon, args=(str(tmp_path), queue), daemon=True)
    process.start()
    assert "found no manifest.json" in queue.get(timeout=120)
    process.join()
