"""How many CPU cores this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from xaimoe_runtime.cgroup import group_folders


def available_cores() -> int:
    """Return how many cores this process may use: those of the machine, limited by the CPU affinity (``taskset``,
    SLURM) and by the CPU quota of its control groups (containers, systemd).

    Returns:
        At least 1. A quota of 2.5 cores gives 2.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(min(_cgroup_quotas(), default=cores))))


def _cgroup_quotas() -> Iterator[float]:
    """Yield the CPU quota, in cores, of each control group above this process that has one."""
    for version, folder in group_folders("cpu"):
        yield from _quota_v2(folder / "cpu.max") if version == 2 else _quota_v1(folder)


def _quota_v2(path: Path) -> Iterator[float]:
    """Yield the quota in ``cpu.max``: microseconds of CPU time (or ``max``), and microseconds of real time."""
    try:
        quota, period = path.read_text(encoding="utf-8").split()
        if quota != "max":
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return


def _quota_v1(folder: Path) -> Iterator[float]:
    """Yield the quota of a group of version 1; -1 stands for no limit."""
    try:
        quota, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")) for name in ("quota", "period")
        )
        if quota > 0:
            yield quota / period
    except (OSError, ValueError, ZeroDivisionError):
        return
