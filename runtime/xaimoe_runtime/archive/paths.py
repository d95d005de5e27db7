"""Which files are meant: files, folders, patterns and lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from xaimoe_runtime.errors import ConfigError

SUFFIXES = frozenset(
    """.aif .aifc .aiff .au .avr .caf .flac .htk .mat .mp3 .oga .ogg .opus .paf .pvf .rf64 .sd2 .sds .sf .snd .svx .voc
    .w64 .wav .wave .wavex .wve .xi""".split()
)
"""File endings that count as recordings when a folder is searched."""


def find_recordings(paths: Sequence[Path], lists: Sequence[Path] = ()) -> list[Path]:
    """Files as they are; of a folder all recordings under it, sorted; of a pattern (``*``, ``?``, ``[…]``, ``**``) what
    fits, sorted. Each file once.

    Args:
        paths: files, folders and patterns.
        lists: text files with a path in each line.

    Raises:
        ConfigError: nothing was found at all, or a list cannot be read.
    """
    wanted = [*paths, *(path for file in lists for path in _listed(file))]
    found: dict[Path, None] = {}
    for path in wanted:
        if _exists(path):
            matching = [path]
        elif glob.has_magic(str(path)):
            # Not Path.glob, which has no pattern from the root.
            matching = [Path(fits) for fits in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        else:
            matching = [path]  # a missing file gets its own error record
        for one in matching:
            found |= dict.fromkeys(_under(one) if _is_folder(one) else [one])
    if not found:
        raise ConfigError(
            f"{', '.join(map(str, wanted or lists))}: found no recordings, expected files ending in "
            f"{' '.join(sorted(SUFFIXES))}"
        )
    return list(found)


def _listed(file: Path) -> list[Path]:
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); expected a list with a path a line") from error
    return [Path(os.fsdecode(line)) for line in lines if line.strip()]


def _under(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long, say; opening it as a file will tell
        return True


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
