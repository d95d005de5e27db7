"""Locks on files that hold between processes and end with the process, however it ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xaimoe_runtime.errors import ConfigError

WINDOWS_OFFSET = 2**30
"""Byte that is locked on Windows, where a locked region cannot be read: far behind anything that is written."""
UNSUPPORTED = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})
"""Errors of file systems that have no locks."""

_held: set[int] = set()
"""Descriptors that hold a lock in this process."""


def _close_in_child() -> None:
    """Close inherited descriptors after a fork: a child that outlives its parent must not keep the parent's lock."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def acquire(path: Path, busy: str) -> int:
    """Lock ``path``, which is created if it does not exist, without waiting.

    The operating system releases the lock when the process ends, also after SIGKILL; a file that is left behind locks
    nothing. A file system without locks (some network file systems) gives none, and no error.

    Args:
        path: the file; its folder exists.
        busy: error message if another process, or this one, holds the lock.

    Returns:
        A descriptor to give to :func:`release`.

    Raises:
        ConfigError: the lock is held.
        OSError: the file cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(descriptor)
                raise ConfigError(busy) from error
        if _is_at(descriptor, path):
            _held.add(descriptor)
            return descriptor
        os.close(descriptor)  # the holder removed the file between our opening and locking it: its name is free again


def release(descriptor: int) -> None:
    """Release the lock of a descriptor and close it."""
    _held.discard(descriptor)
    os.close(descriptor)


@contextmanager
def lock_folder(folder: Path, busy: str, name: str = "lock") -> Iterator[None]:
    """Hold a lock on a folder, which is created if it does not exist; leave neither the lock's file nor an empty new
    folder behind.

    Args:
        folder: what to lock.
        busy: error message if the lock is held.
        name: of the lock's file in the folder.

    Raises:
        ConfigError: the lock is held, or the folder cannot be written.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = acquire(path, busy)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    finally:
        if os.name == "nt":  # an open file cannot be removed there
            release(descriptor)
            with suppress(OSError):
                path.unlink()
        else:
            with suppress(OSError):
                path.unlink()
            release(descriptor)
        for place in created:
            with suppress(OSError):  # something was put into it
                place.rmdir()


def _lock(descriptor: int) -> None:
    """Lock a file for this descriptor alone; raise OSError if another has it."""
    try:
        import fcntl
    except ImportError:
        import msvcrt  # Windows

        os.lseek(descriptor, WINDOWS_OFFSET, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
