"""Pooling: values of each way by hand, silence that has no vote, and windows that may come in any batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaimoe_runtime.pooling import LSE_SHARPNESS, Pooling
from xaimoe_runtime.result import pool
from xaimoe_runtime.schema import POOLS, Pool

SCORES = np.float32([[0.1, 0.9], [0.2, 0.1], [0.6, 0.0], [0.3, 0.2]])


def pooled(how: Pool, sounding: list[float] | None = None) -> list[float]:
    votes = None if sounding is None else np.float32(sounding)
    return [round(score, 5) for score in pool(SCORES, votes, how).tolist()]


def test_mean_by_hand() -> None:
    assert pooled("mean") == [0.3, 0.3]


def test_max_by_hand() -> None:
    assert pooled("max") == [0.6, 0.9]


def test_top3_is_the_mean_of_the_three_largest() -> None:
    assert pooled("top3") == [round((0.6 + 0.3 + 0.2) / 3, 5), 0.4]


def test_lse_is_a_smooth_maximum_at_the_stated_temperature() -> None:
    expected = np.log(np.exp(LSE_SHARPNESS * SCORES.astype(float)).mean(axis=0)) / LSE_SHARPNESS
    assert pooled("lse") == [round(score, 5) for score in expected.tolist()]


@pytest.mark.parametrize("how", POOLS)
def test_one_window_keeps_its_scores(how: Pool) -> None:
    np.testing.assert_allclose(pool(SCORES[:1], np.float32([0.3]), how), SCORES[0], atol=1e-6)


def test_silent_windows_have_no_vote() -> None:
    assert pooled("mean", [0, 1, 0, 1]) == [0.25, 0.15]
    assert pooled("max", [0, 1, 0, 1]) == [0.3, 0.2]
    assert pooled("top3", [0, 1, 0, 1]) == [0.25, 0.15]


def test_a_window_votes_with_the_share_that_sounds() -> None:
    assert pooled("mean", [1, 0.5, 0, 0.5]) == [round((0.1 + 0.1 + 0.15) / 2, 5), round((0.9 + 0.05 + 0.1) / 2, 5)]


@pytest.mark.parametrize("how", POOLS)
def test_silence_alone_has_scores_of_0(how: Pool) -> None:
    pooling = Pooling(2, how)
    pooling.add(SCORES, np.zeros(4, np.float32), [0, 1, 2, 3])
    assert pooling.silent and (pooling.windows, pooling.silent_windows) == (4, 4)
    assert pooling.scores.tolist() == pooling.max_scores.tolist() == pooling.max_at_s.tolist() == [0, 0]


def test_the_maximum_and_where_it_was_stand_beside_any_pool() -> None:
    pooling = Pooling(2)
    pooling.add(SCORES[:2], np.float32([0, 1]), [0.0, 1.0])
    pooling.add(SCORES[2:], np.float32([1, 1]), [2.0, 3.0])
    assert pooling.max_scores.tolist() == np.float32([0.6, 0.2]).tolist()
    assert pooling.max_at_s.tolist() == [2.0, 3.0]


def test_of_equal_maxima_the_first_counts() -> None:
    pooling = Pooling(1)
    for start in (1.0, 2.0):
        pooling.add(np.float32([[0.5], [0.5]]), np.ones(2, np.float32), [start, start + 0.5])
    assert pooling.max_at_s.tolist() == [1.0]


@given(
    windows=st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=12),
    cut=st.integers(1, 5),
    how=st.sampled_from(POOLS),
)
def test_batches_of_any_size_give_the_same_scores_within_0_and_1(
    windows: list[tuple[float, float]], cut: int, how: Pool
) -> None:
    scores, sounding = np.float32([[score] for score, _ in windows]), np.float32([share for _, share in windows])
    whole, parts = Pooling(1, how), Pooling(1, how)
    starts = list(map(float, range(len(windows))))
    whole.add(scores, sounding, starts)
    for at in range(0, len(windows), cut):
        part = slice(at, at + cut)
        parts.add(scores[part], sounding[part], starts[part])
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)
    assert parts.max_at_s.tolist() == whole.max_at_s.tolist()
    assert 0 <= whole.scores[0] <= 1
    voting = scores[sounding > 0]
    if len(voting):
        assert voting.min() - 1e-6 <= whole.scores[0] <= voting.max() + 1e-6
