"""Output that survives a crash: parts that are whole or not there, and a run that goes on from them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from xaimoe_runtime import file_lock
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.files import Classified, printable, state_of
from xaimoe_runtime.records import Record
from xaimoe_runtime.tally import Tally
from xaimoe_runtime.writing import replacing

FLUSH_FILES, FLUSH_S = 256, 10.0
"""A part is written after so many files, or seconds: at most that much is done again after a crash."""
FINGERPRINT, LOCK = "run.json", "lock"


class Header(msgspec.Struct, frozen=True):
    """What precedes the records of a file in a part."""

    path: str
    size: int
    mtime_ns: int
    lines: int
    """Records that follow."""
    tally: Tally


class Place(msgspec.Struct, frozen=True):
    """Where a file's records lie."""

    header: Header
    part: str
    offset: int
    length: int


class Parts:
    """The parts of a run that writes to ``out``, in the folder ``OUT.parts`` until the run is whole.

    Args:
        out: the file that the run writes.
        fingerprint: what the run depends on; a run goes on only if it is the same.
        resume: go on with the parts that are there.

    Raises:
        ConfigError: there are parts of an earlier run that this one does not go on with, or another run writes them.
    """

    def __init__(self, out: Path, fingerprint: dict[str, Any], resume: bool) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self.places: dict[str, Place] = {}
        self._waiting: list[tuple[Header, bytes]] = []
        self._flushed, self._number = monotonic(), 0
        known = self.folder / FINGERPRINT
        if known.exists() and not resume:
            raise ConfigError(
                f"{self.folder}: found parts of a run that was interrupted; add --resume to go on, or remove them"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another place") from error
        busy = f"{self.folder}: another run is writing there; wait for it, or choose another --out"
        self._lock = file_lock.acquire(self.folder / LOCK, busy)
        try:
            self._begin(known, fingerprint)
        except BaseException:
            self.close()
            raise

    def _begin(self, known: Path, fingerprint: dict[str, Any]) -> None:
        if known.exists():
            self._check(known, fingerprint)
            self._read()
        else:
            for part in self.folder.glob("part-*.jsonl"):  # of a run that was whole, but for its removal
                part.unlink()
            with replacing(known) as file:
                file.write(msgspec.json.encode(fingerprint))

    def _check(self, known: Path, wanted: dict[str, Any]) -> None:
        try:
            found = msgspec.json.decode(known.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(f"{known}: cannot be read ({error}); remove {self.folder} and begin anew") from error
        builtin = msgspec.to_builtins(wanted)
        differing = [name for name in sorted(found | builtin) if found.get(name) != builtin.get(name)]
        if differing:
            what = ", ".join(f"{name} {builtin.get(name)!r} instead of {found.get(name)!r}" for name in differing)
            raise ConfigError(f"--resume: found {what}; go on with the same, or remove {self.folder}")

    def _read(self) -> None:
        """Where the records of all files lie that were done. A part that is cut short, as after a power cut, counts as
        far as it goes."""
        decode = msgspec.json.Decoder(Header).decode
        for part in sorted(self.folder.glob("part-*.jsonl")):
            self._number = int(part.stem.removeprefix("part-")) + 1
            with part.open("rb") as file:
                while line := file.readline():
                    try:
                        header, offset = decode(line), file.tell()
                    except msgspec.MsgspecError:
                        break
                    lines = [file.readline() for _ in range(header.lines)]
                    if not all(line.endswith(b"\n") for line in lines):
                        break
                    self.places[header.path] = Place(header, part.name, offset, sum(map(len, lines)))

    def done(self, path: Path) -> bool:
        """Whether a file was classified, without an error, and has not changed since."""
        place = self.places.get(printable(path))
        if place is None or place.header.tally.errors:
            return False
        return (place.header.size, place.header.mtime_ns) == state_of(path)

    def add(self, path: Path, found: Classified) -> None:
        """Keeps the records of a file, in a part that is written every now and then."""
        encode = msgspec.json.Encoder().encode
        content = b"".join(encode(record) + b"\n" for record in found.records)
        size, mtime_ns = found.state
        self._waiting.append((Header(printable(path), size, mtime_ns, len(found.records), found.tally), content))
        if len(self._waiting) >= FLUSH_FILES or monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Writes what waits as a part."""
        if self._waiting:
            name = f"part-{self._number:06d}.jsonl"
            with replacing(self.folder / name) as file:
                for header, content in self._waiting:
                    file.write(msgspec.json.encode(header) + b"\n")
                    self.places[header.path] = Place(header, name, file.tell(), len(content))
                    file.write(content)
            self._number += 1
            self._waiting.clear()
        self._flushed = monotonic()

    def records(self, paths: Iterable[Path]) -> Iterator[Record]:
        """The records of all files, in the order of ``paths``."""
        decode = msgspec.json.Decoder(Record).decode
        for path in paths:
            place = self.places[printable(path)]
            with (self.folder / place.part).open("rb") as file:
                file.seek(place.offset)
                yield from map(decode, file.read(place.length).splitlines())

    def tally(self, paths: Iterable[Path]) -> Tally:
        """The figures of all files."""
        total = Tally()
        for path in paths:
            total.add(self.places[printable(path)].header.tally)
        return total

    def remove(self) -> None:
        """Once ``out`` is whole."""
        for part in self.folder.glob("part-*.jsonl"):
            part.unlink()
        self.close()
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Lets another run have the parts."""
        file_lock.release(self._lock)
