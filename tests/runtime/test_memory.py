"""A cap on memory: what needs more fails with an error, and the rest goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from data import noise, write_wav

resource = pytest.importorskip("resource", reason="this system cannot cap the memory of a process")
COMMAND = [sys.executable, "-c", "from xaimoe_runtime.cli import run; run()"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a cap cannot be lifted."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("workers", "megabytes"), [(1, 220), (1, 400), (2, 400)])
def test_a_recording_that_needs_more_has_an_error_and_the_others_are_answered(
    bundle: Path, tmp_path: Path, workers: int, megabytes: int
) -> None:
    for i in range(3):
        write_wav(tmp_path / f"{i}.wav", noise(30_000, seed=i))
    write_wav(tmp_path / "long.wav", noise(16_000 * 60 * 20))
    how = ("--memory-mb", megabytes, "--batch-size", 2000, "--workers", workers)
    done = run("infer", bundle, tmp_path, "--provider", "cpu", *how)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = {Path(record["path"]).name: record["kind"] for record in records if "path" in record}
    assert kinds == {"0.wav": "result", "1.wav": "result", "2.wav": "result", "long.wav": "error"}, done.stderr
    assert done.returncode == 1


def test_what_is_held_already_cannot_be_capped(bundle: Path) -> None:
    done = run("infer", bundle, "a.wav", "--memory-mb", 1)
    assert done.returncode == 2
    assert "--memory-mb: found 1, the process holds" in done.stderr
