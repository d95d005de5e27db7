"""Long recordings piece by piece, so that memory does not grow with their length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def overlapping_pieces(blocks: Iterable[Floats], size: int, step: int) -> Iterator[Floats]:
    """Yield the pieces of a recording that begin every ``step`` samples, then what is left after the last step.

    Args:
        blocks: consecutive samples, [n] each.
        size: samples of a piece.
        step: samples from the start of a piece to the start of the next.

    Yields:
        [size] each; at the end the remaining samples, fewer than ``size``, if there are any.
    """
    held: Floats = np.zeros(0, np.float32)
    skipped = 0  # samples still to come before the next piece, where the step is longer than a piece
    for block in blocks:
        held = np.concatenate([held, block[skipped:]])
        skipped = max(skipped - len(block), 0)
        start = 0
        while len(held) - start >= size:
            yield held[start : start + size]
            start += step
        skipped += max(start - len(held), 0)
        held = held[start:]
    if len(held):
        yield held
