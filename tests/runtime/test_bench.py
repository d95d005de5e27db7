"""Timing a bundle: scenarios that last as they should, and numbers that fit together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data import bursts, write_wav
from data.commands import call

from xaimoe_runtime import Runtime
from xaimoe_runtime.bench import SCENARIOS, bench, clips_of, describe


def test_each_scenario_lasts_and_has_queries_as_told(runtime: Runtime) -> None:
    clips = clips_of(runtime, [])
    done: list[int] = []
    report = bench(runtime, clips, "routed", seconds=0.2, queries=3, advance=lambda: done.append(1))
    assert [(one.name, one.clips) for one in report.scenarios] == list(SCENARIOS.items())
    assert len(done) == 3
    for one in report.scenarios:
        assert one.queries >= 3
        assert one.seconds >= 0.15  # what lies between queries is not counted
        assert 0 < one.p50_ms <= one.p90_ms <= one.p99_ms
        assert one.clips_per_s == pytest.approx(one.clips * one.queries / one.seconds)
    assert report.scenarios[0].queries > 3


def test_the_glance_runs_no_pairs_and_dense_runs_most(runtime: Runtime) -> None:
    clips = clips_of(runtime, [])
    glance, dense = (bench(runtime, clips, routing, 0.0, 2) for routing in ("glance", "dense"))
    assert {one.pairs for one in glance.scenarios} == {0}
    routed = runtime.run(clips, np.float32([[runtime.audio.sample_rate, 0]]), "dense")
    assert dense.scenarios[0].pairs == np.count_nonzero(routed.gates)


def test_recordings_are_taken_in_turn(runtime: Runtime, tmp_path: Path) -> None:
    paths = [write_wav(tmp_path / f"{i}.wav", bursts(4000, i)) for i in range(3)]
    clips = clips_of(runtime, paths)
    assert clips.shape == (3, runtime.audio.clip_samples)
    assert not np.array_equal(clips[0], clips[1])
    assert bench(runtime, clips, "routed", 0.0, 4).recordings == 3


def test_the_command_writes_json_and_a_table(bundle: Path, tmp_path: Path) -> None:
    options = ("--seconds", "0", "--queries", "2", "--provider", "cpu")
    result = call("bench", bundle, *options)
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["provider"], found["routing"], found["recordings"]) == ("cpu", "routed", 1)
    assert [one["name"] for one in found["scenarios"]] == list(SCENARIOS)
    assert "single stream" in result.stderr
    result = call("bench", bundle, *options, "--out", tmp_path / "bench.json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads((tmp_path / "bench.json").read_text())["bundle_id"] == found["bundle_id"]


def test_a_star_marks_what_a_scenario_is_judged_by(runtime: Runtime) -> None:
    lines = describe(bench(runtime, clips_of(runtime, []), "routed", 0.0, 2)).splitlines()[2:]
    assert [line.count("*") for line in lines] == [1, 1, 1]


def test_a_recording_that_is_not_there_is_an_error(bundle: Path, tmp_path: Path) -> None:
    result = call("bench", bundle, tmp_path / "gone.wav", "--queries", "1", "--seconds", "0")
    assert (result.exit_code, "gone.wav" in result.stderr) == (1, True)
