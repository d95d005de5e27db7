"""Decoded and resampled audio, kept on disk so that an epoch does not decode again.

An entry is named by the content of its file, so a renamed file is found and a changed one is not. The oldest entries
go when the cache outgrows its cap; what does not fit is decoded at each use instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.audio import Block, open_recording, read_blocks
from xaimoe_runtime.caching import cache_folder
from xaimoe_runtime.clipping import ClippedSamples, native_position
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.writing import replacing

Floats = NDArray[np.float32]

VERSION = 2
"""Part of every key; raise it when decoding or resampling changes."""
DEFAULT_CAP_GB = 8.0
BLOCK_SAMPLES = 1 << 16
"""Samples of a kept recording that are given at a time."""
NPY_HEADER = 128
"""Bytes of a NumPy file before its samples."""


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

    def samples(self) -> Floats:
        """All samples, [length]; mapped from the cache where it holds them."""
        if self.cached is not None:
            try:
                mapped: Floats = np.load(self.cached, mmap_mode="r")
                return mapped
            except (OSError, ValueError):
                pass  # another run made room for its own audio; what is gone is decoded again
        return _decode(self.path, self.rate, self.channel)[0]

    def blocks(self) -> Iterator[Block]:
        """The samples as the file reader gives them, for cutting windows."""
        samples, native = self.samples(), 0
        for start in range(0, self.length, BLOCK_SAMPLES):
            stop = min(start + BLOCK_SAMPLES, self.length)
            # One sample more, so that no window ends behind the native samples that were given.
            last = stop == self.length
            end = self.entry.native_frames if last else native_position(stop, self.rate, self.native_rate) + 1
            end = max(min(end, self.entry.native_frames), native)
            yield Block(np.array(samples[start:stop, None]), end - native, self._clipped.mask(native, end)[:, None])
            native = end


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
        samples, entry = _decode(path, rate, channel)
        stored = self._reserve(samples.nbytes + NPY_HEADER, samples_path)
        if stored:
            try:
                with replacing(samples_path) as file:
                    np.save(file, samples)
                with replacing(entry_path) as file:  # last: an entry without it does not count
                    file.write(msgspec.json.encode(entry))
            except (OSError, ConfigError):  # a full disk is no reason not to train
                stored = False
        return Recording(path, channel, rate, entry, samples_path if stored else None)

    def _reserve(self, size: int, path: Path) -> bool:
        """Makes room by dropping the entries that were not used for longest; False when this run's own fill the cap."""
        with self._lock:
            self._size -= _size(path)  # left by a run that was interrupted; it is about to be replaced
            if self._size + size > self.cap:
                idle = [entry for entry in self.folder.glob("*.npy") if entry not in self._used and entry != path]
                for entry in sorted(idle, key=_last_use):
                    if self._size + size <= self.cap:
                        break
                    self._size -= _size(entry)
                    entry.with_suffix(".json").unlink(missing_ok=True)
                    entry.unlink(missing_ok=True)
            if self._size + size > self.cap:
                return False
            self._size += size
            self._used.add(path)
            return True


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


def _decode(path: Path, rate: int, channel: int | str) -> tuple[Floats, _Entry]:
    recording = open_recording(path)
    parts: list[Floats] = []
    clipped = ClippedSamples()
    for block in read_blocks(recording, rate, channel):
        parts.append(block.samples[:, 0])
        clipped.add(block.clipped[:, 0])
    samples, completeness = np.concatenate(parts), recording.completeness
    is_whole = completeness is None or completeness.complete
    entry = _Entry(
        native_rate=recording.samplerate,
        native_frames=clipped.frames,
        length=len(samples),
        clipped=clipped.to_bytes(),
        missing_s=0.0 if completeness is None else completeness.missing_s,
        message="" if completeness is None or is_whole else completeness.message,
    )
    return samples, entry
