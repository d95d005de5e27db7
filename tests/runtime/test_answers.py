"""What recordings are answered with: pools, novelty, hops and the bundle's routing, by every door."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from data import noise, write_wav
from data.engines import CLIP, LABELS, RATE, LevelEngine
from typer.testing import CliRunner

from xaimoe_runtime import ConfigError
from xaimoe_runtime.archive import tables
from xaimoe_runtime.archive.command import MAX_WARNINGS, ChannelWarnings
from xaimoe_runtime.archive.command import classify as classify_recordings
from xaimoe_runtime.archive.paths import find_recordings
from xaimoe_runtime.archive.run import here
from xaimoe_runtime.cli import app
from xaimoe_runtime.files import FileClassifier
from xaimoe_runtime.inference import infer
from xaimoe_runtime.records import ResultRecord, SummaryRecord
from xaimoe_runtime.result import MIN_PRESENT, UNKNOWN, DecisionRules, decide
from xaimoe_runtime.schema import ROUTINGS, Pool, Routing, TaskSpec

SINGLE = TaskSpec(kind="single_label", labels=LABELS, thresholds=(0.5,) * 3, temperatures=(1.0, 1.0))


def calls_in_background(windows: int, calls: list[int]) -> Any:
    levels = np.full(windows, 0.05, np.float32)
    levels[calls] = 0.6
    return noise(windows * CLIP) * 10 * np.repeat(levels, CLIP)


@pytest.fixture
def rare_calls(tmp_path: Path) -> Path:
    """Forty windows of background, three with calls."""
    return write_wav(tmp_path / "rare.wav", calls_in_background(40, [7, 20, 31]), RATE)


def classify(path: Path, engine: LevelEngine | None = None, **options: Any) -> tuple[ResultRecord, SummaryRecord]:
    *_, result, summary = FileClassifier(engine or LevelEngine(), **options).records([path])
    assert isinstance(result, ResultRecord) and isinstance(summary, SummaryRecord)
    return result, summary


# Pools ---------------------------------------------------------------------------------------------------------------


def test_the_mean_hides_rare_calls_and_the_maximum_beside_it_shows_them(rare_calls: Path) -> None:
    result, summary = classify(rare_calls)
    assert (result.labels, summary.pool) == (("background",), "mean")
    assert result.scores["call"] < 0.2 < 0.8 < result.max_scores["call"]
    assert result.max_at_s["call"] in [pytest.approx(i * CLIP / RATE) for i in (7, 20, 31)]


@pytest.mark.parametrize("pool", ["max", "top3", "lse"])
def test_other_pools_name_rare_calls(rare_calls: Path, pool: Pool) -> None:
    result, summary = classify(rare_calls, pool=pool)
    assert "call" in result.labels and result.scores["call"] >= MIN_PRESENT
    assert summary.pool == pool
    assert all(0 <= score <= 1 for score in result.scores.values())


def test_windows_are_decided_one_by_one_whatever_the_pool(rare_calls: Path) -> None:
    *windows, _, _ = FileClassifier(LevelEngine(), pool="max", windows=True).records([rare_calls])
    assert [i for i, window in enumerate(windows) if window.labels == ("call",)] == [7, 20, 31]  # type: ignore[union-attr]


def test_several_labels_of_a_single_label_model_are_present_in_other_windows() -> None:
    scores = np.float32([0.9, 0.6, 0.3])
    assert decide(scores, SINGLE, DecisionRules(pool="max")) == ("background", "call")
    assert decide(scores, SINGLE) == ("background",)
    assert decide(scores / 3, SINGLE, DecisionRules(pool="max")) == ("background",)


def test_the_best_labels_of_each_kind_are_kept(rare_calls: Path) -> None:
    result, _ = classify(rare_calls, top_k=1)
    assert list(result.scores) == ["background"]
    assert list(result.max_scores) == list(result.max_at_s) == ["call"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "median"}, "pool: found 'median', expected mean, max, top3, lse"),
        ({"max_novelty": 1.5}, "max_novelty: found 1.5, expected 0 to 1"),
        ({"max_novelty": float("nan")}, "max_novelty: found nan, expected 0 to 1"),
        ({"min_score": -0.1}, "min_score: found -0.1, expected 0 to 1"),
    ],
)
def test_rules_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FileClassifier(LevelEngine(), **options)


# Novelty -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_novelty", "labels"), [(1.0, ("call",)), (0.5, ("call",)), (0.05, (UNKNOWN,))])
def test_what_is_too_novel_is_unknown_and_keeps_its_scores(
    max_novelty: float, labels: tuple[str, ...], tmp_path: Path
) -> None:
    sound = noise(2 * CLIP, level=0.5)
    result, _ = classify(write_wav(tmp_path / "a.wav", sound, RATE), max_novelty=max_novelty)
    array = infer(LevelEngine(), sound, RATE, rules=DecisionRules(max_novelty=max_novelty))
    assert result.labels == array.labels == labels
    assert result.scores["call"] > 0.7 and 0.05 < result.novelty < 0.5


def test_silence_is_not_novel() -> None:
    assert infer(LevelEngine(), np.zeros(CLIP, np.float32), RATE).novelty == 0


def test_the_novelty_of_a_recording_is_that_of_what_sounds(tmp_path: Path) -> None:
    sound = noise(2 * CLIP, level=3)
    alone, _ = classify(write_wav(tmp_path / "alone.wav", sound, RATE))
    padded, _ = classify(write_wav(tmp_path / "padded.wav", np.concatenate([np.zeros(6 * CLIP), sound]), RATE))
    assert padded.novelty == pytest.approx(alone.novelty, abs=1e-6) and alone.novelty > 0.8


# Hops ----------------------------------------------------------------------------------------------------------------


def test_a_hop_within_the_clip_skips_nothing(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(3 * CLIP + 77), RATE)
    for hop_s in (None, CLIP / RATE, CLIP / RATE / 4):
        result, summary = classify(path, hop_s=hop_s)
        assert (result.skipped_s, summary.skipped_s) == (0, 0)
        assert summary.audio_s == pytest.approx((3 * CLIP + 77) / RATE)


def test_a_resampled_recording_skips_nothing_by_rounding(tmp_path: Path) -> None:
    result, _ = classify(write_wav(tmp_path / "a.wav", noise(3_001), 1_499))
    assert result.skipped_s == 0


# Routing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_bundles_routing_holds_unless_another_is_chosen(routing: Routing, rare_calls: Path) -> None:
    engine = LevelEngine(routing=routing)
    _, summary = classify(rare_calls, engine)
    infer(engine, noise(CLIP), RATE)
    assert (summary.routing, set(engine.routings)) == (routing, {routing})
    _, chosen = classify(rare_calls, LevelEngine(routing=routing), routing="glance")
    assert chosen.routing == "glance"


# Tables and stderr ---------------------------------------------------------------------------------------------------


def test_tables_have_a_column_for_each_maximum_and_for_silence(rare_calls: Path, tmp_path: Path) -> None:
    silent = write_wav(tmp_path / "reversed.wav", np.stack([noise(CLIP), -noise(CLIP)], axis=1), RATE)
    records = list(FileClassifier(LevelEngine()).records([rare_calls, silent]))
    tables.write(records, LABELS, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    result = records[0]
    assert isinstance(result, ResultRecord)
    assert {label: float(first[f"max:{label}"]) for label in LABELS} == result.max_scores
    assert {label: float(first[f"max_at_s:{label}"]) for label in LABELS} == result.max_at_s
    assert (first["silent"], first["warnings"], float(first["novelty"])) == ("False", "", result.novelty)
    assert (second["silent"], second["labels"], second["silent_windows"]) == ("True", UNKNOWN, "1")
    assert second["warnings"].startswith("the channels cancel")


def test_warnings_of_many_recordings_are_cut_short(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_wav(tmp_path / "reversed.wav", np.stack([noise(CLIP), -noise(CLIP)], axis=1), RATE)
    classifier, warnings = FileClassifier(LevelEngine()), ChannelWarnings()
    answers = warnings.noting(lambda paths: ((one, classifier.classify(one)) for one in paths))
    assert len(list(answers([path] * (MAX_WARNINGS + 5)))) == MAX_WARNINGS + 5
    warnings.write()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == MAX_WARNINGS + 1
    assert lines[0].startswith(f"{path}: the channels cancel")
    assert lines[-1] == "5 more recordings with warnings; see their records"


def test_old_records_are_still_read() -> None:
    """A run that an earlier version began goes on: its records have none of the newer fields."""
    old = {
        "kind": "result", "path": "a.wav", "labels": ["call"], "scores": {"call": 0.9}, "novelty": 0.1, "start_s": 0.0,
        "end_s": 1.0, "degraded": False, "late": False, "ms": 1.0, "pairs": 2, "left_out": 0, "channel": None,
        "windows": 1,
    }  # fmt: skip
    record = msgspec.json.decode(json.dumps(old), type=ResultRecord)
    assert (record.silent, record.max_scores, record.skipped_s, record.warnings) == (False, {}, 0, ())


def test_help_names_the_options() -> None:
    for command in ("infer", "stream"):
        text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        assert "--max-novelty" in text
        assert ("--pool" in text) == (command == "infer")


def test_a_run_says_on_stderr_what_it_skips_and_which_channels_are_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write_wav(tmp_path / "reversed.wav", np.stack([noise(CLIP), -noise(CLIP)], axis=1), RATE)
    classifier = FileClassifier(LevelEngine(), hop_s=2 * CLIP / RATE)
    classify_recordings(classifier, here(classifier), find_recordings([path]), None, False, {})
    lines = capsys.readouterr().err.splitlines()
    assert "hop: found 0.8 s, longer than the model's clip of 0.4 s" in lines[1]
    assert [line for line in lines if line.startswith(f"{path}: the channels cancel")]
