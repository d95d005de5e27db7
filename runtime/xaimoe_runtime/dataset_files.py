"""Finding the files of a table inside its dataset folder, and nowhere else."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from xaimoe_runtime.metadata_csv import strip_cell


@dataclass(frozen=True)
class Located:
    """Where a path of the table leads."""

    path: Path
    """The file, under the dataset folder as that was given."""
    key: str
    """Its path relative to the folder; the same for the same file, however it is written."""
    identity: tuple[int, int] | None = None
    """Device and inode of a file that is there: the same through links."""
    problem: str = ""
    """Why it cannot be used; empty if it can."""
    similar: str = ""
    """A file that is there under nearly the same name, if this one is not."""


class DatasetFiles:
    """The files of one dataset folder.

    A path may be relative to the folder or absolute, and written as on another system: with backslashes, or in another
    Unicode normal form than the name on disk has. A file that is there by its exact name comes first. A path that leads
    out of the folder is refused and never opened; a link inside the folder may lead anywhere, since whoever made the
    folder made it.

    Args:
        folder: of the dataset.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.real = os.path.realpath(folder)
        absolute = os.path.normpath(folder.absolute())
        # Collapsing ".." is wrong after a link; such a folder is known by its real path alone.
        self.roots = [self.real, *([absolute] if os.path.realpath(absolute) == self.real else [])]
        self._names: dict[Path, dict[str, list[str]]] = {}

    def locate(self, cell: str) -> Located:
        """Return the file that a cell of the table names.

        Args:
            cell: as written in the table.
        """
        stripped = strip_cell(cell)
        spellings = dict.fromkeys([stripped, *([cell] if cell.strip() != cell else [])])
        if os.sep == "/":
            spellings |= dict.fromkeys([spelling.replace("\\", "/") for spelling in spellings])
        relative = [self._relative(spelling) for spelling in spellings]
        inside = [path for path in relative if path is not None]
        if len(inside) < len(relative) or not inside:
            return Located(self.folder / "outside", stripped, problem=f"lies outside {self.folder}")
        for path in inside:
            if (found := self._status(path)) is not None:
                return found
        for path in inside:
            if (known := self._same_name(path)) is not None and (found := self._status(known)) is not None:
                return found
        problem, similar = self._missing(stripped, inside)
        return Located(self.folder / inside[0], inside[0], problem=problem, similar=similar)

    def _relative(self, spelling: str) -> str | None:
        """Return a path relative to the folder; None if it leads out of it."""
        full = os.path.normpath(Path(self.real, spelling))
        if os.name == "posix":
            full = "/" + full.lstrip("/")  # two slashes at the start stay there
        for root in self.roots:
            if _is_within(full, root):
                return os.path.relpath(full, root)
        real = os.path.realpath(full)
        return os.path.relpath(real, self.real) if _is_within(real, self.real) else None

    def _status(self, path: str) -> Located | None:
        """Return what is at a path relative to the folder; None if nothing is."""
        full = self.folder / path
        try:
            status = full.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # no permission, a circle of links, a name that is too long
            return Located(full, path, problem=f"cannot be opened ({error.strerror}); check it and its permissions")
        identity = (status.st_dev, status.st_ino) if status.st_ino else None
        problem = ""
        if stat.S_ISDIR(status.st_mode):
            problem = "is a folder, expected a recording"
        elif not stat.S_ISREG(status.st_mode):
            problem = "is not a regular file, expected a recording"
        elif not os.access(full, os.R_OK):
            problem = "cannot be read; check its permissions"
        return Located(full, path, identity, problem)

    def _same_name(self, path: str, ignore_case: bool = False) -> str | None:
        """Return the one path on disk that is written with the same characters, in whatever Unicode normal form."""
        known = Path()
        for part in Path(path).parts:
            names = self._names_in(known).get(_folded(part), [])
            equal = [name for name in names if ignore_case or _composed(name) == _composed(part)]
            if part in equal:
                equal = [part]
            if len(equal) != 1:
                return None
            known /= equal[0]
        return str(known)

    def _names_in(self, path: Path) -> dict[str, list[str]]:
        """Return the names in a folder, by their form without case; read once."""
        if path not in self._names:
            names: dict[str, list[str]] = {}
            try:
                for entry in (self.folder / path).iterdir():
                    names.setdefault(_folded(entry.name), []).append(entry.name)
            except OSError:
                pass  # then it has no names to offer
            self._names[path] = names
        return self._names[path]

    def _missing(self, cell: str, inside: list[str]) -> tuple[str, str]:
        """Return why nothing is found, and the file that may be meant."""
        text = f"does not exist under {self.folder}"
        for path in inside:
            if (similar := self._same_name(path, ignore_case=True)) is not None:
                return f"{text}; upper and lower case count, write the name as it is on disk", similar
        if re.match(r"[A-Za-z]:[\\/]|\\\\", cell) and os.name == "posix":
            return f"{text}; found an absolute path of Windows, expected one relative to that folder", ""
        return text, ""


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(_composed(name).casefold())
