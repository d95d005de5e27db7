"""The front door for Python: train, evaluate, classify and export."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, get_args

import lightning
import msgspec
import numpy as np
import torch
from numpy.typing import ArrayLike

from xaimoe_audio.architecture import describe
from xaimoe_audio.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, save_checkpoint
from xaimoe_audio.config import SIZES, SPLITS, Budget, ModelConfig, Overrides, Split
from xaimoe_audio.data.dataset import LabelledDataset, LabelledRecording, load_dataset
from xaimoe_audio.engine import TorchEngine, resolve_device
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.policy import Facts, Policy, decide
from xaimoe_audio.policy import describe as describe_policy
from xaimoe_audio.policy.build import build, check_choices
from xaimoe_audio.profiling import Profiled, most_important, profile_dataset
from xaimoe_audio.spectrogram import BACKENDS
from xaimoe_audio.training.assess import (
    answer,
    attribute_quantiles,
    describe_usage,
    expert_usage,
    fit_normalisation,
    fit_temperatures,
)
from xaimoe_audio.training.loop import LAST, train
from xaimoe_audio.training.metrics import headline, measure
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime.audio import parse_channel
from xaimoe_runtime.console import replacing
from xaimoe_runtime.errors import ConfigError, DatasetError
from xaimoe_runtime.inference import check_routing, file_windows, infer, infer_windows
from xaimoe_runtime.result import Result
from xaimoe_runtime.schema import ROUTINGS, TaskKind

BEST = "best.pt"
RUN_CONFIG = "run_config.json"
METRICS = "metrics.json"
EXPERT_USAGE = "expert_usage.json"
PROFILE = "profile.json"
POLICY = "policy.json"
SPECTRO_CONFIG = "spectro_config.json"
ARCHITECTURE = "architecture.txt"
THRESHOLD = 0.5
"""Score from which a class counts as present (multi-label)."""


class MoEAudioClassifier:
    """A saliency-routed mixture of experts for audio.

    Args:
        task: ``single_label`` (one class a recording) or ``multi_label`` (any number).
        budget: ``accuracy`` or ``latency``: what the policy weighs more, and the larger or the smaller of two model
            sizes (``config.SIZES``).
        auto_config: let the policy choose by the dataset's profile; else ``policy.decide.DEFAULTS`` are taken.
        device: ``auto``, ``cuda`` or ``cpu``.
        overrides: ``sample_rate fmin fmax spectrogram experts k_max tile stride clip_s seed``, to choose instead of
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
        **overrides: Any,
    ) -> None:
        if task not in get_args(TaskKind):
            raise ConfigError(f"task: found {task!r}, expected {' or '.join(get_args(TaskKind))}")
        if budget not in get_args(Budget):
            raise ConfigError(f"budget: found {budget!r}, expected {' or '.join(get_args(Budget))}")
        self.task: TaskKind = task
        self.budget: Budget = budget
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

    @classmethod
    def load(cls, ckpt: str | Path, device: str = "auto") -> Self:
        """A trained classifier from its ``best.pt``; nothing in the file is executed.

        Raises:
            BundleError: the file is missing, broken or of another schema.
        """
        checkpoint = load_checkpoint(ckpt)
        info = checkpoint.info
        classifier = cls(
            info.model.task, info.budget, info.auto_config, device, **msgspec.structs.asdict(info.overrides)
        )
        classifier._checkpoint = checkpoint
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
    ) -> Self:
        """Trains on a folder of labelled recordings and writes the run folder; a run that is there is replaced.

        Args:
            dataset_dir: the folder that the file paths in the table are relative to.
            metadata_csv: table with ``filepath,split,label[,group]``; ``metadata.csv`` in the folder if None.
            epochs: passes over the training split; fewer if the validation loss stops falling.
            batch_size: clips a step.
            out_dir: where ``best.pt``, ``last.pt``, ``run_config.json``, ``profile.json``, ``policy.json``,
                ``spectro_config.json``, ``metrics.json``, ``expert_usage.json`` and ``architecture.txt`` go.
            channel: ``mix``, ``each`` (every channel is a recording of its own) or the number of a channel.
            resume: go on from ``out_dir/last.pt``.

        Raises:
            DatasetError: everything that is wrong with the dataset, with row numbers.
            ConfigError: an option or override is out of range.
        """
        folder, out = Path(dataset_dir), Path(out_dir)
        table = _table(folder, metadata_csv)
        if epochs < 1 or batch_size < 1:
            raise ConfigError(f"epochs, batch_size: found {epochs} and {batch_size}, expected 1 or more")
        if resume and not (out / LAST).is_file():
            raise ConfigError(f"{out / LAST}: no such file; expected the folder of an earlier run to resume")
        seed = self.overrides.seed or 0
        lightning.seed_everything(seed, workers=True, verbose=False)
        profiled = profile_dataset(folder, table, self.task, channel)
        profiled.defects.raise_if_any()
        profile = profiled.profile
        labels = tuple(sorted(profile.classes))
        if self.task == "single_label" and len(labels) < 2:
            raise DatasetError(f"{table}: found one class, {labels[0]!r}; expected at least two to tell apart")
        _check_audible(profiled)
        policy = decide(Facts.of(profile, self.budget), self.overrides, self.auto_config)
        config = self._build(policy, labels)
        print("\n".join([*most_important(profile.warnings), describe_policy(policy)]), file=sys.stderr)  # noqa: T201
        dataset = load_dataset(folder, table, self.task, config.frontend.sample_rate, channel)
        recipe = Recipe()
        # Channels last: the layout in which small convolutions are fastest, on CPU and GPU.
        model = MoEAudioModel(config).to(self.device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        splits = {split: dataset.split(split) for split in SPLITS}
        targets = {split: dataset.targets(items, config.labels) for split, items in splits.items()}
        fit_normalisation(model, splits["train"], self.device)
        thresholds = (THRESHOLD,) * len(config.labels)
        engine = TorchEngine(model, thresholds, self.device, str(out / BEST))
        info = CheckpointInfo(
            model=config,
            budget=self.budget,
            auto_config=self.auto_config,
            overrides=self.overrides,
            thresholds=thresholds,
            attributes=attribute_quantiles(answer(engine, splits["train"], "glance")),
            dataset_sha256=profile.dataset_sha256,
            seed=seed,
            versions=_versions(),
            metrics={},
        )
        run_config = self._run_config(config, recipe, info, epochs, batch_size, channel)
        run_config |= {"policy": policy, "profile": profile}
        if resume:
            _check_same_run(out / RUN_CONFIG, run_config)
        else:
            for name in (BEST, LAST, METRICS, EXPERT_USAGE, ARCHITECTURE):
                (out / name).unlink(missing_ok=True)
        for name, content in ((RUN_CONFIG, run_config), (PROFILE, profile), (POLICY, policy)):
            _write_json(out / name, content)
        _write_json(out / SPECTRO_CONFIG, config.frontend)
        train(
            model,
            recipe,
            (splits["train"], targets["train"]),
            (splits["val"], targets["val"]),
            epochs,
            batch_size,
            self.device,
            out,
            lambda: save_checkpoint(out / BEST, model, info),
            resume,
        )
        if not (out / BEST).is_file():
            raise DatasetError(
                f"{table}: the validation loss was never finite, so there is no model; check the recordings"
            )
        model.load_state_dict(load_checkpoint(out / BEST).model.state_dict())
        fit_temperatures(model, splits["val"], targets["val"], self.device)
        self._assess(out, model, info, {split: (splits[split], targets[split]) for split in ("val", "test")})
        self._checkpoint = load_checkpoint(out / BEST)
        return self

    def _build(self, policy: Policy, labels: tuple[str, ...]) -> ModelConfig:
        return build(policy.made, self.task, labels, FAMILIES, BACKENDS)

    def _assess(
        self,
        out: Path,
        model: MoEAudioModel,
        info: CheckpointInfo,
        data: dict[str, tuple[list[LabelledRecording], Any]],
    ) -> None:
        """Measures the trained model and writes what ``fit`` leaves in the run folder."""
        engine = TorchEngine(model, info.thresholds, self.device, str(out / BEST))
        figures = {split: self._figures(engine, *found) for split, found in data.items() if found[0]}
        usage = {split: found.pop("expert_usage") for split, found in figures.items()}
        _write_json(out / METRICS, figures)
        _write_json(out / EXPERT_USAGE, usage)
        _write(out / ARCHITECTURE, describe(model))
        metric = headline(engine.task)
        metrics = {f"{split}_{metric}": found[metric] for split, found in figures.items()}
        save_checkpoint(out / BEST, model, msgspec.structs.replace(info, metrics=metrics))

    def evaluate(
        self,
        dataset_dir: str | Path,
        metadata_csv: str | Path | None = None,
        split: Split = "test",
        routing: str = "routed",
        channel: str = "mix",
    ) -> dict[str, Any]:
        """Metrics of a split: ``accuracy``, ``macro_f1``, ``ece``, ``per_class``, ``confusion`` (single-label) or
        ``mAP`` …

        Raises:
            DatasetError: what is wrong with the dataset, or a class that the model does not know.
            ConfigError: no such split or routing.
        """
        chosen = check_routing(routing)
        if split not in SPLITS:
            raise ConfigError(f"split: found {split!r}, expected {', '.join(SPLITS)}")
        engine = self.engine
        folder = Path(dataset_dir)
        table = _table(folder, metadata_csv)
        dataset: LabelledDataset = load_dataset(
            folder, table, engine.task.kind, engine.audio.sample_rate, channel, splits=(split,), required=(split,)
        )
        items = list(dataset.items)
        answers = answer(engine, items, chosen)
        figures = measure(answers.scores, dataset.targets(items, engine.task.labels), engine.task)
        figures["expert_usage"] = expert_usage(answers, engine.experts)
        return figures

    def predict(
        self,
        audio: str | Path | ArrayLike,
        sample_rate: float | None = None,
        routing: str = "routed",
        channel: str = "mix",
        min_score: float = 0.0,
    ) -> Result:
        """The answer for a file, or for samples [n] or [B, n] at ``sample_rate`` Hz (None: the model's own).

        Raises:
            AudioError: the recording cannot be used.
            ConfigError: no such routing or channel; channel ``each`` has more than one answer and belongs to the CLI.
        """
        engine = self.engine
        if not isinstance(audio, (str, Path)):
            return infer(engine, audio, sample_rate, routing, min_score)
        number = parse_channel(channel)
        if number == "each":
            raise ConfigError("channel: predict gives one answer, expected mix or the number of a channel")
        heard = [window for _, window in file_windows(Path(audio), engine.audio, number)]
        return infer_windows(engine, [heard], check_routing(routing), min_score)

    def export(self, out: str | Path) -> dict[str, Any]:
        """Writes the bundle folder for the device and gives the export report: parity of each graph and of the whole
        line.

        Raises:
            BundleError: a graph does not answer as PyTorch does; nothing is written then.
            ConfigError: ``out`` exists already.
        """
        from xaimoe_audio.bundling import export_checkpoint

        return export_checkpoint(self._trained, Path(out))

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

    def _figures(self, engine: TorchEngine, items: list[LabelledRecording], targets: Any) -> dict[str, Any]:
        """Metrics of a split with the routed model, its usage of experts, and the headline of each routing."""
        metric = headline(engine.task)
        by_routing = {routing: answer(engine, items, routing) for routing in ROUTINGS}
        measured = {routing: measure(a.scores, targets, engine.task) for routing, a in by_routing.items()}
        return measured["routed"] | {
            "by_routing": {routing: figures[metric] for routing, figures in measured.items()},
            "expert_usage": expert_usage(by_routing["routed"], engine.experts),
        }

    def _run_config(
        self, config: ModelConfig, recipe: Recipe, info: CheckpointInfo, epochs: int, batch_size: int, channel: str
    ) -> dict[str, Any]:
        """Every choice of a run, as ``run_config.json`` has them."""
        return {
            "labels": config.labels,
            "task": self.task,
            "budget": self.budget,
            "auto_config": self.auto_config,
            "overrides": self.overrides,
            "model": config,
            "recipe": recipe,
            "epochs": epochs,
            "batch_size": batch_size,
            "channel": channel,
            "seed": info.seed,
            "device": self.device.type,
            "versions": info.versions,
            "dataset_sha256": info.dataset_sha256,
        }


def _check_audible(profiled: Profiled) -> None:
    """Raises DatasetError if nothing is heard in any training recording of a class."""
    trained = profiled.files.loc[profiled.files["split"] == "train", "label"].explode()
    silent = sorted(set(trained) - set(profiled.profile.sounds))
    if silent:
        raise DatasetError(
            f"{profiled.profile.dataset}: class(es) {', '.join(silent)}: all training recordings are silent (under "
            "-90 dB re full scale); add others, take the class out, or choose a channel if channels cancel each other"
        )


def _table(folder: Path, metadata_csv: str | Path | None) -> Path:
    return folder / "metadata.csv" if metadata_csv is None else Path(metadata_csv)


def _check_same_run(path: Path, run_config: dict[str, Any]) -> None:
    """Raises ConfigError unless the run that ``path`` tells of can go on as ``run_config``; epochs may differ."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected the folder of an earlier run to resume")
    before = msgspec.json.decode(path.read_bytes())
    now = msgspec.json.decode(msgspec.json.encode(run_config))
    fixed = ("model", "recipe", "batch_size", "channel", "seed", "dataset_sha256")
    changed = [name for name in fixed if before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{path}: the earlier run had another {', '.join(changed)}; resume with its options and data, "
            "or train into another folder"
        )


def _versions() -> dict[str, str]:
    packages = ("xai-moe-audio", "torch", "torchaudio", "lightning", "numpy", "soundfile", "soxr")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def _write_json(path: Path, content: Any) -> None:
    _write(path, msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n")
