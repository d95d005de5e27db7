"""Temporary files and folders, recognised by their names and locked while their process lives."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

TEMPORARY = re.compile(r"\..*\.xaimoe-\d+-[0-9a-f]{8}\.part")
"""Name of a temporary file or folder: ``.NAME.xaimoe-PROCESS-RANDOM.part``, in the folder of ``NAME``."""
MAX_NAME = 40
"""Characters of a name that are repeated in its temporary file's, which has to fit into 255 bytes as well."""
STALE_S = 24 * 3600.0
"""Age from which a temporary file counts as left behind where the system has no file locks."""

_cleaned: set[str] = set()
"""Folders in which this process has looked for the temporary files of killed ones."""


def temporary_name(name: str) -> str:
    """Return a new name for the temporary file or folder of ``name``."""
    return f".{name[:MAX_NAME]}.xaimoe-{os.getpid()}-{secrets.token_hex(4)}.part"


def lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed, and tell whether no other process has it locked.

    Where the file system has no locks, nothing is locked and the answer is yes.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def remove_left_behind(folder: Path) -> None:
    """Remove the temporary files and folders of killed processes from ``folder``; a process looks once in each folder.

    A process that lives holds a lock on its temporary files, on this machine and, with most network file systems, on
    others. Without locks, a file is left behind when it has not changed for a day.
    """
    where = os.path.realpath(folder)
    if where in _cleaned:
        return
    _cleaned.add(where)
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            if TEMPORARY.fullmatch(entry.name) and not entry.is_symlink():
                with suppress(OSError):
                    _remove_if_left_behind(Path(entry.path))


def _remove_if_left_behind(path: Path) -> None:
    if sys.platform == "win32":
        if time.time() - path.stat().st_mtime > STALE_S:
            remove_temporary(path)
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError:  # no locks here
        if time.time() - os.fstat(descriptor).st_mtime > STALE_S:
            remove_temporary(path)
    else:
        remove_temporary(path)
    finally:
        os.close(descriptor)


def remove_temporary(path: Path) -> None:
    """Remove a temporary file or folder, as far as that is possible."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)
