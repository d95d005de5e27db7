"""Files that are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from xaimoe_runtime.errors import ConfigError


def check_writable(path: Path) -> None:
    """Tells before the work whether its result could be written to ``path``, as far as that can be known.

    Raises:
        ConfigError: it could not.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: found a folder, expected the name of a file to write")
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{path}: cannot be written (no file can be put into {there}); choose another place")


@contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A binary file that takes the place of ``path`` once it is whole; on an error ``path`` stays as it was.

    Raises:
        ConfigError: the folder cannot be written.
    """
    check_writable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not the context manager of the file: it is renamed or removed after it is closed.
        part = NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    try:
        with part:
            yield part
            part.flush()
            os.fsync(part.fileno())  # a name that is there after a power cut stands for what was written
        whole = Path(part.name)
        whole.chmod(0o644)
        whole.replace(path)
    except BaseException:
        Path(part.name).unlink(missing_ok=True)
        raise
