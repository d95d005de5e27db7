"""The front door for Python: train, evaluate, classify and export."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self, get_args

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from xaimoe_audio.architecture import describe
from xaimoe_audio.checkpoint import Checkpoint, load_checkpoint
from xaimoe_audio.config import SIZES, SPLITS, Budget, Overrides, Split
from xaimoe_audio.data.dataset import LabelledDataset, load_dataset
from xaimoe_audio.engine import TorchEngine, resolve_device
from xaimoe_audio.fitting import fit
from xaimoe_audio.metrics_table import Metrics
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.policy.build import check_choices
from xaimoe_audio.run import EXPERT_USAGE, EXPLAIN
from xaimoe_audio.spectrogram import BACKENDS
from xaimoe_audio.training.assess import answer
from xaimoe_audio.training.job import Job
from xaimoe_audio.training.metrics import measure
from xaimoe_audio.training.processes import is_first_process
from xaimoe_audio.training.recipe import Recipe
from xaimoe_audio.training.usage import describe_usage, expert_usage
from xaimoe_runtime.audio import parse_channel
from xaimoe_runtime.choices import one_of, positive_integer
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.inference import check_routing, file_windows, infer, infer_windows
from xaimoe_runtime.metadata import read_metadata
from xaimoe_runtime.recording import warn_if_incomplete
from xaimoe_runtime.result import DecisionRules, Result
from xaimoe_runtime.schema import POOLS, Pool, TaskKind
from xaimoe_runtime.writing import check_folder_writable

LOG = logging.getLogger("xaimoe_audio")


class MoEAudioClassifier:
    """A saliency-routed mixture of experts for audio.

    Args:
        task: ``single_label`` (one class a recording) or ``multi_label`` (any number).
        budget: ``accuracy`` or ``latency``: what the policy weighs more, and the larger or the smaller of two model
            sizes (``config.SIZES``).
        explainability: ``gradcam`` for explanations of eight test recordings in the run folder, under ``explain/``; all
            the methods of :meth:`explain`.
        auto_config: let the policy choose by the dataset's profile; else ``policy.decide.DEFAULTS`` are taken.
        device: ``auto``, ``cuda`` or ``cpu``.
        overrides: ``sample_rate fmin fmax spectrogram experts k_max tile stride clip_s expert_width
            learning_rate saliency_teacher seed``, to choose instead of
            the library; see :class:`xaimoe_audio.config.Overrides`.

    Raises:
        ConfigError: an argument is not among the choices.
        ProviderError: ``device="cuda"`` without CUDA.
    """

    def __init__(
        self,
        task: TaskKind = "single_label",
        budget: Budget = "accuracy",
        auto_config: bool = True,
        device: str = "auto",
        explainability: Literal["gradcam"] | None = None,
        **overrides: Any,
    ) -> None:
        if task not in get_args(TaskKind):
            raise ConfigError(f"task: found {task!r}, expected {' or '.join(get_args(TaskKind))}")
        if budget not in get_args(Budget):
            raise ConfigError(f"budget: found {budget!r}, expected {' or '.join(get_args(Budget))}")
        self.task: TaskKind = task
        self.budget: Budget = budget
        if explainability not in (None, "gradcam"):
            raise ConfigError(f"explainability: found {explainability!r}, expected gradcam or None")
        self.explainability = explainability
        self.auto_config = auto_config
        self.device = resolve_device(device)
        try:
            plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in overrides.items()}
            self.overrides = msgspec.convert(plain, Overrides)
        except msgspec.ValidationError as error:
            raise ConfigError(f"overrides: {error}; expected {', '.join(Overrides.__struct_fields__)}") from error
        chosen = {k: v for k, v in msgspec.structs.asdict(self.overrides).items() if v is not None}
        check_choices({"bins": SIZES[budget].bins} | chosen, FAMILIES, BACKENDS)
        self._checkpoint: Checkpoint | None = None
        self._loaded = False

    @classmethod
    def load(cls, ckpt: str | Path, device: str = "auto") -> Self:
        """Return a trained classifier from its ``best.pt``; nothing in the file is executed.

        Args:
            ckpt: the ``best.pt``.
            device: ``auto``, ``cuda`` or ``cpu``.

        Raises:
            BundleError: the file is missing, broken or of another schema.
        """
        checkpoint = load_checkpoint(ckpt)
        info = checkpoint.info
        classifier = cls(
            info.model.task, info.budget, info.auto_config, device, **msgspec.structs.asdict(info.overrides)
        )
        classifier._checkpoint, classifier._loaded = checkpoint, True
        return classifier

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self._trained.info.model.labels

    def fit(
        self,
        dataset_dir: str | Path,
        metadata_csv: str | Path | None = None,
        epochs: int = 60,
        batch_size: int = 16,
        out_dir: str | Path = "runs/exp1",
        channel: str = "mix",
        resume: bool = False,
        devices: int = 1,
        nodes: int = 1,
        recipe: Recipe | None = None,
        teacher: str | Path | None = None,
        force: bool = False,
        allow_incomplete: bool = False,
    ) -> Self:
        """Trains on a folder of labelled recordings and writes the run folder.

        Args:
            dataset_dir: the folder that the file paths in the table are relative to.
            metadata_csv: table with ``filepath,split,label[,group]``; ``metadata.csv`` in the folder if None.
            epochs: passes over the training split; fewer if the validation loss stops falling.
            batch_size: clips a step.
            out_dir: where ``best.pt``, ``last.pt``, ``run_config.json``, ``profile.json``, ``policy.json``,
                ``spectro_config.json``, ``metrics.json``, ``expert_usage.json``, ``architecture.txt``, the confusion
                matrices and ``learning_curves.png`` go.
            channel: ``mix``, ``each`` (every channel is a recording of its own) or the number of a channel.
            resume: go on from ``out_dir/last.pt``, or from that of a training with ``force`` that was interrupted.
            devices: processes that train together on this machine, one for each GPU (or sharing the CPU's cores).
                They are started by running the caller's script again, so it must be one that can be.
            nodes: machines that train together; run the same call on each under torchrun or SLURM.
            recipe: the training's numbers, to choose all of them instead of the library.
            teacher: another audio classifier as an ONNX file, whose answers for the training recordings are learnt
                with the labels (knowledge distillation); see :class:`xaimoe_audio.training.distill.TeacherInput`.
            force: replace an earlier training in ``out_dir`` once this one is whole; other files there stay.
            allow_incomplete: also take recordings of which a part cannot be decoded, as far as they can be. Without
                this, one of them stops the training before it begins.

        Raises:
            DatasetError: everything that is wrong with the dataset, with row numbers.
            ConfigError: an option or override is out of range; ``out_dir`` holds an earlier training, and neither
                ``force`` nor ``resume`` is given; another training writes there; or this classifier was loaded, whose
                weights a training would not start from.
            BundleError: the teacher cannot be used.
            ProviderError: explanations are wanted, and captum or matplotlib is missing.
        """
        if not resume:
            self._check_untrained_start("fit")
        job = self._job(dataset_dir, metadata_csv, epochs, batch_size, out_dir, channel)
        teacher = None if teacher is None else Path(teacher)
        devices, nodes = positive_integer(devices, "devices"), positive_integer(nodes, "nodes")
        job = replace(job, recipe=recipe, teacher=teacher, devices=devices, nodes=nodes, resume=resume, force=force)
        job = replace(job, allow_incomplete=allow_incomplete)
        if self.explainability is not None:
            from xaimoe_audio.explaining import check_packages, explain_samples

            check_packages()  # before hours of training
        self._checkpoint = fit(job)
        if self.explainability is not None and is_first_process(job):
            rows = read_metadata(job.metadata_csv, job.dataset_dir, job.task).rows
            explain_samples(self.engine, rows, job.out / EXPLAIN, "all", channel)
        return self

    def tune(
        self,
        dataset_dir: str | Path,
        metadata_csv: str | Path | None = None,
        trials: int = 20,
        epochs: int = 60,
        batch_size: int = 16,
        out_dir: str | Path = "runs/tune",
        channel: str = "mix",
        report: Callable[[str], None] = print,
        allow_incomplete: bool = False,
    ) -> dict[str, Any]:
        """Search sizes and learning rate by whole trainings; continue where an earlier search in ``out_dir`` ended.

        What this classifier overrides is not searched.

        Args:
            dataset_dir: the folder that the file paths in the table are relative to.
            metadata_csv: the table; ``metadata.csv`` in the folder if None.
            trials: number of trainings, including those of a search that is continued.
            epochs: passes over the training split, of each trial, at most.
            batch_size: clips a step.
            out_dir: folder of the search, for ``tune.json`` and the trials.
            channel: ``mix``, ``each`` or the number of a channel.
            report: is called with a line about each trial.
            allow_incomplete: also take recordings of which a part cannot be decoded, as far as they can be.

        Returns:
            What ``tune.json`` holds: the ``best`` trial, the ``pareto`` front and all ``trials``, each with its
            validation score, multiply-accumulates and overrides; see :func:`xaimoe_audio.tuning.tune`.

        Raises:
            DatasetError: what is wrong with the dataset.
            ConfigError: Optuna is missing, or the folder holds another search.
        """
        if find_spec("optuna") is None:
            raise ConfigError('tune needs Optuna; install it with: pip install "xai-moe-audio[tune]"')
        trials = positive_integer(trials, "trials")
        self._check_untrained_start("tune")
        from xaimoe_audio.tuning import tune

        job = self._job(dataset_dir, metadata_csv, epochs, batch_size, out_dir, channel)
        return tune(replace(job, allow_incomplete=allow_incomplete), trials, report)

    def _check_untrained_start(self, method: str) -> None:
        """Check that no weights were loaded, which a training would not start from.

        Raises:
            ConfigError: they were.
        """
        if self._loaded:
            raise ConfigError(
                f"{method}: this classifier was loaded from {self._trained.path}, but a training always starts from "
                "random weights; to train anew, make a new MoEAudioClassifier with the options you want, and to go on "
                "with an interrupted training, call fit(..., resume=True)"
            )

    def _job(
        self,
        dataset_dir: str | Path,
        metadata_csv: str | Path | None,
        epochs: int,
        batch_size: int,
        out_dir: str | Path,
        channel: str,
    ) -> Job:
        folder = Path(dataset_dir)
        return Job(
            dataset_dir=folder,
            metadata_csv=_table(folder, metadata_csv),
            task=self.task,
            budget=self.budget,
            auto_config=self.auto_config,
            overrides=self.overrides,
            epochs=positive_integer(epochs, "epochs"),
            batch_size=positive_integer(batch_size, "batch_size"),
            out=Path(out_dir),
            channel=channel,
            device=self.device,
        )

    def evaluate(
        self,
        dataset_dir: str | Path,
        metadata_csv: str | Path | None = None,
        split: Split = "test",
        routing: str | None = None,
        channel: str = "mix",
        pool: Pool = "mean",
    ) -> Metrics:
        """Measure the model on a split.

        Args:
            dataset_dir: the folder that the file paths in the table are relative to.
            metadata_csv: the table; ``metadata.csv`` in the folder if None.
            split: ``train``, ``val`` or ``test``.
            routing: ``routed``, ``dense`` or ``glance``; ``routed`` if None.
            channel: ``mix``, ``each`` or the number of a channel.
            pool: how the scores of windows become those of a recording: ``mean``, ``max``, ``top3`` or ``lse``.
                Thresholds and temperatures were fitted to the mean.

        Returns:
            ``accuracy``, ``macro_f1``, ``ece``, ``per_class``, ``confusion`` (single-label) or ``mAP`` …, and
            ``incomplete``, the number of recordings of which a part could not be decoded: a dictionary that is printed
            as a short table.

        Raises:
            DatasetError: what is wrong with the dataset, or a class that the model does not know.
            ConfigError: no such split, routing or pool.
        """
        engine = self.engine
        chosen = check_routing(routing or engine.routing)
        one_of(POOLS, pool, "pool")
        dataset = self._split(dataset_dir, metadata_csv, split, channel)
        items = dataset.split(split)
        targets = dataset.targets(items, engine.task.labels)
        answers = answer(engine, items, chosen, pool)
        figures = Metrics(measure(answers.scores, targets, engine.task))
        figures["incomplete"] = len({item.row.path for item in items if not item.recording.complete})
        figures["expert_usage"] = expert_usage(answers, engine.experts, targets, engine.task.labels)
        return figures

    def _split(
        self, dataset_dir: str | Path, metadata_csv: str | Path | None, split: Split, channel: str
    ) -> LabelledDataset:
        """One split of a dataset, as the model hears it."""
        one_of(SPLITS, split, "split")
        folder, engine = Path(dataset_dir), self.engine
        table, rate = _table(folder, metadata_csv), engine.audio.sample_rate
        return load_dataset(folder, table, engine.task.kind, rate, channel, splits=(split,), required=(split,))

    def predict(
        self,
        audio: str | Path | ArrayLike,
        sample_rate: float | None = None,
        routing: str | None = None,
        channel: str = "mix",
        min_score: float = 0.0,
        max_novelty: float = 1.0,
        pool: Pool = "mean",
    ) -> Result:
        """Return the answer for a recording, or for a batch of recordings in memory.

        Silence has no class: ``unknown``, or no label of several.

        Args:
            audio: a file, or samples [n] or [B, n]; full scale is 1.
            sample_rate: of samples, in Hz; the model's own if None.
            routing: ``routed``, ``dense`` or ``glance``; ``routed`` if None.
            channel: of a file, ``mix`` or the number of a channel.
            min_score: 0…1; below it, ``unknown`` is answered.
            max_novelty: 0…1; above it, ``unknown`` is answered.
            pool: how the scores of windows become those of the recording: ``mean``, ``max``, ``top3`` or ``lse``.

        Raises:
            AudioError: the recording cannot be used.
            ConfigError: no such routing, pool or channel; channel ``each`` has more than one answer and belongs to the
                CLI.
        """
        engine, rules = self.engine, DecisionRules(min_score, max_novelty, pool)
        if not isinstance(audio, (str, Path)):
            return infer(engine, audio, sample_rate, routing, rules)
        number = parse_channel(channel)
        if number == "each":
            raise ConfigError("channel: predict gives one answer, expected mix or the number of a channel")
        reading = file_windows(Path(audio), engine.audio, number)
        windows = [window for _, window in reading]
        warn_if_incomplete(audio, reading.completeness)
        for sentence in reading.warnings:
            LOG.warning("%s: %s", audio, sentence)
        chosen = check_routing(routing or engine.routing)
        return infer_windows(engine, [windows], chosen, rules, warnings=reading.warnings)

    def explain(
        self,
        audio_path: str | Path,
        method: str = "gradcam",
        save_dir: str | Path | None = None,
        label: str | None = None,
        channel: str = "mix",
    ) -> dict[str, Any]:
        """What in a recording spoke for the answer, and what the router made of it.

        Of a long recording the window that speaks for the label most is explained.

        Args:
            audio_path: the recording.
            method: ``gradcam`` or ``gradxinput`` (by captum, through the whole routed model), ``saliency`` (what steers
                the router alone) or ``all``.
            save_dir: folder for ``gradcam.png``, ``gradxinput.png`` (by method), ``saliency_router.png``,
                ``patch_routing.png``, ``patch_grid.png``, each as SVG, too, and ``explain.json``; nothing is written if
                None.
            label: to be explained; the best one if None.
            channel: ``mix`` or the number of a channel.

        Returns:
            What ``explain.json`` holds: label, scores, each patch's middle and saliency, the pairs run with their
            gates, each method's mean over what a patch answers for; and ``files``, those that were written.

        Raises:
            AudioError: the recording cannot be used.
            ConfigError: no such method, label or channel, or the folder cannot be written.
            ProviderError: captum or matplotlib is missing.
        """
        from xaimoe_audio.explaining import explain_recording, numbers_of, write_explanation

        if save_dir is not None:
            check_folder_writable(Path(save_dir))
        path = Path(audio_path)
        explanation = explain_recording(self.engine, path, method, label, channel)
        numbers = numbers_of(explanation, self.engine, path)
        files = [] if save_dir is None else write_explanation(explanation, numbers, Path(save_dir))
        return numbers | {"files": [str(file) for file in files]}

    def faithfulness(
        self,
        dataset_dir: str | Path,
        metadata_csv: str | Path | None = None,
        split: Split = "test",
        save_dir: str | Path | None = None,
        recordings: int = 40,
        channel: str = "mix",
    ) -> dict[str, Any]:
        """How faithful explanations are to the model, by deletion and insertion and by Quantus's metrics: the router's
        saliency, what it learned from, Gradient x Input, Grad-CAM and a random order.

        Args:
            dataset_dir: the folder that the file paths in the table are relative to.
            metadata_csv: the table; ``metadata.csv`` in the folder if None.
            split: ``train``, ``val`` or ``test``.
            save_dir: folder for ``faithfulness.json`` and ``faithfulness.png`` (and SVG); nothing is written if None.
            recordings: how many of the split are judged, evenly over its table; a few seconds each.
            channel: ``mix``, ``each`` or the number of a channel.

        Returns:
            See :func:`xaimoe_audio.faithfulness.summarise`; and ``files``, those that were written.

        Raises:
            DatasetError: what is wrong with the dataset.
            ConfigError: no such split, no recording to be judged, or the folder cannot be written.
            ProviderError: captum, Quantus or matplotlib is missing.
        """
        from xaimoe_audio.faithfulness import judge, summarise, write

        recordings = positive_integer(recordings, "recordings")
        if save_dir is not None:
            check_folder_writable(Path(save_dir))
        items = self._split(dataset_dir, metadata_csv, split, channel).split(split)
        chosen = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, recordings).astype(int))]
        figures = summarise(judge(self.engine, chosen))
        files = [] if save_dir is None else write(figures, Path(save_dir))
        return figures | {"files": [str(file) for file in files]}

    def export(
        self,
        out: str | Path,
        precision: str = "fp32",
        fused: bool = False,
        dataset_dir: str | Path | None = None,
        metadata_csv: str | Path | None = None,
        channel: str = "mix",
        precision_plan: str | Path | None = None,
        sign: str | Path | None = None,
        triton: str | Path | None = None,
        licence: str | None = None,
        events: str | Path | None = None,
        force: bool = False,
        score_tolerance: float = 1e-4,
        accuracy_tolerance: float = 0.005,
    ) -> dict[str, Any]:
        """Writes the bundle folder for the device, and beside it ``NAME.export.json``, the report that is given back:
        of each graph its size, cost, deviation from PyTorch and time; of each precision its accuracy.

        Args:
            out: the bundle folder.
            precision: ``fp32``, ``int8`` (for CPUs) and ``fp16`` (for GPUs), comma-separated. A graph that gains no
                time by it, or would cost more than the tolerance, stays in FP32; ``precision_plan.json`` in the bundle
                says which and why.
            fused: whether the bundle holds ``fused.onnx``, too: the whole line as one graph, for hosts without Python.
            dataset_dir: recordings to calibrate and to measure on; those that the model was trained on if None, and if
                they are where they were.
            metadata_csv: their table; ``metadata.csv`` in the folder if None.
            channel: ``mix``, ``each`` or the number of a channel; with ``dataset_dir`` only.
            precision_plan: the ``precision_plan.json`` of an export, perhaps altered: obeyed instead of choosing.
            sign: Ed25519 private key in PEM that the manifest is signed with.
            triton: folder for a model repository of NVIDIA's Triton server.
            licence: identifier of the licence that the model is given out under, for its card.
            events: JSON file with the fields of :class:`xaimoe_runtime.EventSettings`, which streams go by unless they
                are told otherwise.
            force: replace a bundle that is there.
            score_tolerance: largest difference of a score from PyTorch's, in FP32.
            accuracy_tolerance: accuracy that another precision may lose on the validation recordings.

        Raises:
            BundleError: a graph does not answer as PyTorch does, or a precision loses too much. Nothing is written.
            ConfigError: ``out`` exists already, or an option makes no sense.
            DatasetError: the recordings cannot be used.
        """
        from xaimoe_audio.bundling import Source, export_checkpoint
        from xaimoe_export import ExportOptions, PrecisionPlan
        from xaimoe_runtime.streams.events import read_settings

        options = ExportOptions(
            precisions=tuple(word.strip() for word in precision.split(",")),  # type: ignore[misc]  # it checks them
            fused=fused,
            plan=None if precision_plan is None else PrecisionPlan.read(Path(precision_plan)),
            sign=None if sign is None else Path(sign),
            triton=None if triton is None else Path(triton),
            licence=licence,
            force=force,
            score_tolerance=score_tolerance,
            accuracy_tolerance=accuracy_tolerance,
        )
        if dataset_dir is None and metadata_csv is not None:
            raise ConfigError("metadata_csv: found a table without its folder; give dataset_dir as well")
        if dataset_dir is None and channel != "mix":
            raise ConfigError("channel: found a choice without recordings; give dataset_dir as well")
        folder = None if dataset_dir is None else Path(dataset_dir)
        source = None if folder is None else Source(folder, _table(folder, metadata_csv), channel)
        settings = None if events is None else read_settings(Path(events))
        report = export_checkpoint(self._trained, Path(out), options, source, settings)
        content: dict[str, Any] = msgspec.to_builtins(report)
        return content

    def print_architecture(self) -> None:
        """Prints what each part of the model takes, gives, holds and costs."""
        print(describe(self._trained.model), end="")  # noqa: T201

    def print_expert_usage(self) -> None:
        """Prints how the router spread its work over the experts, from the run folder's ``expert_usage.json``.

        Raises:
            ConfigError: the file is not beside the checkpoint.
        """
        path = self._trained.path.parent / EXPERT_USAGE
        if not path.is_file():
            raise ConfigError(f"{path}: no such file; it is written by fit, beside the checkpoint")
        usage = json.loads(path.read_text(encoding="utf-8"))
        print("\n".join(describe_usage(split, found) for split, found in usage.items()))  # noqa: T201

    @property
    def _trained(self) -> Checkpoint:
        if self._checkpoint is None:
            raise ConfigError("the classifier is not trained; call fit, or load a checkpoint")
        return self._checkpoint

    @property
    def engine(self) -> TorchEngine:
        """The trained model with the runtime's interface.

        Raises:
            ConfigError: the classifier is not trained.
        """
        return TorchEngine.of(self._trained, self.device)


def _table(folder: Path, metadata_csv: str | Path | None) -> Path:
    return folder / "metadata.csv" if metadata_csv is None else Path(metadata_csv)
