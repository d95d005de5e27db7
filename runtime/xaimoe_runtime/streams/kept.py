"""The last part of an endless array, by absolute position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Kept:
    """What is still needed of an array [..., n] that grows along its last axis for ever.

    Args:
        shape: of the axes before the last.
    """

    def __init__(self, *shape: int) -> None:
        self.first = 0
        """Position of the oldest that is kept."""
        self.end = 0
        """Position after the newest."""
        self._data = np.empty((*shape, 0), np.float32)
        self._offset = 0  # of ``first`` in the data

    def append(self, part: Floats) -> None:
        """Adds [..., m] at the end."""
        kept, added = self.end - self.first, part.shape[-1]
        if self._offset + kept + added > self._data.shape[-1]:
            # Room for as much again, so that all moves together copy each value about once.
            moved = np.empty((*self._data.shape[:-1], 2 * (kept + added)), np.float32)
            moved[..., :kept] = self._data[..., self._offset : self._offset + kept]
            self._data, self._offset = moved, 0
        start = self._offset + kept
        self._data[..., start : start + added] = part
        self.end += added

    def between(self, begin: int, end: int) -> Floats:
        """A view of [..., end - begin]; all of it must be kept."""
        start = self._offset + begin - self.first
        return self._data[..., start : start + end - begin]

    def forget(self, before: int) -> None:
        """What lies before a position is not needed any more."""
        before = min(max(before, self.first), self.end)
        self._offset += before - self.first
        self.first = before
