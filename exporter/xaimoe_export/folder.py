"""A folder that is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xaimoe_runtime import ConfigError


@contextmanager
def new_folder(out: Path, mark: str, force: bool = False) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place at the end; on an error nothing is left of it.

    Args:
        out: where it goes.
        mark: a file that tells an earlier one from any other folder.
        force: whether an earlier one is replaced.

    Raises:
        ConfigError: ``out`` exists, and is not to be or must not be replaced; or it cannot be written.
    """
    if out.exists() or out.is_symlink():
        if not force:
            raise ConfigError(f"{out}: exists already; remove it, export to another folder, or replace it with --force")
        if out.is_symlink() or not (out / mark).is_file():
            raise ConfigError(f"{out}: found no {mark} there, so it is not replaced; export to another folder")
    part = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        yield part
        part.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.")) / "old"
            out.rename(old)
            part.rename(out)
            shutil.rmtree(old.parent, ignore_errors=True)
        else:
            part.rename(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error}); choose another place") from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
