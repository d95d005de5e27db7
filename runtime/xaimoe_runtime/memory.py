"""What this process may take of the machine's memory, and a cap on it."""

from __future__ import annotations

from pathlib import Path

from xaimoe_runtime.cgroup import group_folders
from xaimoe_runtime.errors import ConfigError

MIN_UNLIMITED = 1 << 60
"""Bytes from which a limit stands for none, as version 1 of the control groups writes it."""
GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("memory.max", "memory.current", ""),
}
"""By version of the control groups: the files with the limit and with what is used, and how names in ``memory.stat``
begin."""
COPIES = ("active_file", "inactive_file")
"""Copies of files, by their name in ``memory.stat``."""


def cap_memory(megabytes: int) -> None:
    """From now on the process is refused memory beyond so many megabytes (10^6 bytes) of data: what it then cannot do
    fails with an error instead of taking the machine down, or ends the process where a library (numpy's reductions,
    ONNX Runtime's arena) does not expect a refusal. Where work is to go on, cap a process that another one watches.

    Raises:
        ConfigError: the system cannot do that, or the process has more already.
    """
    try:
        import resource
    except ImportError as error:
        raise ConfigError("--memory-mb: this system cannot cap the memory of a process; leave it out") from error
    held, limit = _data_bytes(), megabytes * 1_000_000
    if held > limit:
        raise ConfigError(f"--memory-mb: found {megabytes}, the process holds {held / 1e6:.0f} MB already; allow more")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def cgroup_room() -> int | None:
    """Return how many bytes the control groups of this process may still take before the kernel ends a process in them;
    None if none of them is limited. Copies of files count as free, since the kernel drops them first."""
    rooms = [_room(folder, *GROUP_FILES[version]) for version, folder in group_folders("memory")]
    return min((room for room in rooms if room is not None), default=None)


def _room(folder: Path, limit_file: str, used_file: str, prefix: str) -> int | None:
    """Return the room of one group; None if it has no limit or does not say."""
    try:
        limit, used = (int((folder / name).read_text(encoding="utf-8")) for name in (limit_file, used_file))
        lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        figures = dict(line.split() for line in lines)
        copies = sum(int(figures[prefix + kind]) for kind in COPIES)
    except (OSError, ValueError, KeyError):  # ValueError: the limit is "max"
        return None
    return None if limit >= MIN_UNLIMITED else max(limit - used + copies, 0)


def _data_bytes() -> int:
    """Data that the process holds, as the kernel counts it for the limit; 0 where it does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    except (OSError, StopIteration):
        return 0
