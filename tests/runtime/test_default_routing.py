"""The manifest's routing holds at every door of the device unless another one is chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data import write_wav
from data.bundles import EditableBundle
from data.commands import call

from xaimoe_runtime import Runtime
from xaimoe_runtime import bench as benching
from xaimoe_runtime import curve as curves
from xaimoe_runtime.illustrate import illustrate


@pytest.fixture
def glancing(editable: EditableBundle) -> Path:
    """A bundle whose manifest says that no pair runs."""
    editable.manifest["routing"] = "glance"
    return editable.save()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Pings, for which the router chooses pairs."""
    time_s = np.arange(48_000) / 16_000
    pings = 0.3 * np.sin(2 * np.pi * 1_000 * time_s) * (np.sin(2 * np.pi * 4 * time_s) > 0.5)
    return write_wav(tmp_path / "pings.wav", pings.astype(np.float32))


@pytest.mark.parametrize("command", ["infer", "stream"])
def test_commands(glancing: Path, recording: Path, command: str) -> None:
    for options, routing in (([], "glance"), (["--routing", "routed"], "routed")):
        result = call(command, glancing, recording, *options)
        assert result.exit_code == 0, result.stderr
        summary = json.loads(result.stdout.splitlines()[-1])
        assert (summary["routing"], summary["pair_share"] > 0) == (routing, routing == "routed")


def test_processes(glancing: Path, recording: Path, tmp_path: Path) -> None:
    result = call("infer", glancing, recording, "--workers", 2, "--out", tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["pairs"] == 0


def test_bench_budget_curve_and_figures(
    glancing: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime.load(glancing, provider="cpu")
    report = benching.bench(runtime, runtime.bundle.golden["waveform"][:1], seconds=0, queries=1)
    assert report.routing == "glance" and {one.pairs for one in report.scenarios} == {0}
    points = curves.measure(runtime, [curves.Labelled(recording, frozenset({"ping"}))], "p50")
    assert {point.pairs for point in points} == {0}
    drawn: list[Any] = []
    monkeypatch.setattr("xaimoe_runtime.illustrate.write_pictures", lambda heard, *_: drawn.append(heard) or [])
    illustrate(runtime, recording, "pings", tmp_path, None, "mix")
    assert not drawn[0].gates.any()
