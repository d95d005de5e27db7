"""Writing a bundle: export every graph, compare it with PyTorch, and only then put the folder in its place."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from xaimoe_export.graphs import CONTRACT, EXAMPLE_BATCH, GraphModule, tensor_specs, to_onnx
from xaimoe_export.reference import Reference, golden_clip
from xaimoe_runtime import BundleError, ConfigError, Runtime, __version__
from xaimoe_runtime.bundle import MANIFEST
from xaimoe_runtime.providers import EXECUTION_PROVIDERS
from xaimoe_runtime.schema import (
    ROUTINGS,
    SCHEMA_VERSION,
    AttributeSpec,
    AudioSpec,
    ExpertSpec,
    FrontendSpec,
    GoldenSpec,
    GraphSpec,
    Manifest,
    PatchSpec,
    Provenance,
    Routing,
    TaskSpec,
)

Floats = NDArray[np.float32]

GOLDEN = "golden.npz"
SCORE_TOLERANCE = 1e-4
"""Largest absolute difference of a score from PyTorch's."""
GOLDEN_SEED = 20260
PARITY_CLIPS = 8
"""Synthetic clips that the whole line is compared on."""


@dataclass(frozen=True)
class BundleDescription:
    """All of a manifest that the exporter cannot read off the modules."""

    task: TaskSpec
    audio: AudioSpec
    frontend: FrontendSpec
    patches: PatchSpec
    attributes: tuple[AttributeSpec, ...]
    experts: tuple[ExpertSpec, ...]
    features: int
    provenance: Provenance
    routing: Routing = "routed"


class ExportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an export found."""

    bundle_id: str
    bytes: int
    """Of all files of the bundle."""
    graphs: dict[str, float]
    """Largest absolute difference from PyTorch of each graph's outputs, on the golden clip."""
    scores: dict[str, float]
    """Largest absolute difference of the scores from PyTorch's, by routing, over all parity clips."""


def export_bundle(
    graphs: tuple[GraphModule, ...],
    description: BundleDescription,
    out: Path,
    advance: Callable[[], None] = lambda: None,
) -> ExportReport:
    """Exports the graphs of a model to the folder ``out``; ``advance`` is called after each graph.

    The experts among ``graphs`` are in the order of ``description.experts``, which is that of the gates' last axis.

    Raises:
        ConfigError: ``out`` exists, or cannot be written.
        BundleError: the exported line differs from PyTorch by more than ``SCORE_TOLERANCE``; nothing is written then.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; remove it or export to another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another place") from error
    try:
        reference = Reference(graphs, description.patches)
        golden = _golden(reference, description.audio)
        specs = []
        for graph in graphs:
            specs.append(_write_graph(part, graph, golden))
            advance()
        manifest = _write_manifest(part, description, tuple(specs), _save_golden(part, golden))
        report = _compare(part, reference, manifest, golden)
        part.chmod(0o755)
        part.rename(out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return report


def _golden(reference: Reference, audio: AudioSpec) -> dict[str, Floats]:
    """Inputs and answers of every graph for one synthetic clip."""
    clip = torch.from_numpy(golden_clip(audio.clip_samples, audio.sample_rate, GOLDEN_SEED))[None]
    source = torch.tensor([[float(audio.sample_rate), 0.0]])
    return {name: np.ascontiguousarray(value.numpy()) for name, value in reference.answers(clip, source).items()}


def _write_graph(folder: Path, graph: GraphModule, golden: dict[str, Floats]) -> GraphSpec:
    rows = [golden[f"{graph.name}/{name}"][:1] for name in CONTRACT[graph.role][0]]
    content = to_onnx(graph, tuple(torch.from_numpy(np.repeat(row, EXAMPLE_BATCH, axis=0)) for row in rows))
    path = folder / graph.file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    inputs, outputs = tensor_specs(onnx.load_model_from_string(content), graph.axis)
    return GraphSpec(
        role=graph.role,
        file=graph.file,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        precision="float32",
        expert=graph.expert,
        inputs=inputs,
        outputs=outputs,
    )


def _save_golden(folder: Path, golden: dict[str, Floats]) -> GoldenSpec:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = dict(golden)
    np.savez_compressed(buffer, **arrays)
    content = buffer.getvalue()
    (folder / GOLDEN).write_bytes(content)
    return GoldenSpec(
        file=GOLDEN,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        tolerance=dict.fromkeys(EXECUTION_PROVIDERS, SCORE_TOLERANCE),
    )


def _write_manifest(
    folder: Path, description: BundleDescription, graphs: tuple[GraphSpec, ...], golden: GoldenSpec
) -> Manifest:
    content = {name: getattr(description, name) for name in BundleDescription.__dataclass_fields__}
    identity = f"{description.provenance.checkpoint_sha256} {description.routing} {__version__}"
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        digest="0" * 64,
        bundle_id=hashlib.sha256(identity.encode()).hexdigest(),
        graphs=graphs,
        golden=golden,
        **content,
    )
    manifest = msgspec.structs.replace(manifest, digest=manifest.compute_digest())
    raw = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    (folder / MANIFEST).write_bytes(raw)
    return manifest


def _compare(folder: Path, reference: Reference, manifest: Manifest, golden: dict[str, Floats]) -> ExportReport:
    """Loads what was written as a device would, and compares it with PyTorch.

    The clips are the golden one, silence, and noise at levels and native rates that open and close the router's masks.
    """
    runtime = Runtime.load(folder, provider="cpu")
    graphs = {}
    for name, graph in runtime.dispatcher.graphs.items():
        outputs = graph(**{tensor.name: golden[f"{name}/{tensor.name}"] for tensor in graph.spec.inputs})
        graphs[name] = max(float(np.abs(value - golden[f"{name}/{key}"]).max()) for key, value in outputs.items())
    audio = manifest.audio
    rng = np.random.default_rng(GOLDEN_SEED)
    clips = [golden["frontend/waveform"][0], np.zeros(audio.clip_samples, np.float32)]
    while len(clips) < PARITY_CLIPS:
        clip = golden_clip(audio.clip_samples, audio.sample_rate, int(rng.integers(2**31)))
        clips.append((clip * 10 ** rng.uniform(-3, 0)).astype(np.float32))
    waveform = np.stack(clips)
    rates = audio.sample_rate * np.geomspace(0.1, 2, len(clips))
    source = np.stack([rates, np.linspace(0, 0.3, len(clips))], axis=1).astype(np.float32)
    wanted = reference.answers(torch.from_numpy(waveform), torch.from_numpy(source))
    scores: dict[str, float] = {
        routing: float(np.abs(runtime.run(waveform, source, routing).scores - wanted[f"line/{routing}"].numpy()).max())
        for routing in ROUTINGS
    }
    worst = max(scores, key=lambda routing: scores[routing])
    if not scores[worst] <= SCORE_TOLERANCE:
        raise BundleError(
            f"{worst} scores of the exported graphs differ from PyTorch's by {scores[worst]:.1e}, expected at most "
            f"{SCORE_TOLERANCE:.0e}; differences by graph: "
            + ", ".join(f"{name} {value:.1e}" for name, value in graphs.items())
        )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ExportReport(bundle_id=manifest.bundle_id, bytes=size, graphs=graphs, scores=scores)
