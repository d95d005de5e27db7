"""What the exporter must be told about a checkpoint."""

from __future__ import annotations

import copy
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from xaimoe_audio.architecture import parts
from xaimoe_audio.checkpoint import Checkpoint
from xaimoe_audio.engine import audio_spec, task_spec
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.spectrogram import backend_class
from xaimoe_export import BundleDescription, GraphModule, export_bundle
from xaimoe_runtime import __version__
from xaimoe_runtime.console import progress
from xaimoe_runtime.schema import ExpertSpec, FrontendSpec, PatchSpec, Provenance


def export_checkpoint(checkpoint: Checkpoint, out: Path) -> dict[str, Any]:
    """Exports a checkpoint to the bundle folder ``out``, with a progress bar on stderr; gives the export report.

    Raises:
        ConfigError: ``out`` exists, or cannot be written.
        BundleError: the exported graphs do not answer as PyTorch does.
    """
    model = copy.deepcopy(checkpoint.model).cpu().eval()
    graphs = (
        GraphModule("frontend", model.frontend),
        GraphModule("saliency", model.glance),
        GraphModule("router", model.router),
        *(GraphModule("expert", expert, name) for name, expert in model.experts.items()),
        GraphModule("head", model.head),
    )
    with progress("exporting", len(graphs)) as advance:
        report = export_bundle(graphs, describe_bundle(model, checkpoint), out, advance)
    content: dict[str, Any] = msgspec.to_builtins(report)
    return content


def describe_bundle(model: MoEAudioModel, checkpoint: Checkpoint) -> BundleDescription:
    """The manifest's fields that follow from a checkpoint and its model, on the CPU."""
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
    return BundleDescription(
        task=task_spec(model, info.thresholds),
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
            versions=info.versions | {"export-python": platform.python_version(), "export-onnx": version("onnx")},
            metrics=info.metrics,
        ),
    )
