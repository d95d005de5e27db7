"""Pooling: the scores of a recording from those of its windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.schema import Pool

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

TOP = 3
"""Windows of each label that ``top3`` averages."""
LSE_SHARPNESS = 10.0
"""Inverse temperature of ``lse``: towards 0 it is the mean, towards infinity the maximum."""


class Pooling:
    """Pools windows as they come, in memory that does not grow with their number.

    A window votes with the share of it that sounds, so silence has no say, and padding little. A recording whose
    windows are all silent has scores of 0.

    - ``mean``: the mean over the windows, weighted by what sounds.
    - ``max``: the largest score of each label.
    - ``top3``: the mean of the three largest scores of each label, or of all if there are fewer windows.
    - ``lse``: log(mean(exp(r * score))) / r with r = ``LSE_SHARPNESS``, weighted as the mean is: a smooth maximum
      (P. O. Pinheiro and R. Collobert, "From Image-level to Pixel-level Labeling with Convolutional Networks", 2015).

    All are within 0…1 where the scores are.

    Args:
        labels: how many scores a window has.
        pool: how to pool.
    """

    def __init__(self, labels: int, pool: Pool = "mean") -> None:
        self.pool: Pool = pool
        self.windows = self.silent_windows = 0
        self._weight = 0.0
        self._sum: Doubles = np.zeros(labels)
        self._top: Floats = np.zeros((0, labels), np.float32)  # largest scores of each label, at most TOP
        self._max: Floats = np.full(labels, -np.inf, np.float32)
        self._max_at_s: Doubles = np.zeros(labels)

    def add(self, scores: Floats, sounding: Floats, start_s: Sequence[float]) -> None:
        """Add windows.

        Args:
            scores: of N windows, [N, L].
            sounding: share of each window that is not silent, [N].
            start_s: where each window begins, [N].
        """
        votes = np.asarray(sounding, np.float64)
        self.windows += len(scores)
        self.silent_windows += int(np.count_nonzero(votes == 0))
        scores, starts, votes = scores[votes > 0], np.asarray(start_s)[votes > 0], votes[votes > 0]
        if not len(scores):
            return
        self._weight += float(votes.sum())
        doubles = scores.astype(np.float64)
        terms = np.expm1(LSE_SHARPNESS * doubles) if self.pool == "lse" else doubles
        self._sum += votes @ terms
        if self.pool == "top3":
            self._top = -np.sort(-np.concatenate([self._top, scores]), axis=0)[:TOP]
        best = scores.argmax(axis=0)
        largest = scores[best, np.arange(scores.shape[1])]
        self._max_at_s = np.where(largest > self._max, starts[best], self._max_at_s)
        self._max = np.maximum(self._max, largest)

    @property
    def silent(self) -> bool:
        """Whether no window sounds."""
        return self._weight == 0

    @property
    def scores(self) -> Floats:
        """Pooled scores of the recording, [L], within 0…1."""
        if self.silent:
            return np.zeros(len(self._sum), np.float32)
        pooled: Doubles | Floats = self._sum / self._weight
        if self.pool == "lse":
            pooled = np.log1p(pooled) / LSE_SHARPNESS
        elif self.pool == "max":
            pooled = self._max
        elif self.pool == "top3":
            pooled = self._top.mean(axis=0, dtype=np.float64)
        return _clipped(pooled)

    @property
    def max_scores(self) -> Floats:
        """Largest score of each label over the windows that sound, [L]."""
        return _clipped(self._max)

    @property
    def max_at_s(self) -> Doubles:
        """Start of the first window with that score, in seconds, [L]; 0 if no window sounds."""
        return self._max_at_s


def _clipped(scores: Doubles | Floats) -> Floats:
    """Return scores as float32 within 0…1, which rounding may leave."""
    return np.clip(scores, 0, 1).astype(np.float32)
