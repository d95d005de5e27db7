"""Expand files, folders, patterns and lists into the recordings that they name."""

from __future__ import annotations

import codecs
import fnmatch
import glob
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xaimoe_runtime.errors import ConfigError

SUFFIXES = frozenset(
    """.8svx .aif .aifc .aiff .amb .au .avr .bwf .caf .fap .flac .htk .iff .ircam .mat .mp1 .mp2 .mp3 .mpga .nist .oga
    .ogg .opus .paf .pvf .rf64 .sd2 .sds .sf .snd .sph .svx .voc .w64 .wav .wave .wavex .wve .xi""".split()
)
"""File endings that count as recordings when a folder is searched: those of the formats that libsndfile reads."""
COMPANION = "._"
"""Prefix of the files in which macOS keeps the attributes of the file of the same name."""
DUPLICATE_LINK = "(duplicate link)"
"""Key under which links to recordings and folders that are searched already are counted."""
SYSTEM_FOLDERS = frozenset(
    ("$recycle.bin", ".fseventsd", ".spotlight-v100", ".trashes", "__macosx", "lost+found", "system volume information")
)
"""Folders of file systems and recycle bins, in lower case; they hold no recordings of their own."""
BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True)
class FoundRecordings:
    """The recordings that a command line names."""

    paths: list[Path]
    """Each file once. A file that is missing and a folder that cannot be searched are listed too: they get an error
    record of their own."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """What searched folders hold besides: number of files by ending, ``._*`` for companion files of macOS, a name with
    ``/`` for folders of the system, and ``DUPLICATE_LINK`` for links to what is taken anyway."""


def find_recordings(paths: Sequence[Path], lists: Sequence[Path] = ()) -> FoundRecordings:
    """Return files as they are, the recordings in folders, and the matches of patterns (``*``, ``?``, ``[…]``, ``**``).

    Links to folders are followed; each real folder is searched once, so a loop of links ends. Recordings of a folder
    and matches of a pattern are sorted. Files whose name begins with ``._`` are left out of folders.

    Args:
        paths: files, folders and patterns.
        lists: text files with one path a line, in UTF-8 (or the bytes of the file system) or in UTF-16 with a byte
            order mark; lines end with LF, CRLF or NUL.

    Raises:
        ConfigError: no recording was found at all, or a list cannot be read.
    """
    search = _Search()
    named = [*paths, *(path for file in lists for path in _read_list(file))]
    for path in named:
        if _exists(path):
            search.add(path)
        elif glob.has_magic(str(path)):
            for match in search.matches(path):
                search.add(match)
        else:
            search.add(path)  # a missing file gets its own error record
    if not named and not lists:
        raise ConfigError("found no path, expected recordings, folders or patterns; name some, or give --list FILE")
    if not search.paths:
        others = f" ({describe_skipped(search.skipped)} are there)" if search.skipped else ""
        raise ConfigError(
            f"{', '.join(map(str, named or lists))}: found no recordings{others}, expected files ending in "
            f"{' '.join(sorted(SUFFIXES))}"
        )
    return FoundRecordings(list(search.paths), dict(sorted(search.skipped.items())))


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return the numbers of skipped files by ending, the most frequent first: ``12 .txt, 3 ._*``."""
    ordered = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {ending}" for ending, count in ordered)


class _Search:
    """Collect recordings, each under the first name by which it is reached."""

    def __init__(self) -> None:
        self.paths: dict[Path, None] = {}
        self.skipped: Counter[str] = Counter()
        self._searched: set[str] = set()  # real paths of folders
        self._real_files: set[str] = set()  # real paths of the recordings in them

    def add(self, path: Path) -> None:
        """Add a file, or all recordings in a folder."""
        if _is_folder(path):
            self.paths |= dict.fromkeys(sorted(self._search_folder(path)))
        else:
            self.paths[path] = None

    def _search_folder(self, top: Path) -> Iterator[Path]:
        """Yield the recordings in a folder and below, and the folders that cannot be searched."""
        linked_files: list[Path] = []
        for folder, real, entries in _walk(top, self._searched, self._count_link):
            if entries is None:
                yield folder
                continue
            for entry in entries:
                path = folder / entry.name
                if _is_entry_folder(entry):
                    if _is_system_folder(entry.name):
                        self.skipped[f"{entry.name}/"] += 1
                elif not _is_recording(entry):
                    self.skipped[_ending(entry.name)] += 1
                elif entry.is_symlink():
                    linked_files.append(path)
                else:
                    self._real_files.add(os.path.join(real, entry.name))  # noqa: PTH118  text, for speed
                    yield path
        for path in linked_files:  # last: a file has its own name rather than that of a link to it
            target = os.path.realpath(path)
            if target in self._real_files:
                self._count_link()
                continue
            self._real_files.add(target)
            yield path

    def _count_link(self) -> None:
        self.skipped[DUPLICATE_LINK] += 1

    def matches(self, pattern: Path) -> list[Path]:
        """Return the files and folders that match a pattern, and the folders that could not be searched, sorted."""
        anchor = pattern.anchor
        parts = pattern.parts[1:] if anchor else pattern.parts
        return sorted(set(_expand(Path(anchor), list(parts))))


def _expand(base: Path, parts: list[str]) -> Iterator[Path]:
    """Yield what matches the parts of a pattern below ``base``. As in a shell, only a part that begins with a dot
    matches names that do."""
    if not parts:
        yield from [base] if _exists(base) else []
        return
    part, rest = parts[0], parts[1:]
    if part == "**" and not rest:
        yield base
    elif part == "**":
        for folder, _, entries in _walk(base, set(), hidden=False):
            yield from [folder] if entries is None else _expand(folder, rest)
    elif glob.has_magic(part):
        for entry in _entries(base) or []:
            if (part.startswith(".") or not entry.name.startswith(".")) and fnmatch.fnmatch(entry.name, part):
                yield from _expand(base / entry.name, rest)
    else:
        yield from _expand(base / part, rest)


def _walk(
    top: Path, searched: set[str], on_duplicate: Callable[[], None] = lambda: None, hidden: bool = True
) -> Iterator[tuple[Path, str, list[os.DirEntry[str]] | None]]:
    """Yield each folder below ``top`` with its real path and its entries, None if it cannot be searched.

    Folders come level by level and links last, so that a folder has its own name rather than that of a link to it.

    Args:
        top: the first folder.
        searched: real paths of folders to leave out; those that are yielded are added.
        on_duplicate: called for each link to a folder that is left out for that reason.
        hidden: whether folders whose name begins with a dot are searched.
    """
    folders, links = deque([top]), deque[Path]()
    while folders or links:
        is_link = not folders
        folder = links.popleft() if is_link else folders.popleft()
        real = os.path.realpath(folder)
        if real in searched:
            if is_link:
                on_duplicate()
            continue
        searched.add(real)
        entries = _entries(folder)
        yield folder, real, entries
        for entry in entries or []:
            left_out = _is_system_folder(entry.name) or (entry.name.startswith(".") and not hidden)
            if _is_entry_folder(entry) and not left_out:
                (links if entry.is_symlink() else folders).append(folder / entry.name)


def _entries(folder: Path) -> list[os.DirEntry[str]] | None:
    """Return the entries of a folder by name; None if it cannot be searched."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return None


def _is_entry_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_system_folder(name: str) -> bool:
    return name.lower() in SYSTEM_FOLDERS


def _is_recording(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry that is no folder has the ending of a recording. A link that leads nowhere counts: its
    error record says so."""
    if entry.name.startswith(COMPANION) or Path(entry.name).suffix.lower() not in SUFFIXES:
        return False
    try:
        return entry.is_file() or entry.is_symlink()
    except OSError:
        return True


def _ending(name: str) -> str:
    """Return the key under which a skipped file is counted."""
    if name.startswith(COMPANION):
        return f"{COMPANION}*"
    return Path(name).suffix.lower() or "(no ending)"


def _read_list(file: Path) -> list[Path]:
    """Return the paths in a list.

    Quotes, and backslashes as separators, are taken as Windows writes them where that names a file and the line as it
    stands does not.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); expected a list with one path a line") from error
    for bom, encoding in BOMS:
        if content.startswith(bom):
            content = content[len(bom) :]
            if encoding != "utf-8":
                content = content.decode(encoding, "replace").encode("utf-8", "surrogatepass")
            break
    lines = content.split(b"\0") if b"\0" in content else content.splitlines()
    return [_listed_path(os.fsdecode(line)) for line in lines if line.strip()]


def _listed_path(line: str) -> Path:
    unquoted = line.strip().strip('"')
    candidates = [line, line.strip(), unquoted, unquoted.replace("\\", "/")]
    return next((path for path in map(Path, candidates) if _exists(path)), Path(line.strip()))


def _exists(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except OSError:  # a name too long, say; opening it as a file will say so
        return True


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
