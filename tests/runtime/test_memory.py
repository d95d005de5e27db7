"""A cap on memory: what needs more fails with an error, and the rest goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from data import bursts, write_wav

from xaimoe_runtime import cgroup
from xaimoe_runtime.memory import cgroup_room

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
        write_wav(tmp_path / f"{i}.wav", bursts(30_000, seed=i))
    write_wav(tmp_path / "long.wav", bursts(16_000 * 60 * 20))
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


@pytest.mark.parametrize(
    ("of_process", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b": (500, 100, 30), "a": (600, 300, 0), "": ("max", 900, 0)}, 300),
        ("0::/a/b\n", {"a/b": (500, 100, 30), "a": (600, 50, 0)}, 430),
        ("0::/a\n", {"a": ("max", 100, 30)}, None),
        ("0::/a\n", {"a": (100, 300, 0)}, 0),
        ("4:memory:/a\n0::/\n", {"memory/a": (500, 100, 30)}, 430),
        ("4:memory:/a\n", {"memory/a": (9223372036854771712, 100, 30)}, None),
        ("4:cpu:/a\n", {"memory/a": (500, 100, 30)}, None),
        ("0::/on/the/host\n", {"": (500, 100, 0)}, 400),
        ("0::/a\n", {}, None),
        ("", {}, None),
    ],
    ids=["ancestor", "own", "no limit", "over", "v1", "v1 no limit", "v1 other", "container", "unmounted", "none"],
)
def test_the_room_in_control_groups(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_process: str,
    files: dict[str, tuple[int | str, int, int]],
    expected: int | None,
) -> None:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroup, "OF_PROCESS", tmp_path / "of_process")
    (tmp_path / "of_process").write_text(of_process)
    for name, (limit, used, copies) in files.items():
        folder = tmp_path / "cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        old = name.startswith("memory")
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(f"{limit}\n")
        (folder / ("memory.usage_in_bytes" if old else "memory.current")).write_text(f"{used}\n")
        prefix = "total_" if old else ""
        stat = f"inactive_file 7\n{prefix}inactive_file {copies}\n{prefix}active_file 0\nshmem 5\n"
        (folder / "memory.stat").write_text(stat if old else stat.partition("\n")[2])
    assert cgroup_room() == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "OF_PROCESS", tmp_path / "missing")
    assert cgroup_room() is None
