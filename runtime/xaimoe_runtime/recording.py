"""A recording, decoded block by block to the end of its data.

The length in a file's header is a promise, not a fact. What was decoded is compared with it, and what is missing is
stated.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.containers.decoder import (
    UNKNOWN_FRAMES,
    Decoder,
    blocks_before_error,
    open_behind,
    part_lengths,
)
from xaimoe_runtime.containers.find import find_parts
from xaimoe_runtime.containers.part import Part
from xaimoe_runtime.errors import AudioError

if TYPE_CHECKING:
    import soundfile

Floats = NDArray[np.float32]
LOG = logging.getLogger("xaimoe_runtime")

MIN_RATE, MAX_RATE = 100, 10_000_000
"""Native sampling rates that are accepted, in Hz."""
BLOCK_S = 1.0
"""Seconds decoded at a time, at most."""
BLOCK_BYTES = 1 << 20
"""Bytes decoded at a time, at most, of all channels, unless a single sample of each takes more."""
MAX_BREAKS = 1_000
"""Places of a part that cannot be decoded, behind which decoding goes on."""
MAX_NOTES = 3
"""Notes on the parts of a recording that are kept."""


def check_rate(rate: float, name: str) -> None:
    """Raises AudioError for a native rate in Hz that no recorder has."""
    if not isinstance(rate, Real) or not MIN_RATE <= rate <= MAX_RATE:
        text = f"{rate:g} Hz" if isinstance(rate, Real) else repr(rate)
        raise AudioError(f"{name}: found a sampling rate of {text}, expected {MIN_RATE} to {MAX_RATE} Hz")


@dataclass(frozen=True)
class Completeness:
    """How much of a recording was decoded."""

    decoded_s: float
    """Seconds that were decoded."""
    promised_s: float | None
    """Seconds that the headers state; None if they state no length."""
    missing_s: float | None
    """Seconds that the file states or holds and that were not decoded; None if their number is not known."""
    note: str = ""
    """What is wrong with the file, in words."""

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.missing_s == 0

    @property
    def message(self) -> str:
        """What is missing, in words."""
        missing = "an unknown part is" if self.missing_s is None else f"{self.missing_s:.2f} s are"
        promised = "" if self.promised_s is None else f" of {self.promised_s:.2f} s that its header states"
        reason = f" ({self.note})" if self.note else ""
        return f"decoded {self.decoded_s:.2f} s{promised}; {missing} missing{reason}"


def warn_if_incomplete(path: str | Path, completeness: Completeness | None) -> None:
    """Log a warning about a recording of which something is missing, for doors whose answer has no field for it."""
    if completeness is not None and not completeness.complete:
        LOG.warning("%s: incomplete: %s", path, completeness.message)


class Recording:
    """A file that libsndfile reads, at its own rate.

    Args:
        path: the file.

    Raises:
        AudioError: the file is missing, not a file, not audio, empty, or of an impossible rate.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_file(path)
        try:
            self._parts = find_parts(path)
        except OSError as error:
            raise AudioError(f"{path}: cannot be read ({error.strerror})") from error
        with Decoder(path, self._parts[0]) as decoder:
            file = decoder.file
            self.samplerate: int = file.samplerate
            """Hz"""
            self.channels: int = file.channels
            self.format: str = file.format
            """libsndfile's name of the container."""
            self.subtype: str = file.subtype
            """libsndfile's name of how samples are coded."""
            self.frames = part_lengths(self._parts[0], file)[1]
            """Native frames that the first part should have; ``UNKNOWN_FRAMES`` or more if that is not known."""
        check_rate(self.samplerate, str(path))
        if self.frames == 0:
            raise AudioError(f"{path}: found no samples; the recording is empty")
        self.completeness: Completeness | None = None
        """How much was decoded, once :meth:`blocks` has reached the end."""

    @cached_property
    def block_frames(self) -> int:
        """Native frames decoded at a time."""
        return max(min(int(BLOCK_S * self.samplerate), BLOCK_BYTES // (4 * self.channels)), 1)

    def blocks(self, frames: int | None = None) -> Iterator[Floats]:
        """Yield the samples [n, channels] with full scale at 1, n <= ``frames``, to the end of the data.

        Args:
            frames: native frames decoded at a time, at most; fewer if they take too many bytes.

        Raises:
            AudioError: nothing can be decoded.
        """
        size = min(frames or self.block_frames, self.block_frames)
        count = _Count(self.samplerate)
        for part in self._parts:
            yield from self._decode(part, size, count)
        self.completeness = count.result()
        if count.decoded == 0:
            reason = f" ({self.completeness.note})" if self.completeness.note else "; the recording is empty"
            raise AudioError(f"{self.path}: found no samples that can be decoded{reason}")

    def _decode(self, part: Part, size: int, count: _Count) -> Iterator[Floats]:
        """Yield the blocks of a part, and count its frames. Where a frame of FLAC is broken, decoding goes on behind
        it, with zeros in its place, so that times stay true."""
        try:
            decoder = Decoder(self.path, part)
        except AudioError as error:
            count.lose(str(error).removeprefix(f"{self.path}: "))
            return
        stated, expected = part_lengths(part, decoder.file)
        if (decoder.file.samplerate, decoder.file.channels) != (self.samplerate, self.channels):
            decoder.close()
            count.leave_out(expected, decoder.file)
            return
        position = decoded = 0  # position counts what was left out, too
        reason, notes_other_length, is_unchecked = "", False, False
        for _ in range(MAX_BREAKS):
            with decoder:
                for block in decoder.blocks(size):
                    position, decoded = position + len(block), decoded + len(block)
                    yield block
                notes_other_length |= decoder.notes_other_length()
                is_unchecked = decoder.is_unchecked()
            if not decoder.error:
                break
            reason = reason or f"broken or cut short after {position / self.samplerate:.2f} s ({decoder.error})"
            for block in blocks_before_error(self.path, part, position):
                position, decoded = position + len(block), decoded + len(block)
                yield block
            behind = open_behind(self.path, part, position, expected)
            if behind is None:
                break
            decoder = behind
            for start in range(position, decoder.start, size):
                yield np.zeros((min(size, decoder.start - start), self.channels), np.float32)
            position = decoder.start
        if is_unchecked and not notes_other_length:
            stated = None
            count.leave_unchecked(decoder.file.format)
        count.add(part, decoded, stated, expected)
        count.notice(part, reason, notes_other_length)


class _Count:
    """Adds up the parts of a recording.

    Args:
        rate: native sampling rate in Hz.
    """

    def __init__(self, rate: int) -> None:
        self.rate, self.decoded = rate, 0
        self._promised: float | None = 0.0  # seconds
        self._missing: float | None = 0.0
        self._last_missing = 0  # native frames of the last part
        self._notes: list[str] = []

    def add(self, part: Part, decoded: int, stated: int | None, expected: int) -> None:
        """Count a part of which so many native frames were decoded, stated and expected."""
        self.decoded += decoded
        self._promised = None if self._promised is None or stated is None else self._promised + stated / self.rate
        missing = max(expected - decoded, 0) if expected < UNKNOWN_FRAMES else 0
        if missing and self._missing is not None:
            self._missing += missing / self.rate
        self._last_missing = missing

    def notice(self, part: Part, error: str, other_length: bool) -> None:
        """Note what is wrong with the part that was counted last."""
        if part.note:
            self._note(part.note)
        if error:
            self._note(error)
        elif other_length:
            self._note("its header states another length than the file has")
        elif self._last_missing and not part.note:
            self._note("cut short: it ends before its header says")
        is_unknown = not self._last_missing and (error or other_length)
        if is_unknown or (part.lost and not (self._last_missing and part.states_length)):
            self._missing = None

    def leave_unchecked(self, kind: str) -> None:
        """Note that a part of this format does not say how long it is."""
        self._note(f"the length of a file of format {kind} is not checked: a missing end would not be noticed")

    def lose(self, note: str) -> None:
        """Count a part that cannot be decoded and does not say how long it is."""
        self._promised = self._missing = None
        self._note(note)

    def leave_out(self, frames: int, file: soundfile.SoundFile) -> None:
        """Count a part that cannot be joined to those before it."""
        self._note(
            f"a later part has {file.samplerate} Hz and {file.channels} channel(s), other than the first; it was left "
            "out: split the file"
        )
        if frames >= UNKNOWN_FRAMES:
            self._promised = self._missing = None
            return
        seconds = frames / file.samplerate
        self._promised = None if self._promised is None else self._promised + seconds
        self._missing = None if self._missing is None else self._missing + seconds

    def _note(self, text: str) -> None:
        if text not in self._notes and len(self._notes) < MAX_NOTES:
            self._notes.append(text)

    def result(self) -> Completeness:
        """Return the sum."""
        return Completeness(self.decoded / self.rate, self._promised, self._missing, "; ".join(self._notes))


def _check_file(path: Path) -> None:
    """Raise AudioError for what is not a file; nothing is opened, since opening a pipe may wait forever."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        if isinstance(error, PermissionError):
            raise AudioError(f"{path}: cannot be opened ({error.strerror}); check who may read it") from error
        raise AudioError(f"{path}: no such file") from error
    mode = status.st_mode
    if stat.S_ISFIFO(mode):
        raise AudioError(f"{path}: found a pipe; infer takes files, stream takes raw samples (SOURCE -)")
    if stat.S_ISDIR(mode):
        raise AudioError(_describe_folder(path))
    if not stat.S_ISREG(mode):
        raise AudioError(f"{path}: found a device or socket, expected a recording")
    if status.st_size == 0:
        raise AudioError(f"{path}: found an empty file, expected a recording; copy it again, or leave it out")


def _describe_folder(path: Path) -> str:
    """Return what is wrong with a folder in the place of a recording."""
    try:
        with os.scandir(path):
            return f"{path}: found a folder, expected a recording"
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return f"{path}: a folder that cannot be searched ({reason}); allow this user to read it, or leave it out"
