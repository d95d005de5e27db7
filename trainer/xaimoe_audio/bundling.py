"""What the exporter must be told about a checkpoint."""

from __future__ import annotations

import copy
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import onnxruntime
import torch

from xaimoe_audio.architecture import parts
from xaimoe_audio.checkpoint import Checkpoint
from xaimoe_audio.config import Split
from xaimoe_audio.data.dataset import evenly, load_dataset
from xaimoe_audio.engine import audio_spec, task_spec
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.run import RUN_CONFIG
from xaimoe_audio.spectrogram import backend_class
from xaimoe_audio.training.assess import batches
from xaimoe_export import (
    BundleDescription,
    ExportOptions,
    ExportReport,
    GraphModule,
    Recordings,
    check_possible,
    export_bundle,
    steps,
)
from xaimoe_export.report import describe
from xaimoe_runtime import __version__
from xaimoe_runtime.audio import window_count
from xaimoe_runtime.console import progress
from xaimoe_runtime.schema import EventSettings, ExpertSpec, FrontendSpec, PatchSpec, Provenance
from xaimoe_runtime.streams.events import check_settings

CALIBRATION, VALIDATION = 64, 500
"""Most recordings of the split that are taken, evenly over it, and about as many windows of them in all."""


@dataclass(frozen=True)
class Source:
    """Where the recordings are that an export is measured on."""

    dataset_dir: Path
    metadata_csv: Path
    channel: str


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    options: ExportOptions,
    source: Source | None = None,
    events: EventSettings | None = None,
) -> ExportReport:
    """Exports a checkpoint to the bundle folder ``out``, with a progress bar on stderr.

    Args:
        checkpoint: what to export.
        out: the bundle folder.
        options: what it is to hold.
        source: recordings to calibrate and to measure on; those of the run folder if None, and if they are still where
            they were.
        events: when a label counts as heard in a stream, unless the device is told otherwise.

    Raises:
        ConfigError: ``out`` exists or cannot be written, or the options ask for what cannot be made.
        DatasetError: the recordings cannot be used.
        BundleError: the exported graphs do not answer as PyTorch does.
    """
    model = copy.deepcopy(checkpoint.model).cpu().eval()
    description = describe_bundle(model, checkpoint, events)
    source = source or _source_of_run(checkpoint.path.parent / RUN_CONFIG)
    graphs = [
        GraphModule("frontend", model.frontend),
        GraphModule("saliency", model.glance),
        GraphModule("router", model.router),
        *(GraphModule("expert", expert, name) for name, expert in model.bank.experts.items()),
        GraphModule("head", model.head),
    ]
    config = model.config.frontend
    if backend_class(config.spectrogram).streamable:
        graphs.append(GraphModule("frames", model.frontend.frame, framing=(config.win_length, config.hop)))
        graphs.append(GraphModule("window", model.frontend.window))
    check_possible(tuple(graphs), description, options, out, calibrated=source is not None)
    calibration = validation = None
    if source is None:
        print(  # noqa: T201
            "the recordings that the model was trained on are not where they were: compared with PyTorch on made-up "
            "clips alone; give the dataset (--dataset)",
            file=sys.stderr,
        )
    else:
        calibration = _recordings(model, source, "train", CALIBRATION)
        validation = _recordings(model, source, "val", VALIDATION)
    with progress("exporting", steps(tuple(graphs), options)) as advance:
        report = export_bundle(tuple(graphs), description, out, options, calibration, validation, advance)
    print(describe(report), file=sys.stderr)  # noqa: T201
    return report


def _source_of_run(run_config: Path) -> Source | None:
    """The recordings that a run was trained on, if they are still there."""
    try:
        told = msgspec.json.decode(run_config.read_bytes(), type=_RunConfig)
    except (OSError, msgspec.DecodeError):
        return None
    found = Source(Path(told.dataset_dir), Path(told.metadata_csv), told.channel)
    return found if found.metadata_csv.is_file() and found.dataset_dir.is_dir() else None


class _RunConfig(msgspec.Struct):
    dataset_dir: str
    metadata_csv: str
    channel: str


def _recordings(model: MoEAudioModel, source: Source, split: Split, most: int) -> Recordings:
    """At most ``most`` recordings of a split, or channels of such, evenly over it; as many of the first windows of each
    as make about that many in all."""
    config = model.config
    dataset = load_dataset(
        source.dataset_dir,
        source.metadata_csv,
        config.task,
        config.frontend.sample_rate,
        source.channel,
        splits=(split,),
        required=(split,),
        most=most,
    )
    items = evenly(dataset.items, most)  # of each channel, there may be more than of files
    audio = audio_spec(config)
    held = [window_count(item.recording.length, audio) for item in items]
    windows = next((n for n in range(1, max(held)) if sum(min(of, n) for of in held) >= most), max(held))
    owners, waveforms, sources = zip(*batches(model, items, torch.device("cpu"), windows), strict=True)
    return Recordings(
        waveform=torch.cat(waveforms).numpy(),
        source=torch.cat(sources).numpy(),
        owners=torch.cat(owners).numpy(),
        targets=dataset.targets(items, config.labels),
    )


def _tools() -> dict[str, str]:
    """Versions of what has a part in a bundle's bytes."""
    found = {name: version(name) for name in ("numpy", "onnx", "onnxscript", "onnxslim")}
    found |= {
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    return {f"export-{name}": told for name, told in found.items()}


def describe_bundle(
    model: MoEAudioModel, checkpoint: Checkpoint, events: EventSettings | None = None
) -> BundleDescription:
    """The manifest's fields that follow from a checkpoint and its model, on the CPU.

    Raises:
        ConfigError: a setting of the events is out of its range, or names a label that the model has not.
    """
    info = checkpoint.info
    config, frontend = model.config, model.config.frontend
    cost = {part.name: part for part in parts(model)}
    experts = tuple(
        ExpertSpec(
            name=name,
            family=name,
            purpose=FAMILIES[name].purpose,
            band=FAMILIES[name].band,
            parameters=cost[name].parameters,
            macs=cost[name].macs,
        )
        for name in config.experts
    )
    task = task_spec(model, info.thresholds)
    return BundleDescription(
        task=task,
        audio=audio_spec(config),
        frontend=FrontendSpec(
            backend=frontend.spectrogram,
            streamable=backend_class(frontend.spectrogram).streamable,
            n_fft=frontend.n_fft,
            win_length=frontend.win_length,
            bins=frontend.bins,
            frames=frontend.frames,
            fmin=frontend.fmin,
            fmax=frontend.fmax,
            centres_hz=tuple(model.frontend.window.backend.centres().tolist()),
            context_samples=frontend.win_length - frontend.hop,
        ),
        patches=PatchSpec(source="spectrogram", grid=model.grid),
        attributes=info.attributes,
        experts=experts,
        features=config.features,
        provenance=Provenance(
            exporter_version=__version__,
            checkpoint_sha256=checkpoint.sha256,
            dataset_sha256=info.dataset_sha256,
            seed=info.seed,
            versions=info.versions | _tools(),
            metrics=info.metrics,
        ),
        events=check_settings(events or EventSettings(), task),
    )
