"""The control groups (containers, systemd) that this process is in, versions 1 and 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
OF_PROCESS = Path("/proc/self/cgroup")


def group_folders(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of each group that limits this process, the innermost first.

    A folder may be missing: a container sees the group's name on the host, while only the group itself is mounted, at
    the root.

    Args:
        controller: ``cpu`` or ``memory``.
    """
    try:
        lines = OF_PROCESS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        group = PurePosixPath(name.lstrip("/"))
        parts = [part for part in (group, *group.parents) if ".." not in part.parts]
        if not controllers:
            yield from ((2, ROOT / part) for part in parts)
        elif controller in controllers.split(","):
            yield from ((1, ROOT / mount / part) for mount in (controller, controllers) for part in parts)
