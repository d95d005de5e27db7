"""Accuracy against the budget, on labelled recordings."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from data import noise, write_wav
from data.commands import call

from xaimoe_runtime import DatasetError, Runtime
from xaimoe_runtime.curve import Labelled, describe, draw, measure, read_labelled


def test_points_rise_from_the_floor_to_no_budget(runtime: Runtime, scenes: Path) -> None:
    items = read_labelled(scenes, "test")
    with (scenes / "metadata.csv").open(newline="") as file:
        assert len(items) == sum(row["split"] == "test" for row in csv.DictReader(file))
    points = measure(runtime, items, "p50")
    budgets = [point.budget_ms for point in points]
    assert budgets[-1] is None and budgets[:-1] == sorted(budgets[:-1])  # type: ignore[type-var]
    free = points[-1]
    assert (free.degraded, free.late) == (0, 0)
    alone = [runtime.infer_file(item.path) for item in items]
    labels = [frozenset(next(windows).result.labels) for windows in alone]  # each is one window long
    assert free.right == pytest.approx(
        sum(a == item.labels for a, item in zip(labels, items, strict=True)) / len(items)
    )
    assert all(0 <= p.pairs <= free.pairs + 1e-9 and p.p50_ms <= p.p95_ms for p in points)
    table = describe(points, len(items)).splitlines()
    assert len(table) == len(points) + 2 and table[-1].split()[0] == "none"


def test_a_floor_of_no_time_at_all_leaves_all_pairs_out(
    runtime: Runtime, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xaimoe_runtime.curve.budgets", lambda *_: [1e-3])
    tight, free = measure(runtime, read_labelled(scenes, "test")[:6], "p50")
    assert tight.pairs == 0 and tight.late == 1 and free.pairs > 0
    assert tight.degraded > 0


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_curve_is_drawn(runtime: Runtime, scenes: Path, tmp_path: Path, suffix: str) -> None:
    points = measure(runtime, read_labelled(scenes, "test")[:3], "p50")
    draw(points, tmp_path / f"curve{suffix}")
    content = (tmp_path / f"curve{suffix}").read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    assert len(list(tmp_path.iterdir())) == 1


def test_calibrate_shows_the_curve(bundle: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    out, figure = tmp_path / "curve.json", tmp_path / "curve.png"
    result = call("calibrate", bundle, "--rounds", 50, "--data", scenes, "--curve", out, "--figure", figure)
    assert result.exit_code == 0, result.stderr
    assert "budget ms" in result.stdout and figure.is_file()
    points = json.loads(out.read_bytes())
    assert points[-1]["budget_ms"] is None and len(points) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "metadata.csv: cannot be read"),
        (["--data", ".", "--split", "none"], "no recordings of split 'none'"),
        (["--curve", "a.json"], "expected --data"),
        (["--data", ".", "--curve", "."], "found a folder"),
        (["--data", ".", "--figure", "curve.doc"], "ending in .png or .svg or .pdf"),
        (["--data", ".", "--figure", "metadata.csv/curve.png"], "cannot be written"),
    ],
)
def test_wrong_use_is_told_before_anything_is_measured(
    bundle: Path, scenes: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenes)
    result = call("calibrate", bundle, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_a_recording_that_cannot_be_used_is_left_out_and_told(
    bundle: Path, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    write_wav(tmp_path / "a.wav", noise(20_000))
    label = runtime.labels[0]
    (tmp_path / "metadata.csv").write_text(f"filepath,label\nmissing.wav,{label}\na.wav,{label}\n")
    result = call("calibrate", bundle, "--rounds", 50, "--data", tmp_path, "--curve", tmp_path / "curve.json")
    assert result.exit_code == 1
    assert "1 labelled recordings" in result.stdout and "left out" in result.stderr.splitlines()[-1]
    assert "missing.wav" in result.stderr.splitlines()[-1]
    assert len(json.loads((tmp_path / "curve.json").read_bytes())) == 8
    with pytest.raises(DatasetError, match="no recording that can be used, of 1"):
        measure(runtime, read_labelled(tmp_path, "test")[:1], "p50")


def test_tables_without_splits_and_with_several_labels(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", noise(1000))
    table = tmp_path / "metadata.csv"
    table.write_text("filepath,label\na.wav,ship|rain\n")
    assert read_labelled(tmp_path, "test") == [Labelled(tmp_path / "a.wav", frozenset({"ship", "rain"}))]
    table.write_text("path,label\na.wav,ship\n")
    with pytest.raises(DatasetError, match="found the columns path, label"):
        read_labelled(tmp_path, "test")


def test_without_matplotlib_it_is_said_what_to_install(
    bundle: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = call("calibrate", bundle, "--rounds", 50, "--data", scenes, "--figure", tmp_path / "curve.png")
    assert result.exit_code == 4 and "xai-moe-audio[figures]" in result.stderr
