"""Files that are whole or not there, and the errors of those that cannot be written."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from xaimoe_runtime.errors import OutputError
from xaimoe_runtime.temporary import lock, remove_left_behind, remove_temporary, temporary_name

ADVICE = {
    errno.ENOSPC: "free some space there, or choose another place",
    errno.EDQUOT: "the quota is used up; free some space, or choose another place",
    errno.EFBIG: "the file system or `ulimit -f` allows no file of this size; choose another place",
    errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`), or use fewer workers",
    errno.ENFILE: "the system has no file descriptors left; end other programs, or try later",
    errno.EACCES: "check the permissions of the folder, or choose another place",
    errno.EPERM: "check the permissions of the folder, or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EIO: "check the disk, or choose another place",
}
"""What to do about an error of the operating system."""


def cannot_be_written(path: Path, error: OSError) -> OutputError:
    """Return the error of a file or folder that cannot be written: what it is, why, and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    advice = ADVICE.get(error.errno or 0, "choose another place")
    return OutputError(f"{path}: cannot be written ({reason}); {advice}")


def describe_os_error(error: OSError) -> str:
    """Return an error of the operating system in words: the file, if it names one, the reason, and what to do."""
    files = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or str(error) or type(error).__name__
    advice = ADVICE.get(error.errno or 0)
    return ": ".join([*files, reason]) + (f"; {advice}" if advice else "")


def check_writable(path: Path) -> None:
    """Check before the work that its result can be written to ``path``, by writing an empty file next to it.

    Raises:
        OutputError: it cannot be written.
    """
    _check_target(path)
    if _is_stream(path):
        if not os.access(path, os.W_OK):
            raise cannot_be_written(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        return
    try:
        with _create(_existing_parent(path), path.name) as probe:
            remove_temporary(Path(probe.name))
    except OSError as error:
        raise cannot_be_written(path, error) from error


def check_folder_writable(folder: Path) -> None:
    """Check before the work that files can be written into ``folder``, which may not exist yet.

    Raises:
        OutputError: they cannot.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: found a file, expected a folder to write into; choose another place")
    try:
        check_writable(folder / "file")
    except OutputError as error:
        raise OutputError(str(error).replace(str(folder / "file"), str(folder), 1)) from error


@contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A binary file that takes the place of ``path`` once it is whole and on the disk; after an error, a kill or a
    power cut ``path`` is as it was.

    The file has the permissions that the umask leaves, or those of the file that it replaces. Temporary files of killed
    processes in the same folder are removed. A device or a pipe is written to directly.

    Raises:
        OutputError: the file cannot be written; whatever a library makes of that error.
    """
    _check_target(path)
    temporary = not _is_stream(path)
    try:
        if temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_left_behind(path.parent)
        raw = _create(path.parent, path.name) if temporary else _Raw(str(path), "wb")
    except OSError as error:
        raise cannot_be_written(path, error) from error
    part: IO[bytes] = io.BufferedRandom(raw) if temporary else io.BufferedWriter(raw)
    try:
        yield part
        _finish(part, raw, path)
    except BaseException as error:
        with suppress(OSError):
            part.close()
        if temporary:
            remove_temporary(Path(raw.name))
        if raw.failure is not None and isinstance(error, Exception):
            raise cannot_be_written(path, raw.failure) from error
        raise


class _Raw(io.FileIO):
    """A file that keeps the error of a write that failed: libraries catch it, or say it in words of their own."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _finish(part: IO[bytes], raw: _Raw, path: Path) -> None:
    """Put a file that is whole in its place: first the content on the disk, then the name."""
    try:
        part.flush()
        if raw.failure is not None:
            raise raw.failure
        if not isinstance(part, io.BufferedRandom):
            part.close()
            return
        os.fsync(raw.fileno())
        _copy_mode(raw.fileno(), path)
        if sys.platform == "win32":  # which renames no open file
            part.close()
        Path(raw.name).replace(path)
        part.close()
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_be_written(path, error) from error


def _copy_mode(descriptor: int, path: Path) -> None:
    """Give the permissions of the file at ``path``, if there is one, to the one that replaces it."""
    if sys.platform != "win32" and path.is_file() and not path.is_symlink():
        with suppress(OSError):
            os.fchmod(descriptor, path.stat().st_mode & 0o777)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can do that."""
    if sys.platform == "win32":
        return
    with suppress(OSError):  # some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_target(path: Path) -> None:
    """Check what can be known of ``path`` without writing."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # too long a name, a folder that may not be entered
        raise cannot_be_written(path, error) from error
    if path.is_dir():
        raise OutputError(f"{path}: found a folder, expected the name of a file to write")
    parent = _existing_parent(path)
    if not parent.is_dir():
        raise OutputError(f"{path}: cannot be written ({parent} is no folder); choose another place")
    if sys.platform != "win32" and path.is_file():
        owners = (0, path.lstat().st_uid, parent.stat().st_uid)
        if parent.stat().st_mode & 0o1000 and os.geteuid() not in owners:
            raise OutputError(f"{path}: cannot be replaced (another user's file in {parent}); choose another name")


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.exists())


def _is_stream(path: Path) -> bool:
    """Whether ``path`` is a device, a pipe or a socket, or a name of one such as ``/dev/stdout``."""
    parts = path.absolute().parts
    if parts[:2] in (("/", "dev"), ("/", "proc")) and parts[2:3] != ("shm",):
        return path.exists()
    return path.exists() and not path.is_file()


def _create(folder: Path, name: str) -> _Raw:
    """Create and lock a temporary file in ``folder``."""
    while True:
        raw = _Raw(str(folder / temporary_name(name)), "x+b")
        # Between the two, another process may have taken it for a file left behind.
        if lock(raw.fileno()) and (sys.platform == "win32" or os.fstat(raw.fileno()).st_nlink):
            return raw
        raw.close()
