"""The search for better sizes and learning rates: whole trainings, kept in a database, so that it can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import optuna
from optuna.trial import FrozenTrial, TrialState

from xaimoe_audio import run
from xaimoe_audio.data.dataset import check_trainable
from xaimoe_audio.fitting import fit
from xaimoe_audio.policy import Facts, decide
from xaimoe_audio.profiling import profile_dataset
from xaimoe_audio.training.job import Job
from xaimoe_runtime.errors import ConfigError, DatasetError
from xaimoe_runtime.file_lock import lock_folder

STORAGE = "tune.db"
REPORT = "tune.json"
STUDY = "xaimoe"
LOCK = ".tune.lock"
TILE_FRAMES = (32, 64, 96)
WIDTHS = (8, 12, 16, 24)
LEARNING_RATES = (1e-3, 1e-2)
MOST_FAILED = 3
"""Trials in a row that may fail before the search does."""
GIVEN_UP = 0.01
"""Score that the latency budget gives up for less compute."""


def tune(job: Job, trials: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Trains until there are ``trials`` finished ones in ``job.out``, and gives what ``tune.json`` says.

    Searched are the number of experts (N), how many a clip uses (K), the tile, the experts' width and the learning
    rate, for a high validation score and few multiply-accumulates, by Optuna's multi-objective tree-structured Parzen
    estimator (S. Watanabe, 2023). Experts are taken from those that the policy keeps for the dataset, in its order.
    What the user chose is not searched. A training that diverges is a failed trial, and the search goes on. One process
    may search in a folder at a time, and a lock keeps it so. ``best`` is the trial with the highest score;
    with ``budget="latency"``, the cheapest of those within 0.01 of it.

    Args:
        job: as of one training; each trial trains into a folder of its own under ``job.out``.
        trials: finished trials there are to be in the end, those of earlier calls included.
        report: is told about each trial, a line each.

    Raises:
        ConfigError: the folder holds a search of another dataset or with other choices, another search writes there, or
            a trial's folder holds a training that is not of this search.
        DatasetError: what is wrong with the dataset, or why three trials in a row failed.
    """
    busy = f"{job.out}: another search writes there; wait for it to end, or choose another folder"
    with lock_folder(job.out, busy, LOCK):
        return _search(job, trials, report)


def _search(job: Job, trials: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Run the trials that are missing; the caller holds the lock."""
    check_trainable(job.dataset_dir, job.metadata_csv, job.task)
    profiled = profile_dataset(job.dataset_dir, job.metadata_csv, job.task, job.channel)
    if not job.allow_incomplete:
        profiled.refuse_incomplete()
    profiled.defects.raise_if_any()
    made = decide(Facts.of(profiled.profile, job.budget), job.overrides, job.auto_config).made
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(f"sqlite:///{(job.out / STORAGE).resolve()}")
    done = len(_finished(_study(storage, 0)))
    study = _study(storage, job.seed + done)
    _check_same_search(study, job, profiled.profile.dataset_sha256)
    _bury(study)
    failed = 0
    while len(_finished(study)) < trials:
        trial = study.ask()
        folder = job.out / f"trial_{trial.number:03d}"
        try:
            values = _train(job, made, trial, folder)
        except BaseException as error:
            study.tell(trial, state=TrialState.FAIL)
            failed += 1
            if not isinstance(error, DatasetError) or failed >= MOST_FAILED:
                raise
            report(f"trial {trial.number}: failed, {trial.params}: {error}")
            continue
        failed = 0
        study.tell(trial, values)
        report(f"trial {trial.number}: score {values[0]:.3f}, {values[1] / 1e6:.2f} M MACs a window, {trial.params}")
    found = _report(study, job)
    run.write_json(job.out / REPORT, found)
    return found


def _study(storage: optuna.storages.BaseStorage, seed: int) -> optuna.Study:
    """The search in a database; a resumed one must not repeat the draws of its start."""
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True)
    return optuna.create_study(
        study_name=STUDY, storage=storage, sampler=sampler, directions=["maximize", "minimize"], load_if_exists=True
    )


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE,))


def _bury(study: optuna.Study) -> None:
    """Marks trials that a killed process left behind."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def _check_same_search(study: optuna.Study, job: Job, dataset: str) -> None:
    now = {
        "dataset": dataset,
        "task": job.task,
        "budget": job.budget,
        "epochs": job.epochs,
        "batch_size": job.batch_size,
        "channel": job.channel,
        "auto_config": job.auto_config,
        "overrides": json.loads(msgspec.json.encode(job.overrides)),
    }
    before = study.user_attrs or now
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{job.out / STORAGE}: the search there had another {', '.join(changed)}; go on with its options, "
            "or search in another folder"
        )
    for name, value in now.items():
        study.set_user_attr(name, value)


def _train(job: Job, made: dict[str, Any], trial: optuna.Trial, folder: Path) -> tuple[float, float]:
    """Score on the validation split, and routed multiply-accumulates a window, of one training.

    ``made`` is what the policy, or the user, chose.
    """
    overrides = job.overrides
    chosen: dict[str, Any] = {}
    if overrides.experts is None:
        chosen["experts"] = made["experts"][: trial.suggest_int("experts", 2, len(made["experts"]))]
    families = overrides.experts or chosen["experts"]
    if overrides.k_max is None:
        chosen["k_max"] = min(trial.suggest_int("k_max", 1, 4), len(families))
    if overrides.tile is None and overrides.stride is None:
        parts = trial.suggest_categorical("tile_rows", [1, 2])
        chosen["tile"] = (made["bins"] // parts, trial.suggest_categorical("tile_frames", TILE_FRAMES))
    if overrides.expert_width is None:
        chosen["expert_width"] = trial.suggest_categorical("expert_width", WIDTHS)
    if overrides.learning_rate is None:
        chosen["learning_rate"] = trial.suggest_float("learning_rate", *LEARNING_RATES, log=True)
    trial.set_user_attr("overrides", json.loads(msgspec.json.encode(chosen)))
    fit(replace(job, overrides=msgspec.structs.replace(overrides, **chosen), out=folder, resume=False))
    figures = json.loads((folder / run.METRICS).read_text(encoding="utf-8"))["val"]
    return figures.get("mAP", figures["accuracy"]), figures["macs"]["routed"]


def _report(study: optuna.Study, job: Job) -> dict[str, Any]:
    """All trials, those that no other beats in both respects, and the best."""
    trials = _finished(study)
    best = max(trials, key=lambda trial: (trial.values[0], -trial.values[1]))
    if job.budget == "latency":
        good = [trial for trial in trials if trial.values[0] >= best.values[0] - GIVEN_UP]
        best = min(good, key=lambda trial: trial.values[1])
    return {
        "best": _line(best),
        "pareto": sorted(trial.number for trial in study.best_trials),
        "trials": [_line(trial) for trial in trials],
    }


def _line(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "score": trial.values[0],
        "macs": trial.values[1],
        "overrides": trial.user_attrs["overrides"],
    }
