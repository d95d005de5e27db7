"""The run folder: who may write to it, and what becomes of an earlier run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from xaimoe_audio import MoEAudioClassifier, demo, fitting, run, tuning
from xaimoe_audio.config import Overrides
from xaimoe_audio.training import processes
from xaimoe_audio.training.job import Job
from xaimoe_runtime.errors import ConfigError, DatasetError
from xaimoe_runtime.file_lock import lock_folder

EARLIER = dict.fromkeys(("best.pt", "last.pt", "run_config.json", "metrics.json", "logs/metrics.csv"), "old")
FOREIGN = {"notes.txt": "mine", "bundle/manifest.json": "mine", "scenes/a.wav": "mine"}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def job(out: Path, **changed: Any) -> Job:
    values = Job(
        dataset_dir=out,
        metadata_csv=out / "metadata.csv",
        task="single_label",
        budget="latency",
        auto_config=True,
        overrides=Overrides(),
        epochs=1,
        batch_size=1,
        out=out,
        channel="mix",
        device=torch.device("cpu"),
    )
    return dataclasses.replace(values, **changed)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Training and measuring are replaced by the writing of files; ``fail`` makes one of them raise."""
    told: dict[str, Any] = {"fail": None}

    def train(inside: Job, run_folder: Path) -> tuple[None, None, None]:
        told["inside"] = inside
        run.begin(run_folder, inside.out, inside.resume)
        write(inside.out, {"run_config.json": "new"})
        if told["fail"] == "before the first epoch":
            raise DatasetError("stopped")
        write(inside.out, {"best.pt": "new", "last.pt": "new", "logs/metrics.csv": "new"})
        if told["fail"] == "later":
            raise KeyboardInterrupt
        return None, None, None

    monkeypatch.setattr(fitting, "_train", train)
    monkeypatch.setattr(fitting, "finish", lambda inside, *_: write(inside.out, {"metrics.json": "new"}))
    monkeypatch.setattr(fitting, "load_checkpoint", lambda path: path.read_text())
    return told


NEW = dict.fromkeys(EARLIER, "new")


def test_a_training_writes_to_a_new_folder(tmp_path: Path, trained: dict[str, Any]) -> None:
    assert fitting.fit(job(tmp_path / "run")) == "new"  # type: ignore[comparison-overlap]  # a stand-in's checkpoint
    assert read(tmp_path / "run") == NEW


@pytest.mark.parametrize("name", ["best.pt", "last.pt", "new_run/last.pt"])
def test_an_earlier_training_is_not_replaced_unasked(tmp_path: Path, trained: dict[str, Any], name: str) -> None:
    write(tmp_path, {name: "old"} | FOREIGN)
    with pytest.raises(ConfigError, match=f"found an earlier training .{name}.; go on with it by --resume"):
        fitting.fit(job(tmp_path))
    assert read(tmp_path) == {name: "old"} | FOREIGN


def test_force_replaces_a_run_and_nothing_else(tmp_path: Path, trained: dict[str, Any]) -> None:
    of_the_run = {"explain/line3/gradcam.png": "old", "confusion_val.png": "old", "logs/resumed_1/metrics.csv": "old"}
    write(tmp_path, EARLIER | of_the_run | FOREIGN)
    assert fitting.fit(job(tmp_path, force=True)) == "new"  # type: ignore[comparison-overlap]
    assert read(tmp_path) == NEW | FOREIGN


@pytest.mark.parametrize("fail", ["before the first epoch", "later"])
def test_a_run_stays_as_it_was_until_its_successor_is_whole(tmp_path: Path, trained: dict[str, Any], fail: str) -> None:
    write(tmp_path, EARLIER | FOREIGN)
    trained["fail"] = fail
    with pytest.raises((DatasetError, KeyboardInterrupt)):
        fitting.fit(job(tmp_path, force=True))
    assert read(tmp_path).items() >= (EARLIER | FOREIGN).items()
    assert (tmp_path / "new_run").exists() == (fail == "later")
    # What is left goes on, and takes the earlier run's place at its end.
    trained["fail"] = None
    resume = fail == "later"
    fitting.fit(job(tmp_path, force=not resume, resume=resume))
    assert trained["inside"].resume_from == (tmp_path / "new_run" / "last.pt" if resume else None)
    assert read(tmp_path) == NEW | FOREIGN


def test_a_finished_run_that_is_resumed_is_kept_meanwhile(tmp_path: Path, trained: dict[str, Any]) -> None:
    write(tmp_path, EARLIER)
    trained["fail"] = "later"
    with pytest.raises(KeyboardInterrupt):
        fitting.fit(job(tmp_path, resume=True))
    assert trained["inside"].resume_from == tmp_path / "last.pt"
    assert read(tmp_path).items() >= EARLIER.items()


def test_an_unfinished_run_goes_on_in_its_folder(tmp_path: Path, trained: dict[str, Any]) -> None:
    write(tmp_path, {"last.pt": "old", "best.pt": "old", "run_config.json": "old"})
    fitting.fit(job(tmp_path, resume=True))
    assert (trained["inside"].out, trained["inside"].resume_from) == (tmp_path, tmp_path / "last.pt")
    assert read(tmp_path) == NEW


def test_a_resumed_run_without_an_epoch_left_keeps_its_best_and_last_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, EARLIER)
    run.begin(tmp_path, tmp_path / "new_run", resume=True)
    write(tmp_path / "new_run", {"metrics.json": "new", "run_config.json": "new"})
    run.put_in_place(tmp_path)
    assert read(tmp_path) == EARLIER | {"metrics.json": "new", "run_config.json": "new"}


def test_a_swap_that_was_killed_is_finished_by_the_next_training(
    tmp_path: Path, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, EARLIER | {"confusion_val.png": "old"})
    plain, moved = Path.replace, []

    def replace(path: Path, there: Path) -> Path:
        if path.parent.name == "new_run":
            moved.append(path.name)
            if len(moved) == 3:
                raise KeyboardInterrupt  # stands for the kill
        return plain(path, there)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", replace)
        fitting.fit(job(tmp_path, force=True))
    assert (tmp_path / "new_run" / "whole.json").is_file()
    with run.locked(tmp_path):
        assert read(tmp_path) == NEW | {".training.lock": ""}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("files", [{"logs/mine.txt": "mine"}, {"metrics.json": "mine"}, {"architecture.txt": "mine"}])
def test_files_with_a_runs_names_that_no_training_wrote_are_not_replaced(
    tmp_path: Path, trained: dict[str, Any], files: dict[str, str], force: bool
) -> None:
    write(tmp_path, files)
    with pytest.raises(ConfigError, match="no training wrote these; move them, or choose another folder"):
        fitting.fit(job(tmp_path, force=force))
    assert read(tmp_path) == files


def test_a_profile_and_what_an_aborted_start_left_are_no_earlier_run(tmp_path: Path, trained: dict[str, Any]) -> None:
    write(tmp_path, {"profile.json": "p", "profile.csv": "p"})
    trained["fail"] = "before the first epoch"
    with pytest.raises(DatasetError):
        fitting.fit(job(tmp_path))
    trained["fail"] = None
    fitting.fit(job(tmp_path))
    assert read(tmp_path) == NEW | {"profile.csv": "p"}


def test_a_second_training_is_refused_at_once(tmp_path: Path, trained: dict[str, Any]) -> None:
    with run.locked(tmp_path / "run"), pytest.raises(ConfigError, match="run: another training writes there"):
        fitting.fit(job(tmp_path / "run", force=True))
    assert "inside" not in trained


def test_a_failed_start_leaves_no_folder(tmp_path: Path, trained: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"last\.pt: no such file; expected the folder of an earlier run"):
        fitting.fit(job(tmp_path / "a" / "run", resume=True))
    assert list(tmp_path.iterdir()) == []


def test_a_loaded_classifier_does_not_train_from_scratch_unasked(untrained: Path, tmp_path: Path) -> None:
    loaded = MoEAudioClassifier.load(untrained, "cpu")
    for train in (loaded.fit, loaded.tune):
        with pytest.raises(ConfigError, match=f"was loaded from {untrained}, but a training always starts from random"):
            train(tmp_path, epochs=1, out_dir=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"last\.pt: no such file"):  # to go on is another matter
        loaded.fit(tmp_path, epochs=1, out_dir=tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_second_search_and_a_second_demo_are_refused_at_once(tmp_path: Path) -> None:
    classifier = MoEAudioClassifier(budget="latency", device="cpu")
    with lock_folder(tmp_path, "busy", tuning.LOCK), pytest.raises(ConfigError, match="another search writes there"):
        classifier.tune(tmp_path, out_dir=tmp_path)
    with lock_folder(tmp_path, "busy", demo.LOCK), pytest.raises(ConfigError, match="another demo writes there"):
        demo.run_demo(None, None, tmp_path, None, "latency", "cpu", 0)


def test_a_demo_replaces_nothing_unasked(tmp_path: Path) -> None:
    write(tmp_path, {"best.pt": "old", "scenes/metadata.csv": "old"})
    with pytest.raises(ConfigError, match="found an earlier training"):
        demo.run_demo(None, None, tmp_path, None, "latency", "cpu", 0)
    assert read(tmp_path) == {"best.pt": "old", "scenes/metadata.csv": "old"}


def test_scenes_of_an_earlier_demo_stay_until_the_new_ones_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, *_: Any, **__: Any) -> Path:
        write(folder, {"audio/half.flac": "new"})
        raise KeyboardInterrupt

    write(tmp_path / "scenes", {"metadata.csv": "old", "audio/a.flac": "old"})
    monkeypatch.setattr(demo, "write_dataset", fail)
    with pytest.raises(KeyboardInterrupt):
        demo._scenes(tmp_path / "scenes", 0)
    assert read(tmp_path) == {"scenes/metadata.csv": "old", "scenes/audio/a.flac": "old"}
    write(tmp_path / "scenes", {"notes.txt": "mine"})
    with pytest.raises(ConfigError, match="found what no export wrote"):
        demo._scenes(tmp_path / "scenes", 0)


# Processes -----------------------------------------------------------------------------------------------------------

SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "batch", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
LSF = {"LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/none", "JSM_NAMESPACE_LOCAL_RANK": "2", "JSM_NAMESPACE_SIZE": "4"}


@pytest.mark.parametrize("variables", [SLURM, TORCHRUN, LSF], ids=["SLURM", "torchrun", "LSF"])
def test_a_single_process_ignores_what_a_launcher_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    import lightning

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 2)  # as lightning reads it when it is imported
    alone = job(tmp_path)
    processes.prepare_processes(alone)
    assert processes.is_first_process(alone)
    environment = processes.cluster_environment(alone)
    trainer = lightning.Trainer(accelerator="cpu", devices=1, logger=False, plugins=environment)
    assert (trainer.world_size, trainer.global_rank, trainer.is_global_zero) == (1, 0, True)
    assert rank_zero_only.rank == 0


def test_another_number_of_processes_than_the_launchers_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="devices, nodes: found 2 and 1, but SLURM started this process otherwise"):
        fitting.fit(job(tmp_path / "run", devices=2))
    assert not (tmp_path / "run").exists()


def test_a_run_with_other_signal_attributes_is_not_resumed_and_says_why(tmp_path: Path) -> None:
    current = dict.fromkeys(run.FIXED, "same") | {"model": {"frontend": {"attributes_version": 2}}}
    path = tmp_path / "run_config.json"
    run.write_json(path, current | {"model": {"frontend": {}}})  # written before definitions had numbers
    with pytest.raises(ConfigError, match=r"definition 1, expected 2; resume it with the release that began it"):
        run.check_same_run(path, current)
    run.write_json(path, current)
    run.check_same_run(path, current)
    run.write_json(path, current | {"seed": "other"})
    with pytest.raises(ConfigError, match="another seed"):
        run.check_same_run(path, current)
