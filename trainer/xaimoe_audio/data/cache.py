"""Decoded and resampled audio, kept on disk so that an epoch does not decode again.

An entry is named by the content of its file, so a renamed file is found and a changed one is not. The oldest entries
go when the cache outgrows its cap; what does not fit is decoded at each use instead. Either way a recording goes
through memory block by block, so one of any length takes as much as one of some seconds.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.audio import Block, open_recording, read_blocks
from xaimoe_runtime.caching import cache_folder
from xaimoe_runtime.clipping import ClippedSamples, native_position
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.writing import replacing

Floats = NDArray[np.float32]

VERSION = 3
"""Part of every key; raise it when decoding or resampling changes."""
DEFAULT_CAP_GB = 8.0
BLOCK_SAMPLES = 1 << 16
"""Samples of a kept recording that are given at a time."""
NPY_HEADER = 128
"""Bytes of a NumPy file before its samples."""
SAMPLE_BYTES = 4


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept beside the samples."""

    native_rate: int
    native_frames: int
    length: int
    """Samples at the model's rate."""
    clipped: bytes
    """Which native samples were clipped, as :class:`ClippedSamples` keeps them."""
    missing_s: float | None
    """Seconds of the file that could not be decoded; None if their number is not known."""
    message: str
    """What is missing, in words; empty if nothing is."""
    encoding: str
    """Of the file's samples, by libsndfile's name."""


@dataclass(frozen=True)
class Recording:
    """One channel of a file (or its mixture) at the model's rate."""

    path: Path
    channel: int | str
    rate: int
    """Rate of the samples, in Hz."""
    entry: _Entry
    cached: Path | None
    """Where the samples lie; None decodes at each use."""

    @property
    def native_rate(self) -> int:
        """Rate of the file, in Hz."""
        return self.entry.native_rate

    @property
    def length(self) -> int:
        """Number of samples at the model's rate."""
        return self.entry.length

    @property
    def complete(self) -> bool:
        """Whether all of the file was decoded."""
        return self.entry.missing_s == 0

    @property
    def missing_s(self) -> float | None:
        """Seconds of the file that could not be decoded; None if their number is not known."""
        return self.entry.missing_s

    @property
    def message(self) -> str:
        """What is missing of the file, in words; empty if nothing is."""
        return self.entry.message

    @property
    def encoding(self) -> str:
        """How the file's samples are coded, by libsndfile's name."""
        return self.entry.encoding

    @cached_property
    def _clipped(self) -> ClippedSamples:
        return ClippedSamples.from_bytes(self.entry.clipped, self.entry.native_frames)

    @property
    def clipping_rate(self) -> float:
        """Share of the file's native samples that were clipped."""
        return self._clipped.rate(0, self.entry.native_frames)

    def clipping_between(self, start: int, stop: int) -> float:
        """Return the share of clipped samples among the native samples that a stretch covers.

        Args:
            start: first sample of the stretch, at the model's rate.
            stop: sample after its last.
        """
        return self._clipped.rate(*(native_position(edge, self.rate, self.native_rate) for edge in (start, stop)))

    def samples(self, start: int = 0, count: int | None = None) -> Floats:
        """Return samples in memory, [n].

        Args:
            start: the first one.
            count: how many at most; all that follow if None.
        """
        stop = self.length if count is None else min(start + count, self.length)
        if (file := self._open()) is not None:
            with file:
                file.seek(NPY_HEADER + start * SAMPLE_BYTES)
                return np.fromfile(file, np.float32, max(stop - start, 0))
        found = np.zeros(max(stop - start, 0), np.float32)
        first = 0  # of the block
        for block in read_blocks(self.path, self.rate, self.channel):
            low, high = max(start - first, 0), min(stop - first, len(block.samples))
            if low < high:
                found[first + low - start : first + high - start] = block.samples[low:high, 0]
            first += len(block.samples)
            if first >= stop:
                break
        return found

    def blocks(self) -> Iterator[Block]:
        """Yield consecutive samples, for cutting windows."""
        if (file := self._open()) is None:
            yield from read_blocks(self.path, self.rate, self.channel)
            return
        with file:
            file.seek(NPY_HEADER)
            native = 0
            for start in range(0, self.length, BLOCK_SAMPLES):
                stop = min(start + BLOCK_SAMPLES, self.length)
                # One sample more, so that no window ends behind the native samples that were given.
                last = stop == self.length
                end = self.entry.native_frames if last else native_position(stop, self.rate, self.native_rate) + 1
                end = max(min(end, self.entry.native_frames), native)
                samples = np.fromfile(file, np.float32, stop - start)
                yield Block(samples[:, None], end - native, self._clipped.mask(native, end)[:, None])
                native = end

    def _open(self) -> BinaryIO | None:
        """Return the cached samples as a file; None if they are not there any more, and must be decoded again."""
        if self.cached is None:
            return None
        try:
            file = self.cached.open("rb")
        except OSError:
            return None  # another run made room for its own audio
        if os.fstat(file.fileno()).st_size != NPY_HEADER + self.length * SAMPLE_BYTES:
            file.close()
            return None
        return file


class AudioCache:
    """A folder of decoded audio with a cap on its size.

    Args:
        folder: where to keep it; by default ``$XAIMOE_CACHE``, else the user's cache folder.
        cap_gb: most gigabytes to keep; by default ``$XAIMOE_CACHE_GB``, else 8.
    """

    def __init__(self, folder: Path | None = None, cap_gb: float | None = None) -> None:
        self.folder = (folder or cache_folder()) / "audio"
        self.cap = int((_cap_from_environment() if cap_gb is None else cap_gb) * 1e9)
        self._lock = Lock()
        self._used: set[Path] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.folder}: the audio cache cannot be made there ({error.strerror}); "
                "set XAIMOE_CACHE to another folder"
            ) from error
        self._size = sum(path.stat().st_size for path in self.folder.glob("*.npy"))

    def load(self, path: Path, rate: int, channel: int | str = "mix") -> Recording:
        """A recording at ``rate`` Hz; decoded unless the cache has it. May be called from several threads.

        Raises:
            AudioError: the file cannot be used.
        """
        open_recording(path)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        key = hashlib.sha256(f"{VERSION} {sha256} {rate} {channel}".encode()).hexdigest()
        samples_path, entry_path = self.folder / f"{key}.npy", self.folder / f"{key}.json"
        entry = _read_entry(entry_path)
        if entry is not None and _touch(samples_path):
            with self._lock:
                self._used.add(samples_path)
            return Recording(path, channel, rate, entry, samples_path)
        entry, stored = self._decode(path, rate, channel, samples_path)
        if stored:
            try:
                with replacing(entry_path) as file:  # last: an entry without it does not count
                    file.write(msgspec.json.encode(entry))
            except (OSError, ConfigError):
                stored = False
        return Recording(path, channel, rate, entry, samples_path if stored else None)

    def _decode(self, path: Path, rate: int, channel: int | str, samples_path: Path) -> tuple[_Entry, bool]:
        """Decode a recording into the cache, block by block; say whether it is there now.

        A full disk or a cap that is reached is no reason not to train.

        Raises:
            AudioError: the file cannot be used.
        """
        entry = None
        with self._lock:
            self._size -= _size(samples_path)  # left by a run that was interrupted; it is about to be replaced
            self._used.add(samples_path)
        writer = _Writer(self._reserve)
        try:
            with replacing(samples_path) as writer.file:
                entry = _entry_of(path, rate, channel, writer.write)
                writer.finish()
        except (OSError, ConfigError, _NoRoomError):
            self._release(writer.reserved, samples_path)
            return entry or _entry_of(path, rate, channel), False
        except BaseException:
            self._release(writer.reserved, samples_path)
            raise
        return entry, True

    def _release(self, size: int, path: Path) -> None:
        """Give back what was reserved for an entry that is not written."""
        with self._lock:
            self._size -= size
            self._used.discard(path)

    def _reserve(self, size: int) -> bool:
        """Make room by dropping the entries that were not used for longest; False when this run's own fill the cap."""
        with self._lock:
            if self._size + size > self.cap:
                idle = [entry for entry in self.folder.glob("*.npy") if entry not in self._used]
                for entry in sorted(idle, key=_last_use):
                    if self._size + size <= self.cap:
                        break
                    self._size -= _size(entry)
                    entry.with_suffix(".json").unlink(missing_ok=True)
                    entry.unlink(missing_ok=True)
            if self._size + size > self.cap:
                return False
            self._size += size
            return True


class _NoRoomError(Exception):
    """A recording does not fit into the cache."""


class _Writer:
    """Samples on their way into a NumPy file, as long as there is room.

    Args:
        reserve: takes so many bytes of the cap; False if there are no more.
    """

    def __init__(self, reserve: Callable[[int], bool]) -> None:
        self.reserve = reserve
        self.file: Any = None
        self.reserved = self.length = 0
        self.has_room = True

    def write(self, samples: Floats) -> None:
        """Append samples [n]."""
        size = samples.nbytes + (0 if self.reserved else NPY_HEADER)
        self.has_room = self.has_room and self.reserve(size)
        if not self.has_room:
            return  # the recording is still decoded to its end: its length must be known
        if not self.reserved:
            self.file.write(bytes(NPY_HEADER))
        self.reserved += size
        self.length += len(samples)
        try:
            self.file.write(samples.tobytes())
        except OSError:
            self.has_room = False

    def finish(self) -> None:
        """Write the header, now that the length is known.

        Raises:
            _NoRoomError: not all samples were written.
        """
        if not self.has_room:
            raise _NoRoomError
        header = io.BytesIO()
        described = {"descr": "<f4", "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(header, described)
        self.file.seek(0)
        self.file.write(header.getvalue())


def _touch(path: Path) -> bool:
    """Marks an entry as used just now; False if it is not there."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


def _last_use(path: Path) -> float:
    return path.stat().st_mtime if path.is_file() else 0.0


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _cap_from_environment() -> float:
    text = os.environ.get("XAIMOE_CACHE_GB", str(DEFAULT_CAP_GB))
    try:
        cap = float(text)
        if not 0 <= cap < 1e9:
            raise ValueError
        return cap
    except ValueError as error:
        raise ConfigError(f"XAIMOE_CACHE_GB: found {text!r}, expected a number of gigabytes") from error


def _read_entry(path: Path) -> _Entry | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Entry)
    except (OSError, msgspec.DecodeError):
        return None  # never written whole: decode again


def _entry_of(path: Path, rate: int, channel: int | str, write: Callable[[Floats], None] | None = None) -> _Entry:
    """Decode a recording block by block, and give the samples [n] of each block to ``write``.

    Raises:
        AudioError: the file cannot be used.
    """
    recording = open_recording(path)
    clipped = ClippedSamples()
    length = 0
    for block in read_blocks(recording, rate, channel):
        if write is not None:
            write(np.ascontiguousarray(block.samples[:, 0]))
        length += len(block.samples)
        clipped.add(block.clipped[:, 0])
    completeness = recording.completeness
    is_whole = completeness is None or completeness.complete
    return _Entry(
        native_rate=recording.samplerate,
        native_frames=clipped.frames,
        length=length,
        clipped=clipped.to_bytes(),
        missing_s=0.0 if completeness is None else completeness.missing_s,
        message="" if completeness is None or is_whole else completeness.message,
        encoding=recording.subtype,
    )
