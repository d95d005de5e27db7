"""The ways through the line: on the host or on a device, one expert after the other or several at a time, or all in one
graph. They give the same answers; which is taken, the calibration says."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xaimoe_runtime import Runtime, calibration
from xaimoe_runtime.budget import Budget
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.calibration import Calibration, measure, names_of
from xaimoe_runtime.costs import Cost, Costs
from xaimoe_runtime.dispatch import SHAPES, BoundGraph, Dispatcher, Way
from xaimoe_runtime.mixing import OnDevice, OnHost, filled_batches
from xaimoe_runtime.providers import SessionFactory
from xaimoe_runtime.schema import ROUTINGS, Routing
from xaimoe_runtime.verify import verify

Floats = NDArray[np.float32]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def opened(fused_bundle: Path) -> Bundle:
    return Bundle.open(fused_bundle)


@pytest.fixture(scope="module")
def host(opened: Bundle) -> Dispatcher:
    return Dispatcher(opened, SessionFactory("cpu"))


@pytest.fixture(scope="module")
def device(opened: Bundle) -> Dispatcher:
    """As on a GPU: tensors stay where they are, batches are filled up."""
    return Dispatcher(opened, SessionFactory("cpu"), device="cpu")


@pytest.fixture(scope="module")
def two_threads(opened: Bundle) -> Dispatcher:
    return Dispatcher(opened, SessionFactory("cpu", threads=2))


@pytest.fixture(scope="module")
def clips(opened: Bundle) -> tuple[Floats, Floats]:
    """Three clips [3, S] and their source; the last is silent."""
    rng = np.random.default_rng(0)
    waveform = np.tile(opened.golden["waveform"], (3, 1))
    waveform[1] = rng.normal(0, 0.1, waveform.shape[1])
    waveform[2] = 0
    return waveform, np.tile(opened.golden["source"], (3, 1))


def cost(ms: float) -> Cost:
    return Cost(sizes=(1,), p50=(ms,), p95=(ms,), p99=(2 * ms,))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_device_answers_as_the_host_does(
    host: Dispatcher, device: Dispatcher, clips: tuple[Floats, Floats], routing: Routing
) -> None:
    for some in (clips, (clips[0][:1], clips[1][:1])):
        found, wanted = device.run(*some, routing), host.run(*some, routing)
        for name in ("scores", "gates", "saliency", "attributes"):
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=CLOSE)
        assert found.ms.keys() == wanted.ms.keys()


def test_on_a_device_tensors_stay_there(device: Dispatcher, clips: tuple[Floats, Floats]) -> None:
    heard = device.frontend(waveform=clips[0], source=clips[1])
    assert not any(isinstance(value, np.ndarray) for value in heard.values())
    mixing = device.mixing(heard["spectrogram"], np.zeros((3, device.grid.count, len(device.experts)), np.float32))
    assert isinstance(mixing, OnDevice)
    mixing.add(0, np.array([0, 2]), np.array([1, 0]))
    assert not isinstance(mixing.mixture, np.ndarray)


def test_each_shape_has_a_session_where_convolutions_would_be_planned_anew(
    opened: Bundle, host: Dispatcher, clips: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionFactory, "plans_anew", True)
    made: list[str] = []
    create = SessionFactory.create

    def counted(factory: SessionFactory, name: str, *given: Any, **more: Any) -> Any:
        made.append(Path(name).name)
        return create(factory, name, *given, **more)

    monkeypatch.setattr(SessionFactory, "create", counted)
    line = Dispatcher(opened, SessionFactory("cpu"), device="cpu")
    waveform, source = clips
    sizes: list[set[int]] = [set() for _ in line.experts]  # of each expert's batches, whatever the model was trained to
    for count in (1, 3, 1, 3, 2, 1):
        found = line.run(waveform[:count], source[:count], "dense")
        wanted = host.run(waveform[:count], source[:count], "dense")
        assert np.abs(found.scores - wanted.scores).max() < CLOSE
        for expert, met in enumerate(sizes):
            pairs = int(np.count_nonzero(wanted.gates[:, :, expert]))
            met.update(size for _, size in filled_batches(pairs, line.buckets))
    assert made.count("saliency.onnx") == 3
    assert {made.count(name) for name in ("router.onnx", "head.onnx", "gather.onnx", "scatter.onnx")} == {1}
    assert [made.count(Path(expert.spec.file).name) for expert in line.experts] == [len(met) for met in sizes]
    assert max(map(len, sizes)) > 1


def test_a_device_keeps_budgets_too(host: Dispatcher, device: Dispatcher, clips: tuple[Floats, Floats]) -> None:
    costs = measure(device, device.bundle.golden, (1,), 3)
    for ms in (1e-3, 1e6):
        found = device.run(*clips, "dense", Budget(perf_counter() + ms / 1e3, costs, "p95"))
        assert found.late == (ms < 1)
    np.testing.assert_allclose(found.scores, host.run(*clips, "dense").scores, atol=CLOSE)


def test_a_bundle_without_the_graphs_for_it_is_run_by_the_host(fused_bundle: Path, opened: Bundle) -> None:
    manifest = opened.manifest
    graphs = tuple(graph for graph in manifest.graphs if graph.role not in ("gather", "scatter"))
    import msgspec

    without = Bundle(opened.path, msgspec.structs.replace(manifest, graphs=graphs), opened.files, opened.golden)
    line = Dispatcher(without, SessionFactory("cpu"), device="cpu")
    assert line.device is None
    assert not isinstance(line.frontend, BoundGraph)


@pytest.mark.parametrize(
    ("count", "batches"),
    [
        (0, []),
        (1, [(0, 1, 1)]),
        (3, [(0, 3, 4)]),
        (8, [(0, 8, 8)]),
        (11, [(0, 8, 8), (8, 11, 4)]),
        (20, [(0, 8, 8), (8, 16, 8), (16, 20, 4)]),
    ],
)
def test_batches_are_filled_up_to_a_bucket(count: int, batches: list[tuple[int, int, int]]) -> None:
    assert [(rows.start, rows.stop, size) for rows, size in filled_batches(count, (1, 4, 8))] == batches


# Several experts at a time -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ROUTINGS)
def test_experts_side_by_side_answer_exactly_as_in_turn(
    two_threads: Dispatcher, clips: tuple[Floats, Floats], routing: Routing
) -> None:
    assert two_threads.ways == ("in turn", "side by side")
    found = two_threads.run(*clips, routing, way="side by side")
    np.testing.assert_array_equal(found.scores, two_threads.run(*clips, routing, way="in turn").scores)


def test_one_thread_has_one_way(host: Dispatcher) -> None:
    assert host.ways == ("in turn",)
    assert isinstance(host.mixing(np.zeros((1, 1, host.grid.rows, host.grid.columns), np.float32), np.zeros(1)), OnHost)


# Which way -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def many_ways(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    monkeypatch.setattr(SessionFactory, "prefers_few_sizes", True)
    yield Dispatcher(opened, SessionFactory("cpu", threads=2))


def test_a_calibrated_bundle_has_made_its_plans_before_the_first_call(
    opened: Bundle, clips: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionFactory, "plans_anew", True)
    line = Dispatcher(opened, SessionFactory("cpu"), device="cpu")
    line.make_ready()
    monkeypatch.setattr(SessionFactory, "create", lambda *_, **__: pytest.fail("a session was opened"))
    line.run(clips[0][:1], clips[1][:1], "dense")


def test_threads_that_meet_a_new_shape_at_once_open_one_session(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionFactory, "plans_anew", True)
    saliency = Dispatcher(opened, SessionFactory("cpu"), device="cpu").saliency
    spectrogram = {"spectrogram": np.zeros((1, *opened.manifest.graph("saliency").inputs[0].shape[1:]), np.float32)}
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: id(saliency.session_for(spectrogram)), range(64)))
    assert len(found) == 1


def test_the_shapes_used_last_keep_their_sessions(opened: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SessionFactory, "plans_anew", True)
    saliency = Dispatcher(opened, SessionFactory("cpu"), device="cpu").saliency

    def session(count: int) -> object:
        return saliency.session_for({"spectrogram": np.zeros((count, 1), np.float32)})

    first, second = session(1), session(2)
    for count in range(3, SHAPES + 1):
        session(count)
    assert session(1) is first
    session(SHAPES + 1)  # the second was used longest ago
    assert session(1) is first
    assert session(2) is not second


def test_a_graph_whose_shapes_change_inside_is_no_way_where_each_is_planned_anew(
    opened: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SessionFactory, "prefers_few_sizes", True)
    assert "fused" in Dispatcher(opened, SessionFactory("cpu")).ways
    monkeypatch.setattr(SessionFactory, "plans_anew", True)
    assert "fused" not in Dispatcher(opened, SessionFactory("cpu")).ways


def test_the_fused_graph_answers_as_the_split_ones(many_ways: Dispatcher, clips: tuple[Floats, Floats]) -> None:
    assert many_ways.ways == ("in turn", "side by side", "fused")
    found, wanted = (many_ways.run(*clips, "routed", way=way) for way in ("fused", "in turn"))
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    assert list(found.ms) == ["fused"]
    assert not found.degraded.any()


@pytest.mark.parametrize(
    ("whole", "routing", "budget_ms", "way"),
    [
        ({}, "routed", None, "in turn"),
        ({"in turn": 5, "side by side": 3, "fused": 1}, "routed", None, "fused"),
        ({"in turn": 5, "side by side": 3, "fused": 4}, "routed", None, "side by side"),
        ({"in turn": 2, "side by side": 3, "fused": 4}, "routed", None, "in turn"),
        ({"in turn": 5, "side by side": 3, "fused": 1}, "dense", None, "side by side"),
        ({"in turn": 5, "side by side": 3, "fused": 1}, "routed", 60_000, "fused"),
        ({"in turn": 5, "side by side": 3, "fused": 1}, "routed", 1.5, "in turn"),  # its p99 is 2 ms
        ({"in turn": 5, "side by side": 3, "fused": 9}, "routed", 60_000, "in turn"),
    ],
)
def test_the_quickest_way_that_keeps_the_budget_is_taken(
    many_ways: Dispatcher, whole: dict[Way, float], routing: Routing, budget_ms: float | None, way: Way
) -> None:
    many_ways.whole = {name: cost(ms) for name, ms in whole.items()}
    budget = None if budget_ms is None else Budget(perf_counter() + budget_ms / 1e3, {}, "p95")
    assert many_ways.way(1, routing, budget) == way


def test_a_run_takes_the_way_that_calibration_found(
    fused_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path))
    runtime = Runtime.load(fused_bundle, provider="cpu", threads=2)
    assert runtime.dispatcher.whole == {}
    costs: Costs = measure(runtime.dispatcher, runtime.bundle.golden, (1,), rounds=20)
    assert set(costs) == names_of(runtime.dispatcher)
    costs["whole line, side by side"] = cost(0.001)
    calibration.save(Calibration(conditions=runtime.conditions, rounds=20, costs=costs))
    again = Runtime.load(fused_bundle, provider="cpu", threads=2)
    assert again.dispatcher.way(1, "routed", None) == "side by side"
    assert again.uncalibrated == ""
    scores = again.infer(again.bundle.golden["waveform"][0]).scores
    np.testing.assert_array_equal(scores, runtime.infer(again.bundle.golden["waveform"][0]).scores)


def test_a_device_is_proven_by_the_golden_answers(opened: Bundle, device: Dispatcher) -> None:
    runtime = Runtime(opened, SessionFactory("cpu"))
    runtime.dispatcher = device
    assert all(deviation.passed for deviation in verify(runtime))
