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
from functools import cache, cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.containers.find import find_parts
from xaimoe_runtime.containers.part import Part, PartView
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
SMALL_FRAMES = 64
"""Native frames that are read at a time before a place that cannot be decoded."""
UNKNOWN_FRAMES = 1 << 60
"""From here on a number of frames stands for an unknown one."""
MAX_FRAMES_PER_BYTE = 16
"""Of a container that libsndfile reads on beyond the end of the file."""
COMPRESSED = ("FLAC", "OGG", "MP3", "MPEG", "CAF")
"""Formats that hold more samples a byte than that, or whose end libsndfile knows."""
EXAMINED = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "OGG", "MP3", "MPEG")
"""Formats whose length is examined by :mod:`xaimoe_runtime.containers`."""
OTHER_LENGTH = ("should be", "*** File seems to be truncated", "*** Chunk size", "*** Warning : short read")
"""What libsndfile notes where the header states another length than the file has."""
MAX_BREAKS = 1_000
"""Places of a part that cannot be decoded, behind which decoding goes on."""
MAX_SKIP_FRAMES = 1 << 30
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
        with _Decoder(path, self._parts[0]) as decoder:
            file = decoder.file
            self.samplerate: int = file.samplerate
            """Hz"""
            self.channels: int = file.channels
            self.format: str = file.format
            """libsndfile's name of the container."""
            self.subtype: str = file.subtype
            """libsndfile's name of how samples are coded."""
            self.frames = _lengths(self._parts[0], file)[1]
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
            decoder = _Decoder(self.path, part)
        except AudioError as error:
            count.lose(str(error).removeprefix(f"{self.path}: "))
            return
        stated, expected = _lengths(part, decoder.file)
        if (decoder.file.samplerate, decoder.file.channels) != (self.samplerate, self.channels):
            decoder.close()
            count.leave_out(expected, decoder.file)
            return
        position = decoded = 0  # position counts what was left out, too
        reason, notes_other_length = "", False
        for _ in range(MAX_BREAKS):
            with decoder:
                for block in decoder.blocks(size):
                    position, decoded = position + len(block), decoded + len(block)
                    yield block
                notes_other_length |= decoder.notes_other_length()
            if not decoder.error:
                break
            reason = reason or f"broken or cut short after {position / self.samplerate:.2f} s ({decoder.error})"
            for block in _blocks_before_error(self.path, part, position):
                position, decoded = position + len(block), decoded + len(block)
                yield block
            behind = _open_behind(self.path, part, position, expected)
            if behind is None:
                break
            decoder = behind
            for start in range(position, decoder.start, size):
                yield np.zeros((min(size, decoder.start - start), self.channels), np.float32)
            position = decoder.start
        count.add(part, decoded, stated, expected)
        count.notice(part, reason, notes_other_length)


class _Decoder:
    """A part of a file, opened by libsndfile.

    Raises:
        AudioError: libsndfile does not read it.
    """

    def __init__(self, path: Path, part: Part) -> None:
        import soundfile

        self._errors = (soundfile.LibsndfileError, RuntimeError)
        self.error = ""
        """Why decoding ended before the end of the data, if it did."""
        self.start = 0
        """Native frame that decoding began with."""
        self._view: PartView | None = None
        try:
            self._view = PartView(path, part.pieces) if part.pieces else None
            # As bytes, since a file name need not be valid UTF-8.
            source: Any = self._view or (os.fsencode(path) if os.name == "posix" else path)
            self.file: soundfile.SoundFile = _sequential()(source)
        except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: headerless .raw
            self._close_view()
            reason = getattr(error, "error_string", None) or str(error)
            raise AudioError(f"{path}: not readable as audio ({reason.strip()})") from error
        self._is_examined = part != Part() or self.file.format in EXAMINED
        self._decoded, self._limit = 0, int(self.file.frames)
        if self.file.format not in COMPRESSED:
            self._limit = min(self._limit, MAX_FRAMES_PER_BYTE * path.stat().st_size)

    def blocks(self, size: int) -> Iterator[Floats]:
        """Yield blocks of at most ``size`` native frames until the data end or cannot be decoded."""
        self.error = ""
        while self._decoded < self._limit:
            try:
                # Not beyond the end: what follows the samples, a tag, say, is an error to some decoders.
                count = min(size, self._limit - self._decoded)
                block: Floats = self.file.read(count, dtype="float32", always_2d=True)
            except self._errors as error:
                self.error = str(error).strip(" .") or "it cannot be decoded"
                return
            if self._view is not None and self._view.error is not None:
                self.error = str(self._view.error)
            if len(block) == 0:
                return
            self._decoded += len(block)
            yield block

    def notes_other_length(self) -> bool:
        """Return whether libsndfile noted a wrong length, in a container that is not examined here."""
        return not self._is_examined and any(text in self.file.extra_info for text in OTHER_LENGTH)

    def seek(self, position: int) -> bool:
        """Move to a position from which decoding works, and return whether there is any."""
        try:
            if position:
                self.file.seek(position)
                self.file.read(1, dtype="float32", always_2d=True)
                self.file.seek(position)
        except self._errors:
            return False
        self.start = self._decoded = position
        return True

    def __enter__(self) -> _Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        self._close_view()

    def _close_view(self) -> None:
        if self._view is not None:
            self._view.close()


def _blocks_before_error(path: Path, part: Part, position: int) -> Iterator[Floats]:
    """Yield what lies between a position and a place that cannot be decoded, in small blocks: libsndfile gives nothing
    of a block with an error in it, and decodes nothing more after one."""
    with _Decoder(path, part) as decoder:
        if decoder.seek(position):
            yield from decoder.blocks(SMALL_FRAMES)


def _open_behind(path: Path, part: Part, position: int, stop: int) -> _Decoder | None:
    """Return a decoder that begins as soon as possible behind a place that cannot be decoded; None if there is none.

    Args:
        path: of the file.
        part: of it.
        position: of the place, in native frames.
        stop: of the end, as far as is known.
    """
    step = SMALL_FRAMES
    while position + step < min(stop, position + MAX_SKIP_FRAMES):
        decoder = _Decoder(path, part)
        # Other formats than FLAC do not know the positions of what follows.
        if decoder.file.format == "FLAC" and decoder.seek(position + step):
            return decoder
        decoder.close()
        step *= 2
    return None


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


def _lengths(part: Part, file: soundfile.SoundFile) -> tuple[int | None, int]:
    """Return how many native frames the headers of a part state, if they do, and how many the part should have."""
    frames = int(file.frames)
    stated = part.stated_frames
    if stated is None and frames < UNKNOWN_FRAMES:
        stated = round(frames * part.stated_ratio)
    expected = frames if stated is None else stated if frames >= UNKNOWN_FRAMES else max(stated, frames)
    return stated if part.states_length else None, expected


def _check_file(path: Path) -> None:
    """Raise AudioError for what is not a file; nothing is opened, since opening a pipe may wait forever."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL byte
        if isinstance(error, PermissionError):
            raise AudioError(f"{path}: cannot be opened ({error.strerror}); check who may read it") from error
        raise AudioError(f"{path}: no such file") from error
    if stat.S_ISFIFO(mode):
        raise AudioError(f"{path}: found a pipe; infer takes files, stream takes raw samples (SOURCE -)")
    if stat.S_ISDIR(mode):
        raise AudioError(_describe_folder(path))
    if not stat.S_ISREG(mode):
        raise AudioError(f"{path}: found a device or socket, expected a recording")


def _describe_folder(path: Path) -> str:
    """Return what is wrong with a folder in the place of a recording."""
    try:
        with os.scandir(path):
            return f"{path}: found a folder, expected a recording"
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return f"{path}: a folder that cannot be searched ({reason}); allow this user to read it, or leave it out"


@cache
def _sequential() -> type[soundfile.SoundFile]:
    """Return a SoundFile that does not seek after each read, which libsndfile cannot do at the end of all files."""
    import soundfile

    class Sequential(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Sequential
