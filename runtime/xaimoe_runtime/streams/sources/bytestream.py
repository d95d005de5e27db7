"""From a stream of bytes to frames of raw samples."""

from __future__ import annotations

import numpy as np

from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.streams.pcm import Encoding, decode, frame_bytes
from xaimoe_runtime.streams.sources.base import Floats
from xaimoe_runtime.streams.sources.headers import MAGIC_BYTES, check_wav_header, find_container, read_wav_header


class ByteStream:
    """Decode the bytes of a pipe or a connection, in whole frames however they are cut.

    A WAV header that states the expected format is skipped, and what follows the file's samples is left out; a header
    of any other format or kind of file is refused, since it and all that follows would be taken for samples.

    Args:
        rate: Hz.
        channels: interleaved.
        encoding: of the samples.
    """

    def __init__(self, rate: int, channels: int, encoding: Encoding) -> None:
        self.rate, self.channels, self.encoding = rate, channels, encoding
        self.size = frame_bytes(encoding, channels)
        """Bytes of a frame."""
        self.header = ""
        """The format that a WAV header stated which was skipped."""
        self.rest = b""
        """Bytes of a frame that is not complete yet, or of what may be a header."""
        self.surplus = 0
        """Bytes left out, which followed the samples of a WAV file."""
        self._is_raw = False  # whether what comes next is samples for sure
        self._remaining: int | None = None  # bytes of samples that a WAV header promises

    def push(self, data: bytes) -> Floats:
        """Return the frames [n, channels] that these bytes complete.

        Raises:
            AudioError: the stream begins with the header of a file whose samples are others than expected.
        """
        self.rest += data
        if not self._is_raw and not self._skip_header():
            return np.empty((0, self.channels), np.float32)
        usable = len(self.rest)
        if self._remaining is not None:
            usable = min(usable, self._remaining)
            self.surplus += len(self.rest) - usable
            self.rest = self.rest[:usable]
        return self._take(usable - usable % self.size)

    def finish(self) -> Floats:
        """Return the frames that were held back because they might have been the beginning of a header."""
        if self._is_raw or self.header:
            return np.empty((0, self.channels), np.float32)
        return self._take(len(self.rest) - len(self.rest) % self.size)

    def _take(self, size: int) -> Floats:
        data, self.rest = self.rest[:size], self.rest[size:]
        if self._remaining is not None:
            self._remaining -= size
        if not data:
            return np.empty((0, self.channels), np.float32)
        return decode(data, self.encoding, self.channels)

    def _skip_header(self) -> bool:
        """Take a header off the beginning; return False while more bytes are needed to tell."""
        if len(self.rest) < MAGIC_BYTES:
            return False
        kind = find_container(self.rest)
        if kind == "WAV":
            header = read_wav_header(self.rest)
            if header is None:
                return False
            check_wav_header(header, self.rate, self.channels, self.encoding)
            self.header, self._remaining = str(header), header.data_bytes
            self.rest = self.rest[header.size :]
        elif kind:
            raise AudioError(
                f"found a {kind} file, expected raw samples; give the file's path, or decode it first "
                f"(ffmpeg -i - -f s16le -ac {self.channels} -ar {self.rate} -)"
            )
        self._is_raw = True
        return True
