"""Parts of a file, decoded by libsndfile without a seek."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.containers.part import Part, PartView
from xaimoe_runtime.errors import AudioError

if TYPE_CHECKING:
    import soundfile

Floats = NDArray[np.float32]

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
STRICT = ("CAF", "HTK")
"""Formats of which libsndfile refuses a file that is shorter than its header says."""
OTHER_LENGTH = ("should be", "*** File seems to be truncated", "*** Chunk size", "*** Warning : short read")
"""What libsndfile notes where the header states another length than the file has."""
MAX_SKIP_FRAMES = 1 << 30


class Decoder:
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
            self._view = PartView(path, part.pieces, part.hides_size) if part.pieces else None
            # As bytes, since a file name need not be valid UTF-8.
            source: Any = self._view or (os.fsencode(path) if os.name == "posix" else path)
            self.file: soundfile.SoundFile = _sequential()(source)
        except (soundfile.LibsndfileError, OSError, TypeError) as error:  # TypeError: headerless .raw
            self._close_view()
            reason = getattr(error, "error_string", None) or str(error)
            raise AudioError(
                f"{path}: not readable as audio ({reason.strip(' .')}); expected WAV, FLAC, MP3, Ogg or another format "
                "of libsndfile"
            ) from error
        self._is_examined = part != Part() or self.file.format in EXAMINED
        self._decoded, self._limit = 0, part_frames(part, self.file)
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

    def is_unchecked(self) -> bool:
        """Return whether nothing says how long the file should be, so that a missing end would not be noticed."""
        return not self._is_examined and self.file.format not in STRICT

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

    def __enter__(self) -> Decoder:
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


def blocks_before_error(path: Path, part: Part, position: int) -> Iterator[Floats]:
    """Yield what lies between a position and a place that cannot be decoded, in small blocks: libsndfile gives nothing
    of a block with an error in it, and decodes nothing more after one."""
    with Decoder(path, part) as decoder:
        if decoder.seek(position):
            yield from decoder.blocks(SMALL_FRAMES)


def open_behind(path: Path, part: Part, position: int, stop: int) -> Decoder | None:
    """Return a decoder that begins as soon as possible behind a place that cannot be decoded; None if there is none.

    Args:
        path: of the file.
        part: of it.
        position: of the place, in native frames.
        stop: of the end, as far as is known.
    """
    step = SMALL_FRAMES
    while position + step < min(stop, position + MAX_SKIP_FRAMES):
        decoder = Decoder(path, part)
        # Other formats than FLAC do not know the positions of what follows.
        if decoder.file.format == "FLAC" and decoder.seek(position + step):
            return decoder
        decoder.close()
        step *= 2
    return None


def part_frames(part: Part, file: soundfile.SoundFile) -> int:
    """Return how many native frames of a part libsndfile gives that are in the file."""
    frames = int(file.frames)
    return frames if part.max_frames is None else min(frames, part.max_frames)


def part_lengths(part: Part, file: soundfile.SoundFile) -> tuple[int | None, int]:
    """Return how many native frames the headers of a part state, if they do, and how many the part should have."""
    frames = part_frames(part, file)
    stated = part.stated_frames
    if stated is None and frames < UNKNOWN_FRAMES:
        stated = round(frames * part.stated_ratio)
    expected = frames if stated is None else stated if frames >= UNKNOWN_FRAMES else max(stated, frames)
    return stated if part.states_length else None, expected


@cache
def _sequential() -> type[soundfile.SoundFile]:
    """Return a SoundFile that does not seek after each read, which libsndfile cannot do at the end of all files."""
    import soundfile

    class Sequential(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Sequential
