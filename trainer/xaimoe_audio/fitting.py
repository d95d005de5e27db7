"""From a folder of labelled recordings to a run folder: profile, policy, training, calibration, measurements."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from xaimoe_audio import run
from xaimoe_audio.architecture import describe, floor_macs, parts
from xaimoe_audio.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, save_checkpoint
from xaimoe_audio.config import ModelConfig, Split
from xaimoe_audio.data.dataset import Data, LabelledRecording, check_trainable, load_dataset
from xaimoe_audio.engine import TorchEngine
from xaimoe_audio.metrics_table import closing_table, gain_over_glance
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.policy import Facts, decide
from xaimoe_audio.policy import describe as describe_policy
from xaimoe_audio.policy.build import build
from xaimoe_audio.profiling import Profiled, most_important, profile_dataset
from xaimoe_audio.spectrogram import BACKENDS
from xaimoe_audio.training.assess import answer, attribute_quantiles
from xaimoe_audio.training.background import fit_background
from xaimoe_audio.training.calibrate import THRESHOLD, fit_head, fit_thresholds
from xaimoe_audio.training.distill import OnnxTeacher, as_targets, teacher_answers
from xaimoe_audio.training.figures import write_confusion, write_curves
from xaimoe_audio.training.job import Job
from xaimoe_audio.training.loop import train
from xaimoe_audio.training.metrics import headline, measure
from xaimoe_audio.training.normalise import fit_normalisation
from xaimoe_audio.training.processes import is_first_process, prepare_processes
from xaimoe_audio.training.recipe import Recipe
from xaimoe_audio.training.usage import expert_usage, macs_run
from xaimoe_runtime.errors import ConfigError, DatasetError
from xaimoe_runtime.schema import ROUTINGS

LAUNCHED = frozenset({"TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "NODE_RANK", "GROUP_RANK"})
"""Environment variables of which a launcher of several machines sets one."""


def fit(job: Job) -> Checkpoint:
    """Trains and writes the run folder; see :meth:`xaimoe_audio.classifier.MoEAudioClassifier.fit`.

    An earlier run that may be replaced, and a finished one that is resumed, stay as they are until the new one is
    whole: its files are written to a folder in the run folder until then.
    """
    _check(job)
    prepare_processes(job)
    first, start = is_first_process(job), perf_counter()
    with run.locked(job.out) if first else nullcontext():
        if job.resume and not run.last_of(job.out).is_file():
            raise ConfigError(f"{job.out / run.LAST}: no such file; expected the folder of an earlier run to resume")
        if first and not job.resume:
            run.check_free(job.out, job.force)
        folder = run.folder_to_train_in(job.out, job.force, job.resume)
        inside = replace(job, out=folder, resume_from=run.last_of(job.out) if job.resume else None)
        try:
            trained = _train(inside, job.out)
            try:
                if first:
                    finish(inside, *trained)
                    if folder != job.out:
                        run.put_in_place(job.out)
            finally:
                if distributed.is_initialized():
                    distributed.barrier()  # the others load what the first has finished
        except BaseException:
            if first:
                run.discard_unstarted(folder)
            raise
    if first:
        print(f"took {timedelta(seconds=round(perf_counter() - start))}", file=sys.stderr)  # noqa: T201
    return load_checkpoint(job.out / run.BEST)


def _train(job: Job, run_folder: Path) -> tuple[MoEAudioModel, CheckpointInfo, dict[Split, Data]]:
    """Profiles, decides and trains into ``job.out``; gives what :func:`finish` measures."""
    check_trainable(job.dataset_dir, job.metadata_csv, job.task)
    teacher = OnnxTeacher(job.teacher) if job.teacher is not None else None
    lightning.seed_everything(job.seed, workers=True, verbose=False)
    profiled = profile_dataset(job.dataset_dir, job.metadata_csv, job.task, job.channel)
    if not job.allow_incomplete:
        profiled.refuse_incomplete()
    profiled.defects.raise_if_any()
    profile = profiled.profile
    labels = tuple(sorted(profile.classes))
    _check_audible(profiled)
    policy = decide(Facts.of(profile, job.budget), job.overrides, job.auto_config)
    config = build(policy.made, job.task, labels, FAMILIES, BACKENDS)
    print("\n".join([*most_important(profile.warnings), describe_policy(policy)]), file=sys.stderr)  # noqa: T201
    dataset = load_dataset(job.dataset_dir, job.metadata_csv, job.task, config.frontend.sample_rate, job.channel)
    data = dataset.with_targets(labels)
    recipe = job.recipe or Recipe.of(policy.made, job.budget, job.task)
    model = _model(config, job, data["train"][0])
    thresholds = (THRESHOLD,) * len(labels)
    engine = TorchEngine(model, thresholds, job.device, str(job.out / run.BEST))
    info = CheckpointInfo(
        model=config,
        budget=job.budget,
        auto_config=job.auto_config,
        overrides=job.overrides,
        thresholds=thresholds,
        attributes=attribute_quantiles(answer(engine, data["train"][0], "glance")),
        dataset_sha256=profile.dataset_sha256,
        seed=job.seed,
        versions=run.versions(),
        metrics={},
    )
    run_config = _run_config(job, config, recipe, info) | {"policy": policy, "profile": profile}
    run_config["teacher"] = None if teacher is None else {"input": teacher.input, "sha256": teacher.sha256}
    taught = None if teacher is None else as_targets(_answers(teacher, job))
    if job.resume:
        assert job.resume_from is not None
        run.check_same_run(job.resume_from.parent / run.RUN_CONFIG, run_config)
    if is_first_process(job):
        run.begin(run_folder, job.out, job.resume)
        for name, content in ((run.RUN_CONFIG, run_config), (run.PROFILE, profile), (run.POLICY, policy)):
            run.write_json(job.out / name, content)
        run.write_json(job.out / run.SPECTRO_CONFIG, config.frontend)
    train(
        model,
        job,
        recipe,
        data["train"],
        data["val"],
        lambda: save_checkpoint(job.out / run.BEST, model, info),
        taught,
    )
    return model, info, data


def _answers(teacher: OnnxTeacher, job: Job) -> NDArray[np.float32]:
    """What a teacher says of the training recordings, which it hears at its own rate."""
    heard = load_dataset(job.dataset_dir, job.metadata_csv, job.task, teacher.input.sample_rate, job.channel)
    return teacher_answers(teacher, heard.split("train"))


def _check(job: Job) -> None:
    if job.epochs < 1 or job.batch_size < 1:
        raise ConfigError(f"epochs, batch_size: found {job.epochs} and {job.batch_size}, expected 1 or more")
    if job.devices < 1 or job.nodes < 1:
        raise ConfigError(f"devices, nodes: found {job.devices} and {job.nodes}, expected 1 or more")
    if job.recipe is not None and (job.overrides.learning_rate, job.overrides.saliency_teacher) != (None, None):
        raise ConfigError(
            "recipe: has a learning rate and a saliency teacher of its own; give them there, not beside it"
        )
    if job.device.type == "cuda" and job.devices > torch.cuda.device_count():
        raise ConfigError(f"devices: found {job.devices}, this machine has {torch.cuda.device_count()} GPU(s)")
    if job.nodes > 1 and not LAUNCHED & set(os.environ):
        raise ConfigError(
            f"nodes: found {job.nodes}, but no launcher told this process which it is; run this command by torchrun or "
            "SLURM on each machine, as in: torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint "
            "HOST:29500 --no-python xaimoe-audio train ..."
        )


def _check_audible(profiled: Profiled) -> None:
    """Raises DatasetError if nothing is heard in any training recording of a class."""
    trained = profiled.files.loc[profiled.files["split"] == "train", "label"].explode().dropna()
    silent = sorted(set(trained) - set(profiled.profile.sounds))
    if silent:
        raise DatasetError(
            f"{profiled.profile.dataset}: class(es) {', '.join(silent)}: all training recordings are silent (under "
            "-90 dB re full scale); add others, take the class out, or choose a channel if channels cancel each other"
        )


def _model(config: ModelConfig, job: Job, items: list[LabelledRecording]) -> MoEAudioModel:
    model = MoEAudioModel(config).to(job.device)
    # Channels last: the layout in which small convolutions are fastest, on CPU and GPU.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    fit_normalisation(model, items, job.device)
    return model


def finish(job: Job, model: MoEAudioModel, info: CheckpointInfo, data: dict[Split, Data]) -> None:
    """Calibrates the best model on the validation split, measures it, and writes what that gives."""
    out, (items, targets) = job.out, data["val"]
    if not (out / run.BEST).is_file():
        raise DatasetError(
            f"{job.metadata_csv}: the validation loss was never finite, so there is no model; check the recordings"
        )
    model.load_state_dict(load_checkpoint(out / run.BEST).model.state_dict())
    fit_head(model, items, targets, job.device)
    fit_background(model, data["train"][0], data["val"], job.device)
    if job.task == "multi_label":
        engine = TorchEngine(model, info.thresholds, job.device, str(out / run.BEST))
        thresholds = fit_thresholds(answer(engine, items, "routed").scores, targets)
        info = msgspec.structs.replace(info, thresholds=thresholds)
    engine = TorchEngine(model, info.thresholds, job.device, str(out / run.BEST))
    figures: dict[str, Any] = {
        split: split_figures(engine, *data[split]) for split in ("val", "test") if data[split][0]
    }
    usage = {split: found.pop("expert_usage") for split, found in figures.items()}
    gains = {split: found["gain_over_glance"] for split, found in figures.items()}
    times = [found.pop("ms_of_window") for found in figures.values()]  # not kept: two equal runs have equal files
    run.write_json(out / run.METRICS, figures)
    run.write_json(out / run.EXPERT_USAGE, usage)
    run.write_text(out / run.ARCHITECTURE, describe(model))
    write_curves(out / run.LOGS, out / run.CURVES)
    for split, found in figures.items():
        if "confusion" in found:
            write_confusion(found["confusion"], engine.task.labels, out / run.CONFUSIONS[split])
    metric = headline(engine.task)
    metrics = {f"{split}_{metric}": value for split, found in figures.items() if (value := found[metric]) is not None}
    print(closing_table(figures, gains, times[-1], engine.provider), file=sys.stderr)  # noqa: T201
    save_checkpoint(out / run.BEST, model, msgspec.structs.replace(info, metrics=metrics))


def split_figures(engine: TorchEngine, items: list[LabelledRecording], targets: NDArray[Any]) -> dict[str, Any]:
    """Metrics of the routed model on a split, its compute, time and use of experts, the headline of each routing, and
    what the experts add to the glance."""
    metric, labels = headline(engine.task), engine.task.labels
    by_routing = {routing: answer(engine, items, routing) for routing in ROUTINGS}
    measured = {routing: measure(found.scores, targets, engine.task) for routing, found in by_routing.items()}
    usage = expert_usage(by_routing["routed"], engine.experts, targets, labels)
    table = parts(engine.model)
    costs = {part.name: part.macs for part in table if part.name in engine.experts}
    routed, dense = (by_routing[routing].outputs.gates for routing in ("routed", "dense"))
    return measured["routed"] | {
        "by_routing": {
            routing: {"ece": figures["ece"], metric: figures[metric]} for routing, figures in measured.items()
        },
        "macs": macs_run(routed, dense, costs, floor_macs(table)) | {"frontend": table[0].macs},
        "expert_usage": usage,
        "gain_over_glance": gain_over_glance(
            by_routing["routed"].scores, by_routing["glance"].scores, targets, engine.task
        ),
        "ms_of_window": {
            routing: sum(found.outputs.ms.values()) / len(found.owners) for routing, found in by_routing.items()
        },
    }


def _run_config(job: Job, config: ModelConfig, recipe: Recipe, info: CheckpointInfo) -> dict[str, Any]:
    """Every choice of a run, as ``run_config.json`` has them."""
    return {
        "labels": config.labels,
        "task": job.task,
        "budget": job.budget,
        "auto_config": job.auto_config,
        "overrides": job.overrides,
        "model": config,
        "recipe": recipe,
        "epochs": job.epochs,
        "batch_size": job.batch_size,
        "channel": job.channel,
        "seed": info.seed,
        "device": job.device.type,
        "versions": info.versions,
        "dataset_dir": str(job.dataset_dir.resolve()),
        "metadata_csv": str(job.metadata_csv.resolve()),
        "dataset_sha256": info.dataset_sha256,
    }
