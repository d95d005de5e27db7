"""Pieces of long recordings."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xaimoe_audio.data.pieces import overlapping_pieces


@given(
    sizes=st.lists(st.integers(0, 40), max_size=8),
    size=st.integers(1, 30),
    step=st.integers(1, 40),
)
def test_pieces_are_those_of_the_whole_recording_whatever_the_blocks(sizes: list[int], size: int, step: int) -> None:
    samples = np.arange(sum(sizes), dtype=np.float32)
    blocks = np.split(samples, np.cumsum(sizes)[:-1]) if sizes else []
    starts = range(0, len(samples), step)
    expected = [samples[start : start + size] for start in starts if start + size <= len(samples)]
    left = samples[len(expected) * step :]
    found = list(overlapping_pieces(blocks, size, step))
    expected += [left] if len(left) else []
    assert len(found) == len(expected)
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
