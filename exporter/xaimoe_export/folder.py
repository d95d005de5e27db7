"""A folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xaimoe_runtime import ConfigError

Ours = Callable[[Path], bool]
"""Whether a folder is an earlier one of the kind that is to be written, and so may be replaced."""


@contextmanager
def new_folder(out: Path, is_ours: Ours, force: bool = False) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place at the end; on an error nothing is left of it.

    Args:
        out: where it goes.
        is_ours: tells an earlier one from any other folder.
        force: whether an earlier one is replaced; it is kept until the new one is whole.

    Raises:
        ConfigError: ``out`` exists, and is not to be or must not be replaced; or it cannot be written.
    """
    earlier = check_free(out, is_ours, force)
    missing = [folder for folder in out.parents if not folder.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise cannot_be_written(out, error) from error
    try:
        yield part
        try:
            part.chmod(0o755)
            _put(part, out, earlier)
        except OSError as error:
            raise cannot_be_written(out, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for folder in missing:  # those that nothing was put in
            with suppress(OSError):
                folder.rmdir()


def cannot_be_written(out: Path, error: OSError) -> ConfigError:
    """The error of a folder or file that cannot be written."""
    return ConfigError(f"{out}: cannot be written ({error.strerror or error}); choose another place")


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
    old = part.with_name(f"{part.name}.old")
    out.rename(old)
    try:
        part.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
