"""Accuracy against the budget, on labelled recordings."""

from __future__ import annotations

import csv
import json
import logging
import sys
from pathlib import Path

import pytest
from data import bursts, write_wav
from data.commands import call

from xaimoe_runtime import DatasetError, Runtime
from xaimoe_runtime.curve import Labelled, describe, draw, measure, read_labelled
from xaimoe_runtime.schema import TaskSpec

MULTI = TaskSpec(kind="multi_label", labels=("rain", "ship"), thresholds=(0.5, 0.5), temperatures=(1.0, 1.0))
SINGLE = TaskSpec(kind="single_label", labels=("rain", "ship"), thresholds=(0.5, 0.5), temperatures=(1.0, 1.0))


def labelled(runtime: Runtime, folder: Path) -> list[Labelled]:
    return read_labelled(folder, "test", runtime.task)


def test_points_rise_from_the_floor_to_no_budget(runtime: Runtime, scenes: Path) -> None:
    items = labelled(runtime, scenes)
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
    tight, free = measure(runtime, labelled(runtime, scenes)[:6], "p50")
    assert tight.pairs == 0 and tight.late == 1 and free.pairs > 0
    assert tight.degraded > 0


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_curve_is_drawn(runtime: Runtime, scenes: Path, tmp_path: Path, suffix: str) -> None:
    points = measure(runtime, labelled(runtime, scenes)[:3], "p50")
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
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--data", ".", "--split", "none"], "'none'"),
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
    assert message in result.stderr


def test_a_recording_that_cannot_be_used_is_left_out_and_told(
    bundle: Path, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    write_wav(tmp_path / "a.wav", bursts(20_000))
    (tmp_path / "broken.wav").write_text("no recording")
    label = runtime.labels[0]
    (tmp_path / "metadata.csv").write_text(f"filepath,label\nbroken.wav,{label}\na.wav,{label}\n")
    result = call("calibrate", bundle, "--rounds", 50, "--data", tmp_path, "--curve", tmp_path / "curve.json")
    assert result.exit_code == 1
    assert "1 labelled recordings" in result.stdout and "left out" in result.stderr.splitlines()[-1]
    assert "broken.wav" in result.stderr.splitlines()[-1]
    assert len(json.loads((tmp_path / "curve.json").read_bytes())) == 8
    with pytest.raises(DatasetError, match="no recording that can be used, of 1"):
        measure(runtime, labelled(runtime, tmp_path)[:1], "p50")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder with the files a.wav … d.wav."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name in "abcd":
        write_wav(folder / f"{name}.wav", bursts(1000))
    return folder


def write_table(folder: Path, *rows: str) -> None:
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_tables_without_splits_and_with_several_labels(folder: Path) -> None:
    write_table(folder, "filepath,label", "a.wav,ship|rain")
    assert read_labelled(folder, "test", MULTI) == [Labelled(folder / "a.wav", frozenset({"ship", "rain"}))]
    write_table(folder, "path,label", "a.wav,ship")
    with pytest.raises(DatasetError, match="found the columns path, label; missing: filepath"):
        read_labelled(folder, "test", MULTI)


def test_the_table_is_read_as_for_training(folder: Path) -> None:
    """Blanks, semicolons and tables from Windows gave 0 % right."""
    write_table(folder, "Filepath; Split; Label", " a.wav ; test ; ship ", "b.wav; train ; rain", "c.wav;test;", ";;")
    items = read_labelled(folder, "test", MULTI)
    assert items == [Labelled(folder / "a.wav", frozenset({"ship"})), Labelled(folder / "c.wav", frozenset())]


def test_labels_that_the_bundle_does_not_know_are_defects(folder: Path) -> None:
    write_table(folder, "filepath,split,label", "a.wav,test,Ship", "b.wav,test,whale", "c.wav,test,rain")
    with pytest.raises(DatasetError) as caught:
        read_labelled(folder, "test", SINGLE)
    assert str(caught.value).splitlines()[1].strip() == (
        "rows 2-3: is not a label of the bundle, which has rain, ship (2 rows): "
        "label 'Ship' (meant 'ship'?), label 'whale'"
    )


def test_without_a_task_any_labels_are_read(folder: Path) -> None:
    write_table(folder, "filepath,split,label", "a.wav,test, whale|ship ", "b.wav,test,", "c.wav,train,rain")
    items = read_labelled(folder, "test")
    assert items == [Labelled(folder / "a.wav", frozenset({"ship", "whale"})), Labelled(folder / "b.wav", frozenset())]


def test_labels_that_look_alike_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_table(folder, "filepath,split,label", "a.wav,test,ship", "b.wav,test,Ship")
    with caplog.at_level(logging.WARNING, logger="xaimoe_runtime"):
        assert len(read_labelled(folder, "test")) == 2
    (message,) = caplog.messages
    assert "'Ship'" in message and "'ship'" in message


def test_labels_of_an_older_bundle_may_have_another_normal_form(folder: Path) -> None:
    task = TaskSpec(kind="single_label", labels=("e\u0301pave", "ship"), thresholds=(0.5, 0.5), temperatures=(1.0, 1.0))
    write_table(folder, "filepath,split,label", "a.wav,test,\u00e9pave", "b.wav,test,e\u0301pave")
    items = read_labelled(folder, "test", task)
    assert [item.labels for item in items] == [{"e\u0301pave"}, {"e\u0301pave"}]


def test_paths_outside_of_the_dataset_are_refused(folder: Path) -> None:
    write_wav(folder.parent / "secret.wav", bursts(1000))
    write_table(folder, "filepath,split,label", "../secret.wav,test,ship", f"{folder.parent}/secret.wav,test,ship")
    with pytest.raises(DatasetError, match=r"rows 2-3: lies outside .*dataset"):
        read_labelled(folder, "test", SINGLE)


def test_a_missing_label_is_refused_for_one_label_a_recording(folder: Path) -> None:
    write_table(folder, "filepath,split,label", "a.wav,test,")
    with pytest.raises(DatasetError, match="row 2: label is empty"):
        read_labelled(folder, "test", SINGLE)


def test_an_empty_split_is_named(folder: Path) -> None:
    write_table(folder, "filepath,split,label", "a.wav,train,ship")
    with pytest.raises(DatasetError, match="no recordings of split 'test'"):
        read_labelled(folder, "test", SINGLE)


def test_without_matplotlib_it_is_said_what_to_install(
    bundle: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XAIMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = call("calibrate", bundle, "--rounds", 50, "--data", scenes, "--figure", tmp_path / "curve.png")
    assert result.exit_code == 4 and "xai-moe-audio[figures]" in result.stderr
