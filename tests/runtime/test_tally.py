"""The figures of a run: exact counts, and times that take no more memory however long it runs."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaimoe_runtime import Runtime
from xaimoe_runtime.tally import Tally


def tallied(runtime: Runtime, times: list[float]) -> Tally:
    result = runtime.infer(np.zeros(runtime.audio.clip_samples, np.float32))
    tally = Tally()
    for ms in times:
        tally.count(result, ms)
    return tally


@given(st.lists(st.floats(0.01, 1e5), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_are_those_of_the_times_to_half_a_percent(times: list[float], share: float) -> None:
    tally = Tally()
    for ms in times:
        tally.add(Tally(windows=1, times=_key(ms)))
    wanted = float(np.quantile(times, share, method="inverted_cdf"))
    assert tally.percentile(share) == pytest.approx(wanted, rel=0.0051)


def _key(ms: float) -> dict[int, int]:
    from xaimoe_runtime.tally import STEP

    return {round(float(np.log(ms)) / STEP): 1}


def test_a_million_windows_are_few_numbers(runtime: Runtime) -> None:
    rng = np.random.default_rng(0)
    tally = tallied(runtime, rng.lognormal(1, 0.5, 20_000).tolist())
    assert tally.windows == sum(tally.times.values()) == 20_000
    assert len(tally.times) < 600


def test_parts_add_up_and_survive_json(runtime: Runtime) -> None:
    one, other = tallied(runtime, [1.0, 2.0]), tallied(runtime, [2.0, 30.0])
    one.add(msgspec.json.decode(msgspec.json.encode(other), type=Tally))
    assert (one.windows, one.percentile(0.5), one.percentile(1.0)) == (
        *(4, pytest.approx(2.0, rel=0.0051)),
        pytest.approx(30.0, rel=0.0051),
    )
    assert Tally().percentile(0.5) == 0


def test_a_window_that_took_no_time_is_counted(runtime: Runtime) -> None:
    assert tallied(runtime, [0.0]).percentile(0.5) < 0.01
