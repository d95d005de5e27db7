"""Cores that the process may use, by affinity and by control groups."""

import os
from pathlib import Path

import pytest

from xaimoe_runtime import cgroup
from xaimoe_runtime.cpu import available_cores


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of 16 cores, of which the process may use 8."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(cgroup, "ROOT", tmp_path / "cgroup")
    monkeypatch.setattr(cgroup, "OF_PROCESS", tmp_path / "of_process")


def put(tmp_path: Path, of_process: str, files: dict[str, str]) -> None:
    (tmp_path / "of_process").write_text(of_process)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)


def test_affinity_limits_the_cores() -> None:
    assert available_cores() == 8


def test_without_affinity_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores() == 16


@pytest.mark.parametrize(
    ("of_process", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("0::/a/b\n", {"cpu.max": "max 100000\n", "a/cpu.max": "300000 100000", "a/b/cpu.max": "500000 100000"}, 3),
        ("0::/name/on/the/host\n", {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../../outside\n", {"cpu.max": "400000 100000\n"}, 4),
        ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "50000", "cpu/x/cpu.cfs_period_us": "10000"}, 5),
        ("3:cpu,cpuacct:/\n", {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "10000"}, 8),
        ("0::/\n", {"cpu.max": "nonsense"}, 8),
        ("0::/\n", {"cpu.max": "1 0"}, 8),
    ],
    ids=["v2", "unlimited", "fraction", "under one", "over all", "ancestor", "unmounted", "dots", "v1", "v1 unlimited",
         "nonsense", "no period"],
)  # fmt: skip
def test_control_groups_limit_the_cores(tmp_path: Path, of_process: str, files: dict[str, str], expected: int) -> None:
    put(tmp_path, of_process, files)
    assert available_cores() == expected
