"""Budgets: what fits is run, the best first; what does not is told; there is always an answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
import pytest
from data import bursts, write_wav
from numpy.typing import NDArray

from xaimoe_runtime import ConfigError, Runtime, budget
from xaimoe_runtime.budget import Budget, WholeCall, for_each, worth_their_time
from xaimoe_runtime.costs import CHUNK, PERCENTILES, Cost, Costs, Percentile
from xaimoe_runtime.mixing import OnHost, mix_within
from xaimoe_runtime.result import Outputs

Floats = NDArray[np.float32]
Clips = tuple[Floats, Floats]


def cost(one: float, more: float) -> Cost:
    """A batch of one, and each one more, in milliseconds; p95 takes twice and p99 four times as long."""
    times = (one, one + 15 * more)
    return Cost(sizes=(1, 16), p50=times, p95=tuple(2 * t for t in times), p99=tuple(4 * t for t in times))


def costs_of(runtime: Runtime, expert: float, other: float = 0.0) -> Costs:
    """Made-up costs of all graphs."""
    names = runtime.dispatcher.graphs
    return {name: cost(*(2 * (expert if name.startswith("expert") else other,))) for name in names}


# Costs ---------------------------------------------------------------------------------------------------------------


def test_costs_lie_on_a_line_between_the_sizes_measured_and_go_on_in_proportion() -> None:
    measured = Cost(sizes=(1, 4, 8), p50=(1.0, 2.5, 4.0), p95=(2.0, 3.0, 6.0), p99=(3.0, 4.0, 8.0))
    assert [measured.predict(size, "p50") for size in (0, 1, 2, 4, 6, 8, 16)] == [0, 1, 1.5, 2.5, 3.25, 4, 8]
    assert [measured.predict(2, name) for name in PERCENTILES] == pytest.approx([1.5, 7 / 3, 10 / 3])
    assert (measured.each("p50"), measured.start("p50")) == pytest.approx((7 / 15, 8 / 15))


def test_neither_the_start_nor_one_more_is_ever_for_less_than_nothing() -> None:
    steep = Cost(sizes=(1, 2), p50=(1.0, 4.0), p95=(4.0, 0.1), p99=(1.0, 4.0))
    assert steep.start("p50") == 0
    assert steep.each("p95") == 0


@pytest.mark.parametrize("changed", [{"sizes": (2, 1)}, {"sizes": (1, 1)}, {"p95": (1.0,)}, {"p99": (-1.0, 1.0)}])
def test_costs_that_make_no_sense_are_refused(changed: dict[str, Any]) -> None:
    good = {"sizes": (1, 2), "p50": (1.0, 2.0), "p95": (1.0, 2.0), "p99": (1.0, 2.0)}
    assert msgspec.convert(good, Cost)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(good | changed, Cost)


# Which pairs ---------------------------------------------------------------------------------------------------------

EXPERTS = [cost(1.0, 1.0), cost(4.0, 4.0), cost(3.0, 1.0)]


def fitting(gates: list[list[float]], room_ms: float) -> set[tuple[int, int]]:
    """(patch, expert) of one clip's pairs that fit."""
    found = worth_their_time(np.array([gates], np.float32), EXPERTS, room_ms, "p50")
    return {(int(p), int(e)) for _, p, e in np.argwhere(found)}


def test_the_best_of_each_patch_comes_first_by_gate_per_millisecond() -> None:
    gates = [[0.2, 0.3, 0.0], [0.1, 0.0, 0.0]]  # the best: 0.3 in 4 ms and 0.1 in 1 ms; the second best: 0.2 in 1 ms
    assert fitting(gates, 0.9) == set()
    assert fitting(gates, 1.9) == {(1, 0)}
    assert fitting(gates, 5.0) == {(1, 0), (0, 1)}
    assert fitting(gates, 6.0) == {(1, 0), (0, 1), (0, 0)}


def test_a_patch_that_was_heard_does_not_come_first_again() -> None:
    gates = np.array([[[0.9, 0.0, 0.8], [0.1, 0.0, 0.0]]], np.float32)
    waiting = gates > 0
    waiting[0, 0, 0] = False  # it was run
    assert np.argwhere(worth_their_time(gates, EXPERTS, 1.0, "p50", waiting)).tolist() == [[0, 1, 0]]
    assert np.argwhere(worth_their_time(gates, EXPERTS, 3.0, "p50", waiting)).tolist() == [[0, 1, 0]]
    assert worth_their_time(gates, EXPERTS, 4.0, "p50", waiting).sum() == 2


def test_what_does_not_fit_makes_room_for_what_does() -> None:
    assert fitting([[0.0, 0.9, 0.0], [0.1, 0.0, 0.0]], 1.5) == {(1, 0)}
    assert fitting([[0.1, 0.0, 0.5]], 1.5) == {(0, 0)}


def test_the_first_pair_of_a_chunk_pays_for_the_start() -> None:
    gates = [[0.0, 0.0, 0.5], [0.0, 0.0, 0.5]]  # one more costs 1 ms, the first 3
    assert fitting(gates, 2.9) == set()
    assert fitting(gates, 3.0) == {(0, 2)}
    assert fitting(gates, 4.0) == {(0, 2), (1, 2)}
    many = [[0.0, 0.0, 0.5]] * (CHUNK + 1)
    assert len(fitting(many, 18.1)) == CHUNK
    assert len(fitting(many, 20.9)) == CHUNK
    assert len(fitting(many, 21.1)) == CHUNK + 1


def test_a_pair_without_a_gate_is_never_run_and_no_room_runs_none() -> None:
    assert fitting([[0.0, 0.0, 0.0]], 1e9) == set()
    assert fitting([[1.0, 1.0, 1.0]], -5.0) == set()


def test_where_batches_are_filled_up_they_cost_what_the_next_size_does() -> None:
    filled = Cost(sizes=(2, 8, 32), p50=(1.0, 2.0, 4.0), p95=(1.0, 2.0, 4.0), p99=(1.0, 2.0, 4.0), filled_up=True)
    assert [filled.predict(size, "p50") for size in (1, 2, 3, 8, 9, 32, 64)] == [1, 1, 2, 2, 4, 4, 8]


def test_of_a_chunk_that_is_too_dear_a_part_is_run() -> None:
    steep = Cost(sizes=(1, 8, 16), p50=(0.2, 0.6, 1.6), p95=(0.2, 0.6, 1.6), p99=(0.2, 0.6, 1.6))
    held = Budget(perf_counter() + 1.2, {"head": cost(0.0, 0.0)}, "p50")  # more than a second
    assert held.fitting(steep, 16, 1) == 16
    steep = msgspec.structs.replace(steep, p50=(200.0, 600.0, 1_600.0))
    assert held.fitting(steep, 16, 1) == 8
    assert held.fitting(msgspec.structs.replace(steep, p50=(9e3, 9e3, 9e3)), 16, 1) == 0


# Deadlines -----------------------------------------------------------------------------------------------------------


def test_runs_of_one_call_share_what_is_left_by_their_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(budget, "perf_counter", lambda: now[0])
    deadlines = WholeCall(end=110.0, windows=4)
    assert deadlines(1) == 102.5
    now[0] = 104.0  # the first took longer than it should
    assert deadlines(1) == 106.0
    now[0] = 105.0
    assert deadlines(2) == 110.0
    assert for_each(50.0)(3) == pytest.approx(105.15)


@pytest.mark.parametrize("budget_ms", [0, -1, float("nan"), float("inf"), "5"])
def test_a_budget_that_is_no_time_is_refused(runtime: Runtime, budget_ms: Any) -> None:
    with pytest.raises(ConfigError, match="budget_ms: found"):
        runtime.infer(bursts(1_000), budget_ms=budget_ms)
    with pytest.raises(ConfigError, match="budget_ms: found"):
        runtime.infer_file("a.wav", budget_ms=budget_ms)


def test_an_unknown_percentile_is_refused(runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="percentile: found 'p42', expected p50, p95, p99"):
        runtime.infer(bursts(1_000), budget_ms=5, percentile="p42")


# The line ------------------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only while experts run: as long as ``costs`` has it for the median, times ``slowness``."""

    def __init__(self, runtime: Runtime, costs: Costs, monkeypatch: pytest.MonkeyPatch, slowness: float = 1.0) -> None:
        self.now, self.runtime, self.costs, self.chunks = 0.0, runtime, costs, list[int]()
        real = OnHost.add

        def add(mixing: OnHost, e: int, *where: NDArray[np.intp]) -> None:
            real(mixing, e, *where)
            self.chunks.append(len(where[0]))
            self.now += slowness * costs[mixing.experts[e].spec.name].predict(len(where[0]), "p50") / 1e3

        monkeypatch.setattr(OnHost, "add", add)
        monkeypatch.setattr(budget, "perf_counter", lambda: self.now)

    def run(self, clips: Clips, ms: float, percentile: Percentile = "p50") -> Outputs:
        held = Budget(self.now + ms / 1e3, self.costs, percentile)
        return self.runtime.dispatcher.run(*clips, "routed", held)


def one_of(clips: Clips, runtime: Runtime) -> Clips:
    """The clip that runs the most pairs."""
    most = int(runtime.run(*clips, "routed").pairs.argmax())
    return clips[0][most : most + 1], clips[1][most : most + 1]


def test_with_time_enough_the_answer_is_the_same(
    runtime: Runtime, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = runtime.run(*clips, "routed")
    clock = Clock(runtime, costs_of(runtime, 1.0), monkeypatch)
    found = clock.run(clips, 60_000)
    np.testing.assert_allclose(found.scores, free.scores, atol=1e-5)
    np.testing.assert_array_equal(found.gates, free.gates)
    assert not found.degraded.any() and not found.late
    assert not free.degraded.any() and not free.predicted_ms
    assert max(clock.chunks) <= CHUNK
    assert sum(clock.chunks) == free.pairs.sum()


def test_without_time_the_answer_is_the_priors_and_late(runtime: Runtime, clips: Clips) -> None:
    held = Budget(perf_counter(), costs_of(runtime, 0.1), "p50")
    found, glance = runtime.dispatcher.run(*clips, "routed", held), runtime.run(*clips, "glance")
    np.testing.assert_array_equal(found.scores, glance.scores)
    assert found.late
    assert not found.gates.any()
    routed = runtime.run(*clips, "routed").gates
    np.testing.assert_array_equal(found.left_out, routed)
    np.testing.assert_array_equal(found.degraded, routed.any(axis=(1, 2)))


def test_under_a_tight_budget_the_largest_gates_are_run(
    runtime: Runtime, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = one_of(clips, runtime)
    routed = runtime.run(*one, "routed").gates
    assert np.count_nonzero(routed) > 2
    found = Clock(runtime, costs_of(runtime, 10.0), monkeypatch).run(one, 25)
    ran = np.sort(found.gates[found.gates > 0])
    np.testing.assert_array_equal(ran, np.sort(routed.max(axis=2).ravel())[-2:])
    np.testing.assert_array_equal(found.gates + found.left_out, routed)
    assert found.degraded.all() and not found.late
    assert found.predicted_ms["experts"] == pytest.approx(20.0)


def test_time_that_was_kept_for_bad_moments_is_used_when_there_were_none(
    runtime: Runtime, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40.5 ms a plan by p95 gives two pairs of 20 ms; they take 10, and the rest one more, and then none."""
    one = one_of(clips, runtime)
    clock = Clock(runtime, costs_of(runtime, 10.0), monkeypatch)
    pairs = [int(clock.run(one, 40.5, percentile).pairs[0]) for percentile in PERCENTILES]
    chosen = int(runtime.run(*one, "routed").pairs[0])
    assert chosen >= 4
    assert pairs == [4, 3, 1]


def test_what_takes_longer_than_expected_is_stopped_by_the_clock(
    runtime: Runtime, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = int(runtime.run(*clips, "routed").pairs.sum())
    clock = Clock(runtime, costs_of(runtime, 0.1), monkeypatch, slowness=50)
    found = clock.run(clips, 58)
    assert 0 < found.pairs.sum() < chosen
    assert found.degraded.any()
    *before, last = np.cumsum(clock.chunks) * 0.1 * 50  # multiples of 5
    assert (not before or before[-1] < 58) and found.late == (last > 58)


def test_no_chunk_is_begun_after_the_deadline(runtime: Runtime, clips: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(runtime, costs_of(runtime, 0.1), monkeypatch, slowness=1e6)
    found = clock.run(clips, 60)
    assert len(clock.chunks) == 1
    assert found.late and found.degraded.any()


def test_a_gate_that_is_no_number_is_found_and_not_tried_again_and_again(
    runtime: Runtime, clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, gates = runtime.dispatcher, runtime.run(*clips, "routed").gates
    gates[0, 0, 0] = np.nan
    clock = Clock(runtime, costs_of(runtime, 0.1), monkeypatch)
    heard = line.frontend(waveform=clips[0], source=clips[1])["spectrogram"]
    costs = [clock.costs[expert.spec.name] for expert in line.experts]
    ran, _ = mix_within(line.mixing(heard, gates), gates, Budget(60.0, clock.costs, "p50"), costs)
    np.testing.assert_array_equal(ran, gates)
    assert sum(clock.chunks) == np.count_nonzero(gates > 0)


# Calls ---------------------------------------------------------------------------------------------------------------


def test_a_call_with_time_enough_answers_as_without_a_budget(runtime: Runtime) -> None:
    batch = np.stack([bursts(40_000, seed=seed) for seed in range(3)])
    free = runtime.infer(batch, 16_000)
    found = runtime.infer(batch, 16_000, budget_ms=60_000)
    np.testing.assert_allclose(found.scores, free.scores, atol=1e-5)
    assert (found.labels, found.degraded, found.late) == (free.labels, False, False)
    assert found.trace.predicted_ms.keys() == found.trace.ms.keys()
    assert all(ms > 0 for ms in found.trace.predicted_ms.values())


def test_many_callers_share_one_runtime(runtime: Runtime) -> None:
    samples = [bursts(runtime.audio.clip_samples, seed=seed) for seed in range(8)]
    wanted = [runtime.infer(one).scores for one in samples]
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda one: runtime.infer(one, budget_ms=60_000), samples * 4))
    for one, answer in zip(wanted * 4, found, strict=True):
        np.testing.assert_allclose(answer.scores, one, atol=1e-5)
        assert not answer.degraded


def test_a_call_that_can_only_be_late_says_so_and_answers(runtime: Runtime) -> None:
    samples = bursts(20 * runtime.audio.clip_samples)
    found = runtime.infer(samples, budget_ms=0.01)
    assert found.late
    assert found.degraded == bool(runtime.infer(samples).trace.pairs.any())
    np.testing.assert_allclose(found.scores, runtime.infer(samples, routing="glance").scores, atol=1e-6)


def test_each_window_of_a_file_has_its_own_budget(runtime: Runtime, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "long.wav", bursts(60_000))
    free = list(runtime.infer_file(path))
    enough = list(runtime.infer_file(path, budget_ms=60_000))
    none = list(runtime.infer_file(path, budget_ms=0.001))
    assert [window.result.late for window in enough] == [False] * len(free)
    assert [window.result.late for window in none] == [True] * len(free)
    for with_budget, without in zip(enough, free, strict=True):
        np.testing.assert_allclose(with_budget.result.scores, without.result.scores, atol=1e-5)


# What is kept back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("windows", "kept_back"), [(1, 0.31), (10, 0.4)])
def test_time_is_kept_back_for_what_is_no_graph(
    monkeypatch: pytest.MonkeyPatch, windows: int, kept_back: float
) -> None:
    monkeypatch.setattr(budget, "perf_counter", lambda: 5.0)
    left = Budget(deadline=5.1, costs={"head": cost(2.0, 0.0)}, percentile="p50")
    assert left.left_ms == pytest.approx(100)
    assert left.room_ms(windows) == pytest.approx(100 - 2.0 - kept_back)


def test_a_chunk_that_would_take_what_is_kept_back_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "perf_counter", lambda: 5.0)
    left = Budget(deadline=5.005, costs={"head": cost(2.0, 0.0)}, percentile="p50")  # room for 2.69 ms
    assert left.fitting(cost(2.6, 0.0), 1, 1) == 1
    assert left.fitting(cost(2.8, 0.0), 1, 1) == 0
