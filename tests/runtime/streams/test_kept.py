"""The part of an endless array that is kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xaimoe_runtime.streams.kept import Kept


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), max_size=30))
def test_what_is_kept_is_what_was_appended(steps: list[tuple[int, int]]) -> None:
    kept, whole, first = Kept(2), np.empty((2, 0), np.float32), 0
    for added, held in steps:
        part = np.arange(whole.shape[1], whole.shape[1] + added, dtype=np.float32) + np.array([[0], [0.5]], np.float32)
        whole = np.concatenate([whole, part], axis=1)
        kept.append(part)
        kept.forget(kept.end - held)
        first = max(first, min(kept.end - held, kept.end))
        assert (kept.first, kept.end) == (first, whole.shape[1])
        np.testing.assert_array_equal(kept.between(kept.first, kept.end), whole[:, first:])


def test_it_takes_no_more_memory_however_long_it_lasts() -> None:
    kept, sizes = Kept(), set()
    for _ in range(500):
        kept.append(np.zeros(100, np.float32))
        kept.forget(kept.end - 1000)
        sizes.add(kept._data.size)
    assert max(sizes) <= 4 * 1100
    assert kept.end == 50_000
