"""The search: it finishes what was asked for, goes on where it ended, and keeps to what the user chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.run import METRICS, RUN_CONFIG
from xaimoe_audio.tuning import STORAGE, STUDY
from xaimoe_runtime.errors import ConfigError

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


def test_the_best_is_on_the_front(searched: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, found, _ = searched
    top = max(trial["score"] for trial in found["trials"])
    assert found["best"]["score"] >= top - 0.01
    assert found["best"] in found["trials"]
    for number in found["pareto"]:
        (mine,) = (trial for trial in found["trials"] if trial["number"] == number)
        assert not any(t["score"] > mine["score"] and t["macs"] < mine["macs"] for t in found["trials"])


def test_another_search_in_the_folder_is_refused(few: Path, searched: tuple[Path, dict[str, Any], list[str]]) -> None:
    with pytest.raises(ConfigError, match="the search there had another overrides; go on with its options"):
        search(few, searched[0], 4, k_max=2)


def test_no_trials_are_refused(few: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trials: found 0, expected 1 or more"):
        search(few, tmp_path, 0)
