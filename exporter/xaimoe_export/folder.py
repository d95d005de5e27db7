"""A folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xaimoe_runtime import ConfigError
from xaimoe_runtime.temporary import lock, remove_left_behind, temporary_name
from xaimoe_runtime.writing import cannot_be_written, check_writable, sync_folder

Ours = Callable[[Path], bool]
"""Whether a folder is an earlier one of the kind that is to be written, and so may be replaced."""


@contextmanager
def new_folder(out: Path, is_ours: Ours, force: bool = False) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place at the end, once its files are on the disk; on an error nothing is
    left of it. What a killed export left is removed, or put back if it is the earlier folder.

    Args:
        out: where it goes.
        is_ours: tells an earlier one from any other folder.
        force: whether an earlier one is replaced; it is kept until the new one is whole.

    Raises:
        ConfigError: ``out`` exists, and is not to be or must not be replaced; or it cannot be written.
    """
    _put_back(out)
    earlier = check_free(out, is_ours, force)
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_left_behind(out.parent)
        part = out.parent / temporary_name(out.name)
        part.mkdir()  # with the permissions that the umask leaves
    except OSError as error:
        raise cannot_be_written(out, error) from error
    try:
        with _locked(part):
            yield part
            try:
                _sync(part)
                _put(part, out, earlier)
                sync_folder(out.parent)
            except OSError as error:
                raise cannot_be_written(out, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for folder in missing:  # those that nothing was put in
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder, so that no other export takes it for one that was left behind."""
    if sys.platform == "win32":  # which opens no folder
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Bring the files of a folder to the disk."""
    if sys.platform == "win32":  # which syncs no file that is open for reading
        return
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put_back(out: Path) -> None:
    """Put an earlier folder back that a killed export had moved away, or remove it if the new one is in place."""
    old = _moved_away(out)
    if not old.is_dir() or old.is_symlink():
        return
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        return
    with suppress(OSError):
        old.rename(out)


def _moved_away(out: Path) -> Path:
    """Return where an earlier folder lies while the new one is put in its place."""
    return out.parent / f".{out.name}.xaimoe-old"


def check_free(out: Path, is_ours: Ours, force: bool = False) -> bool:
    """Whether there is an earlier folder, which may be replaced; arguments are those of :func:`new_folder`.

    Raises:
        ConfigError: there is one, and it is not to be or must not be replaced; or the place cannot be written.
    """
    if out.name in ("", ".."):
        raise ConfigError(f"{out}: found no name of a folder to write; give one, as in bundle")
    if not out.exists() and not out.is_symlink():
        there = next(folder for folder in out.absolute().parents if folder.exists())
        if not there.is_dir():
            raise ConfigError(f"{out}: cannot be written ({there} is not a folder); choose another place")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigError(f"{out}: cannot be written ({there} is read-only); choose another place")
        check_writable(out)
        return False
    if not force:
        raise ConfigError(f"{out}: exists already; remove it, export to another folder, or replace it with --force")
    if out.is_symlink() or not is_ours(out):
        raise ConfigError(f"{out}: found what no export wrote, so it is not replaced; export to another folder")
    return True


def _put(part: Path, out: Path, earlier: bool) -> None:
    """Moves ``part`` to ``out``; an earlier folder is put back if that fails."""
    if not earlier:
        if out.exists():
            raise ConfigError(f"{out}: appeared during the export, so it is not replaced; export to another folder")
        part.rename(out)
        return
    old = _moved_away(out)
    out.rename(old)
    try:
        part.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
