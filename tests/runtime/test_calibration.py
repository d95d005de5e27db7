"""Calibration: what graphs cost on this device is measured, kept, found again, and not mistaken for another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from data import bursts, write_wav
from data.commands import call

from xaimoe_runtime import Runtime, calibration
from xaimoe_runtime.calibration import Calibration, Conditions, measure
from xaimoe_runtime.costs import Costs
from xaimoe_runtime.schema import LINE


@pytest.fixture(scope="module")
def costs(runtime: Runtime) -> Costs:
    return measure(runtime.dispatcher, runtime.bundle.golden, sizes=(1, 8), rounds=20)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_graph_of_the_line_has_its_costs(runtime: Runtime, costs: Costs) -> None:
    assert set(costs) == {*LINE, *(f"expert {name}" for name in runtime.experts)}
    for cost in costs.values():
        assert cost.sizes == (1, 8)
        for p50, p95, p99 in zip(cost.p50, cost.p95, cost.p99, strict=True):
            assert 0 < p50 <= p95 <= p99


def test_percentiles_are_of_all_rounds_but_the_first(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run takes as many milliseconds as its round has been, times its size; the first round takes forever."""
    now, rounds = [0.0], [0]

    def run(*arguments: object) -> Callable[[], None]:
        def passes() -> None:
            now[0] += 1e-3 * int(arguments[-1]) * (rounds[0] or 1e9)  # type: ignore[call-overload]

        return passes

    def advance() -> None:
        rounds[0] += 1

    monkeypatch.setattr(calibration, "_run", run)
    monkeypatch.setattr(calibration, "perf_counter", lambda: now[0])
    found = measure(runtime.dispatcher, runtime.bundle.golden, sizes=(1, 8), rounds=101, advance=advance)
    for cost in found.values():
        assert cost.p50 == pytest.approx((51, 408), rel=1e-6)
        assert cost.p95 == pytest.approx((96, 768), rel=1e-6)
        assert cost.p99 == pytest.approx((100, 800), rel=1e-6)


def test_an_estimate_does_not_take_a_disturbance_for_what_a_graph_costs(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run takes a millisecond, but for those of one round, which take a second."""
    now, rounds = [0.0], [0]

    def run(*_: object) -> Callable[[], None]:
        def passes() -> None:
            now[0] += 1.0 if rounds[0] == 2 else 1e-3

        return passes

    def advance() -> None:
        rounds[0] += 1

    monkeypatch.setattr(calibration, "_run", run)
    monkeypatch.setattr(calibration, "perf_counter", lambda: now[0])
    found = measure(runtime.dispatcher, runtime.bundle.golden, (1,), calibration.ESTIMATE_ROUNDS, advance)
    assert rounds[0] > 2
    for cost in found.values():
        assert (cost.p50, cost.p95, cost.p99) == (
            pytest.approx((1.0,)),
            pytest.approx((1.5,)),
            pytest.approx((2.0,)),
        )


def test_where_sizes_are_fixed_experts_are_measured_at_these(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.dispatcher, "buckets", (2, 4))
    found = measure(runtime.dispatcher, runtime.bundle.golden, sizes=(1,), rounds=1)
    assert {cost.sizes for name, cost in found.items() if name.startswith("expert")} == {(2, 4)}
    assert {cost.sizes for name, cost in found.items() if not name.startswith("expert")} == {(1,)}


def test_progress_is_told_each_round(runtime: Runtime) -> None:
    rounds: list[None] = []
    measure(runtime.dispatcher, runtime.bundle.golden, (1,), 3, lambda: rounds.append(None))
    assert len(rounds) == 4  # the first is not counted


def test_it_is_kept_and_found_again(runtime: Runtime, costs: Costs, bundle: Path, cache: Path) -> None:
    assert "not calibrated" in runtime.uncalibrated
    path = calibration.save(Calibration(conditions=runtime.conditions, rounds=20, costs=costs))
    assert path.is_relative_to(cache)
    again = Runtime.load(bundle, provider="cpu")
    assert (again.uncalibrated, again.costs) == ("", costs)
    assert "not calibrated" in Runtime.load(bundle, provider="cpu", threads=2).uncalibrated


def test_a_stale_one_is_noticed(runtime: Runtime, costs: Costs) -> None:
    old = msgspec.structs.replace(runtime.conditions, onnxruntime="1.0.0")
    calibration.save(Calibration(conditions=old, rounds=20, costs=costs))
    found, why = calibration.load(runtime.conditions, runtime.dispatcher.graphs.keys())
    assert found is None
    assert f"onnxruntime 1.0.0 instead of {runtime.conditions.onnxruntime}" in why


def test_one_that_lacks_a_graph_is_not_used(runtime: Runtime, costs: Costs, bundle: Path) -> None:
    partly = {name: cost for name, cost in costs.items() if name != "head"}
    calibration.save(Calibration(conditions=runtime.conditions, rounds=20, costs=partly))
    again = Runtime.load(bundle, provider="cpu")
    assert "the calibration lacks head" in again.uncalibrated
    assert "head" in again.costs


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"conditions": 1}'])
def test_a_broken_one_is_told_and_not_used(runtime: Runtime, bundle: Path, content: bytes) -> None:
    path = calibration.place_of(runtime.conditions)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    again = Runtime.load(bundle, provider="cpu")
    assert again.uncalibrated.startswith(f"{path}: the calibration cannot be read")
    assert set(again.costs) == set(runtime.costs)


def test_other_bundles_devices_and_precisions_lie_elsewhere(runtime: Runtime) -> None:
    held = runtime.conditions
    other = [
        msgspec.structs.replace(held, **{name: value})
        for name, value in (("manifest", "0" * 64), ("device", "a toaster"), ("precision", "int8"), ("provider", "x"))
    ]
    assert len({calibration.place_of(one) for one in (held, *other)}) == 5


# Command line --------------------------------------------------------------------------------------------------------


def test_calibrate_prints_a_table_and_leaves_the_bundle_as_it_is(bundle: Path, cache: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    result = call("calibrate", bundle, "--rounds", 50, "--provider", "cpu")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()[1:3]] == ["frontend", "saliency"]
    assert "the floor, whatever the budget" in result.stdout
    (kept,) = cache.rglob("*.json")
    assert str(kept) in result.stderr.replace("\n", "")
    assert msgspec.json.decode(kept.read_bytes(), type=Calibration).rounds == 50
    assert before == {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def test_infer_keeps_a_budget_and_says_what_it_cost(bundle: Path, tmp_path: Path) -> None:
    recording = write_wav(tmp_path / "a.wav", bursts(40_000))
    result = call("infer", bundle, recording, "--budget-ms", 0.01, "--windows")
    *windows, whole, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert "costs are an estimate: not calibrated on this device" in result.stderr
    assert all(window["late"] for window in windows) and whole["late"]
    assert whole["left_out"] > 0
    assert whole["left_out"] == sum(window["left_out"] for window in windows)
    assert whole["degraded"] == (whole["left_out"] > 0)
    assert (summary["budget_ms"], summary["late"]) == (0.01, len(windows))
    assert summary["degraded"] == sum(window["degraded"] for window in windows)
    assert summary["left_out_share"] == (1.0 if whole["left_out"] else 0.0)
    result = call("infer", bundle, recording, "--budget-ms", 60_000)
    whole, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert (whole["late"], whole["degraded"], summary["late"], summary["left_out_share"]) == (False, False, 0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--budget-ms", 0),
        ("--budget-ms", "nan"),
        ("--budget-ms", "inf"),
        ("--budget-ms", "soon"),
        ("--percentile", "p42"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(bundle: Path, arguments: tuple[object, ...]) -> None:
    assert call("infer", bundle, "a.wav", *arguments).exit_code == 2


def test_a_cache_folder_that_cannot_be_written_is_told(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "file"))
    result = call("calibrate", bundle, "--rounds", 50, "--provider", "cpu")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_conditions_know_this_device(runtime: Runtime) -> None:
    held: Conditions = runtime.conditions
    assert held.device.endswith("cores") and len(held.device) > 10
    assert held.manifest == runtime.manifest.digest
    assert np.all([held.threads == 1, held.provider == "cpu"])
