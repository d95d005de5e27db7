"""The contracts that leave the process: the bundle's manifest and the JSON Lines records.

Their JSON Schemas lie beside this file in ``schemas/``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from xaimoe_runtime.grid import PatchGrid

SCHEMA_VERSION = 1
"""Version of the manifest that this release writes, and the newest that it reads."""

TaskKind = Literal["single_label", "multi_label"]
Routing = Literal["routed", "dense", "glance"]
"""``routed``: gates as they are; ``dense``: all compatible pairs; ``glance``: no pair, the prior alone."""
ROUTINGS: tuple[Routing, ...] = ("routed", "dense", "glance")
Role = Literal["frontend", "saliency", "router", "expert", "head", "frames", "window"]
"""``frames`` and ``window`` are the two stages of ``frontend``, for streams."""

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class TaskSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is answered."""

    kind: TaskKind
    labels: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Class names, in the order of the scores."""
    thresholds: tuple[Share, ...]
    """Score from which a class counts as present, per class; multi-label only."""
    temperatures: tuple[float, float]
    """Calibration of the prior's and of the experts' logits; already inside the head graph."""


class AudioSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model listens to."""

    sample_rate: Count
    """Rate of the waveform input, in Hz."""
    clip_samples: Count
    """Samples S of a clip."""
    frame_hop: Count
    """Samples from frame to frame."""
    window_hop: Count
    """Default step from window to window over long audio, in samples; a whole number of frame hops."""


class FrontendSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the spectrogram is made."""

    backend: str
    streamable: bool
    """Whether frames can be computed once and shared by overlapping windows."""
    n_fft: Count
    """Length of the DFT."""
    win_length: Count
    """Samples a frame sees."""
    bins: Count
    """Height F of the spectrogram."""
    frames: Count
    """Width T of the spectrogram."""
    fmin: float
    fmax: float
    context_samples: Annotated[int, Meta(ge=0)]
    """Samples a frame reaches beyond its own hop."""


class AttributeSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signal attribute and how it was distributed over the training split, at the model's rate."""

    name: str
    unit: str
    q05: float
    q50: float
    q95: float


class TensorSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of a graph, float32."""

    name: str
    shape: tuple[int | str, ...]
    """Sizes; a string names a dynamic axis."""


class GraphSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ONNX file."""

    role: Role
    file: str
    """Path inside the bundle, with forward slashes."""
    sha256: Sha256
    bytes: Count
    precision: Literal["float32"]
    expert: str | None = None
    """Name of the expert, for role ``expert``."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ExpertSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One expert, in the order of the gates' last axis."""

    name: str
    family: str
    purpose: str
    band: tuple[Share, Share]
    """Part of the tile's height it looks at, from the bottom."""
    parameters: Annotated[int, Meta(ge=0)]
    macs: Annotated[int, Meta(ge=0)]
    """Multiply-accumulates for one patch."""


class PatchSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where patches are cut from."""

    source: Literal["spectrogram", "feature_map"]
    grid: PatchGrid


class GoldenSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The synthetic clip with the answer of every graph to it."""

    file: str
    sha256: Sha256
    bytes: Count
    tolerance: dict[str, float]
    """Largest absolute deviation of a score, by provider."""


class Provenance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bundle comes from."""

    exporter_version: str
    checkpoint_sha256: Sha256
    dataset_sha256: Sha256
    seed: int
    versions: dict[str, str]
    metrics: dict[str, float]


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``manifest.json`` of a bundle."""

    schema_version: Count
    digest: Sha256
    """Of this manifest, as :meth:`compute_digest` has it; a manifest that was altered does not fit its own."""
    bundle_id: Sha256
    """Of checkpoint, export options and exporter version."""
    task: TaskSpec
    audio: AudioSpec
    frontend: FrontendSpec
    patches: PatchSpec
    attributes: tuple[AttributeSpec, ...]
    experts: tuple[ExpertSpec, ...]
    routing: Routing
    """Routing used unless another is asked for."""
    features: Count
    """Length D of an expert's answer."""
    graphs: tuple[GraphSpec, ...]
    golden: GoldenSpec
    provenance: Provenance

    def compute_digest(self) -> str:
        """SHA-256 of the manifest as compact JSON, its ``digest`` taken as 64 zeros."""
        blank = msgspec.json.encode(msgspec.structs.replace(self, digest="0" * 64))
        as_read = msgspec.json.decode(blank, type=Manifest)  # where an int stands for a float, it is a float then
        return hashlib.sha256(msgspec.json.encode(as_read)).hexdigest()

    def graph(self, role: Role, expert: str | None = None) -> GraphSpec:
        """The graph of a role, or of one expert; ``KeyError`` when the bundle has none."""
        for graph in self.graphs:
            if graph.role == role and graph.expert == expert:
                return graph
        raise KeyError(role if expert is None else f"{role} {expert}")


Seconds = Annotated[float, Meta(ge=0)]


class WindowRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="window"):
    """What was heard in one window of a recording."""

    path: str
    labels: tuple[str, ...]
    scores: dict[str, Share]
    start_s: Seconds
    end_s: Seconds
    degraded: bool
    """Whether pairs were left out."""
    late: bool
    """Whether the answer came after the deadline."""
    ms: Seconds
    """Milliseconds from samples at the model's rate to scores; decoding and resampling excluded."""
    pairs: Annotated[int, Meta(ge=0)]
    """(patch, expert) pairs run."""
    channel: int | None = None


class ResultRecord(WindowRecord, frozen=True, kw_only=True, tag_field="kind", tag="result"):
    """What was heard in a whole recording: the scores are the mean over its windows."""

    windows: Count = 1


class ErrorRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="error"):
    """A recording that could not be classified."""

    path: str
    error: str
    """Class of the error."""
    message: str


class SummaryRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="summary"):
    """The last record of a run over files."""

    source: str
    """The bundle or checkpoint that answered."""
    files: int
    errors: int
    windows: int
    audio_s: Seconds
    provider: str
    routing: Routing
    p50_ms: Seconds
    """Median time of a window."""
    p95_ms: Seconds
    pair_share: Share
    """Share of all (patch, expert) pairs that were run."""


Record = WindowRecord | ResultRecord | ErrorRecord | SummaryRecord


SCHEMAS = Path(__file__).parent / "schemas"
"""Where the published JSON Schemas lie."""


def json_schemas() -> dict[str, bytes]:
    """The published JSON Schemas, by file name."""
    return {
        name: msgspec.json.format(msgspec.json.encode(msgspec.json.schema(kind)), indent=2) + b"\n"
        for name, kind in (("manifest.schema.json", Manifest), ("records.schema.json", Record))
    }


def write_schemas() -> None:
    """Writes the published JSON Schemas; ``make schemas`` calls it, and a test compares."""
    for file, content in json_schemas().items():
        (SCHEMAS / file).write_bytes(content)
