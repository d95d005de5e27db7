"""Which native samples are clipped, kept so that the share of any stretch can be counted exactly."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

CHUNK = 1 << 16
"""Native samples whose bits are kept together; stretches without a clipped sample take no memory."""


@dataclass
class _Chunk:
    count: int
    """Clipped samples."""
    bits: NDArray[np.uint8]
    """[CHUNK / 8]"""


class ClippedSamples:
    """The clipped samples of one channel, by their position."""

    def __init__(self) -> None:
        self.frames = 0
        """Native samples that were added."""
        self._chunks: dict[int, _Chunk] = {}  # by number, rising

    def add(self, mask: Mask) -> None:
        """Add the next samples: [n], whether each is clipped."""
        begin, self.frames = self.frames, self.frames + len(mask)
        if not mask.any():
            return
        for number in range(begin // CHUNK, (self.frames - 1) // CHUNK + 1):
            start = number * CHUNK
            part = mask[max(start - begin, 0) : start + CHUNK - begin]
            if not part.any():
                continue
            chunk = self._chunks.get(number)
            whole = np.zeros(CHUNK, np.bool_) if chunk is None else np.unpackbits(chunk.bits).view(np.bool_)
            offset = max(begin - start, 0)
            whole[offset : offset + len(part)] = part
            self._chunks[number] = _Chunk(int(np.count_nonzero(whole)), np.packbits(whole))

    def count(self, start: int, stop: int) -> int:
        """Return how many of the samples ``start`` to ``stop`` are clipped."""
        total = 0
        for number in range(max(start, 0) // CHUNK, (min(stop, self.frames) - 1) // CHUNK + 1) if self._chunks else ():
            chunk = self._chunks.get(number)
            if chunk is None:
                continue
            low, high = max(start - number * CHUNK, 0), min(stop - number * CHUNK, CHUNK)
            whole = low == 0 and high == CHUNK
            total += chunk.count if whole else int(np.count_nonzero(np.unpackbits(chunk.bits)[low:high]))
        return total

    def rate(self, start: int, stop: int) -> float:
        """Return the share of clipped samples among those from ``start`` to ``stop`` that were added; 0 of none."""
        stop = min(stop, self.frames)
        return self.count(start, stop) / (stop - start) if stop > start else 0.0

    def mask(self, start: int, stop: int) -> Mask:
        """Return whether each of the samples ``start`` to ``stop`` is clipped, [stop - start]."""
        mask = np.zeros(max(stop - start, 0), np.bool_)
        for number in range(start // CHUNK, (stop - 1) // CHUNK + 1) if self._chunks and stop > start else ():
            chunk = self._chunks.get(number)
            if chunk is not None:
                first = number * CHUNK
                low, high = max(start, first), min(stop, first + CHUNK)
                mask[low - start : high - start] = np.unpackbits(chunk.bits)[low - first : high - first]
        return mask

    def drop_before(self, position: int) -> None:
        """Forget what lies before a native sample, since it is not asked for any more."""
        for number in [number for number in self._chunks if (number + 1) * CHUNK <= position]:
            del self._chunks[number]

    def to_bytes(self) -> bytes:
        """Return the clipped samples for :meth:`from_bytes`."""
        numbers = np.array(list(self._chunks), "<u4")
        bits = b"".join(chunk.bits.tobytes() for chunk in self._chunks.values())
        return zlib.compress(numbers.tobytes() + bits, 1) if self._chunks else b""

    @classmethod
    def from_bytes(cls, content: bytes, frames: int) -> ClippedSamples:
        """Return the clipped samples of a recording of so many native samples."""
        samples = cls()
        samples.frames = frames
        if content:
            plain = zlib.decompress(content)
            count = len(plain) // (4 + CHUNK // 8)
            numbers = np.frombuffer(plain, "<u4", count)
            bits = np.frombuffer(plain, np.uint8, offset=4 * count).reshape(count, CHUNK // 8)
            for number, row in zip(numbers.tolist(), bits, strict=True):
                samples._chunks[number] = _Chunk(int(np.count_nonzero(np.unpackbits(row))), row)
        return samples


def native_position(position: int, rate: float, native_rate: float) -> int:
    """Return the native sample at a position at another rate, to the nearest."""
    return position if rate == native_rate else int(position * native_rate / rate + 0.5)
