"""Locks between processes: who holds one, when it ends, and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.file_lock import acquire, lock_folder, release

HOLD = """
import sys
from pathlib import Path
from xaimoe_runtime.file_lock import lock_folder

with lock_folder(Path(sys.argv[1]), "busy"):
    print("locked", flush=True)
    sys.stdin.read()
"""
FORK = """
import os, sys, time
from pathlib import Path
from xaimoe_runtime.file_lock import lock_folder

with lock_folder(Path(sys.argv[1]), "busy"):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    sys.stdin.read()
"""


def start(code: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A process that holds the lock until its standard input ends, and its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    process, line = start(HOLD, tmp_path)
    try:
        assert line == "locked"
        with (
            pytest.raises(ConfigError, match="somebody writes there"),
            lock_folder(tmp_path, "somebody writes there"),
        ):
            pass
        process.communicate()
        with lock_folder(tmp_path, "busy"):
            assert (tmp_path / "lock").exists()
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    process, _ = start(HOLD, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "lock").exists()
    with lock_folder(tmp_path, "busy"):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_child_that_outlives_the_killed_process_keeps_no_lock(tmp_path: Path) -> None:
    process, child = start(FORK, tmp_path)
    try:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with lock_folder(tmp_path, "busy"):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with lock_folder(tmp_path, "busy"), pytest.raises(ConfigError, match="busy"), lock_folder(tmp_path, "busy"):
        pass


def test_a_new_folder_that_stays_empty_is_removed_and_one_that_was_there_is_not(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "a" / "b", "busy"):
        pass
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c").mkdir()
    with lock_folder(tmp_path / "c", "busy"):
        pass
    assert (tmp_path / "c").is_dir()
    with pytest.raises(RuntimeError, match="stop"), lock_folder(tmp_path / "d", "busy"):
        (tmp_path / "d" / "result").touch()
        raise RuntimeError("stop")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["result"]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed")
def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder removes the file after another process opened it: both would hold a lock, on different files."""
    path, plain_open = tmp_path / "lock", os.open
    removed: list[bool] = []

    def open_and_lose(name: Path, *arguments: int) -> int:
        descriptor = plain_open(name, *arguments)
        if not removed:
            path.unlink()
            removed.append(True)
        return descriptor

    monkeypatch.setattr("xaimoe_runtime.file_lock.os.open", open_and_lose)
    descriptor = acquire(path, "busy")
    with pytest.raises(ConfigError, match="busy"):
        acquire(path, "busy")
    release(descriptor)


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"file.run: cannot be written"),
        lock_folder(tmp_path / "file" / "run", "busy"),
    ):
        pass
