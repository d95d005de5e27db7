"""The search: it finishes what was asked for, goes on where it ended, and keeps to what the user chose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.run import METRICS, RUN_CONFIG
from xaimoe_audio.tuning import STORAGE, STUDY
from xaimoe_runtime.errors import ConfigError, DatasetError

TINY: dict[str, Any] = {"budget": "latency", "device": "cpu", "clip_s": 0.5, "sample_rate": 8_000, "k_max": 1}


def search(folder: Path, out: Path, trials: int, **changed: Any) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    classifier = MoEAudioClassifier(**(TINY | changed))
    found = classifier.tune(folder, trials=trials, epochs=1, batch_size=8, out_dir=out, report=lines.append)
    return found, lines


@pytest.fixture(scope="module")
def searched(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """A search of two trials, killed in a third, gone on with to three."""
    out = tmp_path_factory.mktemp("tune")
    search(few, out, 2)
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{out / STORAGE}")
    study.ask()  # a process that was killed leaves a running trial behind
    found, lines = search(few, out, 3)
    return out, found, lines


def test_a_search_goes_on_where_it_ended(searched: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, found, lines = searched
    assert [trial["number"] for trial in found["trials"]] == [0, 1, 3]
    assert len(lines) == 1 and lines[0].startswith("trial 3: score ")
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{out / STORAGE}")
    assert study.trials[2].state == TrialState.FAIL
    assert json.loads((out / "tune.json").read_text()) == found


def test_each_trial_is_a_training_with_its_overrides(searched: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, found, _ = searched
    for trial in found["trials"]:
        run = out / f"trial_{trial['number']:03d}"
        config = json.loads((run / RUN_CONFIG).read_text())
        assert config["overrides"].items() >= trial["overrides"].items()
        assert config["recipe"]["learning_rate"] == trial["overrides"]["learning_rate"]
        assert config["model"]["expert_width"] == trial["overrides"]["expert_width"]
        figures = json.loads((run / METRICS).read_text())["val"]
        assert (trial["score"], trial["macs"]) == (figures["accuracy"], figures["macs"]["routed"])
    assert len({json.dumps(trial["overrides"]) for trial in found["trials"]}) == 3


def test_what_the_user_chose_is_not_searched(searched: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, found, _ = searched
    assert all("k_max" not in trial["overrides"] for trial in found["trials"])


@pytest.mark.parametrize(("budget", "best"), [("accuracy", 2), ("latency", 1)])
def test_the_best_has_the_highest_score_or_is_the_cheapest_that_comes_near_it(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: str, best: int
) -> None:
    outcomes = iter([(0.5, 1e6), (0.895, 2e6), (0.9, 8e6), (0.9, 9e6)])
    monkeypatch.setattr("xaimoe_audio.tuning._train", lambda _job, _made, trial, _folder: _tried(trial, outcomes))
    found, lines = search(few, tmp_path, 4, budget=budget)
    assert len(lines) == 4
    assert found["best"]["number"] == best
    assert found["pareto"] == [0, 1, 2]


def _tried(trial: optuna.Trial, outcomes: Iterator[tuple[float, float]]) -> tuple[float, float]:
    trial.set_user_attr("overrides", {})
    return next(outcomes)


def test_a_training_that_diverges_is_a_failed_trial_but_not_again_and_again(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter([True, False, True, True, True])

    def train(_job: Any, _made: Any, trial: optuna.Trial, _folder: Path) -> tuple[float, float]:
        if next(numbers):
            raise DatasetError("the validation loss was never finite")
        return _tried(trial, iter([(0.5, 1e6)]))

    monkeypatch.setattr("xaimoe_audio.tuning._train", train)
    found, lines = search(few, tmp_path, 1)
    assert [line.split(",")[0] for line in lines] == ["trial 0: failed", "trial 1: score 0.500"]
    assert [trial["number"] for trial in found["trials"]] == [1]
    with pytest.raises(DatasetError, match="never finite"):
        search(few, tmp_path, 2)


def test_experts_that_the_dataset_cannot_use_are_not_searched(few: Path, tmp_path: Path) -> None:
    found, _ = search(few, tmp_path, 1, sample_rate=4_000)
    assert not {"HighbandGeneral", "NoiseRobust_HighFreq"} & set(found["trials"][0]["overrides"]["experts"])


def test_another_search_in_the_folder_is_refused(few: Path, searched: tuple[Path, dict[str, Any], list[str]]) -> None:
    with pytest.raises(ConfigError, match="the search there had another overrides; go on with its options"):
        search(few, searched[0], 4, k_max=2)


def test_no_trials_are_refused(few: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trials: found 0, expected a whole number, 1 or more"):
        search(few, tmp_path, 0)
