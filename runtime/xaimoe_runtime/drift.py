"""Whether what is heard is like what the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.schema import AttributeSpec

Floats = NDArray[np.float32]

MARGIN = 1.0
"""In widths of the usual, from the 5th to the 95th percentile of the training split: what is that far outside is drift,
of ESC-10, four fifths of which the model was trained on, 3 % of the windows; at half of it 9 %."""
LEAST_WIDTH = {"dB": 6.0, "dBFS": 6.0, "Hz": 200.0, "log10": 0.3, "1": 0.05}
"""By unit: of the usual, where all of the training split is alike."""


def excess(attributes: Floats, usual: Sequence[AttributeSpec]) -> Floats:
    """How far the signal attributes [N, A] lie outside what is usual, in widths of that, [N, A]; 0 within it.

    Args:
        attributes: of N windows.
        usual: how each of the A attributes is distributed over the training split; without, all are usual.
    """
    if not usual:
        return np.zeros_like(attributes)
    low, high, width = _limits(tuple(usual))
    found: Floats = np.maximum(np.maximum(low - attributes, attributes - high), np.float32(0)) / width
    return found


@lru_cache
def _limits(usual: tuple[AttributeSpec, ...]) -> tuple[Floats, Floats, Floats]:
    """The lower and upper limit of the usual, and its width, each [A]."""
    low, high = (np.array([getattr(item, name) for item in usual], np.float32) for name in ("q05", "q95"))
    least = np.array([LEAST_WIDTH.get(item.unit, 0.0) for item in usual], np.float32)
    return low, high, np.maximum(np.maximum(high - low, least), np.finfo(np.float32).tiny)


def drifted(excess: Floats, usual: Sequence[AttributeSpec]) -> tuple[tuple[str, ...], ...]:
    """Names of the signal attributes of each window that lie far outside what is usual."""
    if not (excess > MARGIN).any():
        return ((),) * len(excess)
    names = [item.name for item in usual]
    return tuple(tuple(name for name, out in zip(names, row, strict=False) if out > MARGIN) for row in excess.tolist())


def familiarity(excess: Floats) -> Floats:
    """0…1 for each of N windows: 1 if all of its signal attributes are usual."""
    found: Floats = np.exp(-excess.max(axis=1, initial=0.0))
    return found


def novelty(scores: Floats, familiarity: float) -> float:
    """Of scores [L]: 0…1, the more the less what is heard is like anything the model knows.

    It is what the best score lacks (D. Hendrycks and K. Gimpel, "A Baseline for Detecting Misclassified and
    Out-of-Distribution Examples in Neural Networks", 2017), the score counting less where the signal is unlike the
    training split's. How well that tells other sounds is in ``benchmarks/RESULTS.md``.
    """
    return min(max(1 - float(scores.max()) * familiarity, 0.0), 1.0)
