"""The first load of a bundle is tried in a child process, whose end is not ours."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xaimoe_runtime import BundleError, trial

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no memory cap on this system")


def bundle(path: Path, digest: str = "1" * 64) -> Any:
    """What the trial needs to know of a bundle; no folder, so that nothing can be loaded from it."""
    return SimpleNamespace(path=path, manifest=SimpleNamespace(digest=digest), files={"head.onnx": b"12"})


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trial, "_passed", set())


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


@pytest.mark.parametrize("code", ["raise ImportError('no numpy here')", "print('something else')"])
def test_a_child_that_cannot_start_says_nothing_of_the_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str
) -> None:
    started = child(monkeypatch, code)
    trial.try_first(bundle(tmp_path))
    trial.try_first(bundle(tmp_path))
    assert len(started) == 2, "it is tried again"


def test_without_a_python_of_its_own_or_processes_there_is_no_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = child(monkeypatch, PASSES)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    trial.try_first(bundle(tmp_path))
    for embedding in ("", "/usr/bin/uwsgi"):
        monkeypatch.setattr(sys, "executable", embedding)
        trial.try_first(bundle(tmp_path))
    assert len(started) == 1


def test_the_child_itself_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    """The real child, on an empty folder."""
    with pytest.raises(BundleError, match=r"found no manifest\.json"):
        trial.try_first(bundle(tmp_path))


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
