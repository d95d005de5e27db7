"""The contracts that leave the process: the bundle's manifest and the JSON Lines records.

Their JSON Schemas lie beside this file in ``schemas/``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType
from numpy.typing import NDArray

from xaimoe_runtime.costs import Milliseconds
from xaimoe_runtime.grid import PatchGrid

if TYPE_CHECKING:
    from xaimoe_runtime.result import Trace

SCHEMA_VERSION = 1
"""Version of the manifest that this release writes, and the newest that it reads."""

TaskKind = Literal["single_label", "multi_label"]
Routing = Literal["routed", "dense", "glance"]
"""``routed``: gates as they are; ``dense``: all compatible pairs; ``glance``: no pair, the prior alone."""
ROUTINGS: tuple[Routing, ...] = ("routed", "dense", "glance")
Role = Literal["frontend", "saliency", "router", "expert", "head", "frames", "window", "fused"]
"""``frames`` and ``window`` are the two stages of ``frontend``, for streams; ``fused`` is the whole line in one."""
LINE: tuple[Role, ...] = ("frontend", "saliency", "router", "head")
"""What every clip passes through, beside the experts."""
STREAM: tuple[Role, ...] = ("frames", "window")
"""What a bundle has as well if its frontend can share frames."""
CONTRACT: dict[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "frontend": (("waveform", "source"), ("spectrogram", "attributes")),
    "saliency": (("spectrogram",), ("saliency", "context", "prior_logits", "feature_map")),
    "router": (("saliency", "context", "attributes"), ("gates", "gates_dense")),
    "expert": (("patches", "position"), ("features",)),
    "head": (("mixture", "mass", "prior_logits"), ("scores",)),
    "frames": (("waveform",), ("frames", "frame_sums")),
    "window": (("frames", "frame_sums", "source"), ("spectrogram", "attributes")),
    "fused": (("waveform", "source"), ("scores", "saliency", "gates", "attributes", "spectrogram")),
}
"""Names of the inputs and outputs of each role. The saliency's ``feature_map`` may be left out."""
Precision = Literal["fp32", "int8", "fp16"]
"""Of the weights and sums inside a graph; what goes in and comes out is float32."""
PrecisionChoice = Literal["auto", "fp32", "int8", "fp16"]
"""``auto``: what the bundle means for the provider."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "fp16")
ProviderName = Literal["cpu", "cuda", "tensorrt"]
"""ONNX Runtime's execution providers, in short."""

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
    shape: Annotated[tuple[int | str, ...], Meta(min_length=1)]
    """Sizes; a string names a dynamic axis."""


class FileSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    file: str
    """Path inside the bundle, with forward slashes."""
    sha256: Sha256
    bytes: Annotated[int, Meta(ge=1, lt=2**31)]


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a dynamic axis that a TensorRT engine is built for."""

    min: Count
    opt: Count
    """That it is tuned for."""
    max: Count

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"profile: found {self.min}, {self.opt}, {self.max}, expected min <= opt <= max")


class GraphSpec(FileSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ONNX file."""

    role: Role
    expert: str | None = None
    """Name of the expert, for role ``expert``."""
    precision: Precision
    providers: tuple[ProviderName, ...]
    """Execution providers that the file is meant for; with any other it works, too, but another file is faster."""
    profiles: dict[str, Profile]
    """By dynamic axis: ``B`` clips, ``M`` patches, ``n`` frames of a stream."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def name(self) -> str:
        """The role, or ``expert NAME``."""
        return self.role if self.expert is None else f"{self.role} {self.expert}"

    def golden(self, tensor: str) -> str:
        """Name of one of its tensors among the golden answers."""
        return golden_name(self.role, self.expert, tensor)


def golden_name(role: Role, expert: str | None, tensor: str) -> str:
    """Name of a graph's tensor among the golden answers.

    A tensor means the same in all graphs, but for what each expert answers; the scores, of which there are some for
    each routing; and what a stream's first stage is given and gives, which is a chunk of the clip.
    """
    if role == "frames":
        return f"{tensor}/chunk"
    if tensor == "scores":
        return "scores/routed"
    return f"{tensor}/{expert}" if tensor == "features" else tensor


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


class Tolerance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a device may be from the golden answers."""

    graphs: Share
    """Largest deviation of a graph's output, relative to the largest magnitude in it."""
    scores: Share
    """Largest absolute deviation of a score."""


class GoldenSpec(FileSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The synthetic clip with the answer of every graph to it."""

    tolerance: dict[ProviderName, dict[Precision, Tolerance]]
    """By provider and precision."""


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
    precisions: Annotated[tuple[Precision, ...], Meta(min_length=1)]
    """In which the line can be run."""
    graphs: tuple[GraphSpec, ...]
    """Of ``fp32``, and of each other precision those that run in it; where it has no file of its own, a graph runs in
    ``fp32``."""
    buckets: Annotated[tuple[Count, ...], Meta(min_length=1)]
    """Numbers of patches, rising, that a batch for an expert is filled up to where every new size costs time."""
    golden: GoldenSpec
    documents: tuple[FileSpec, ...]
    """What is in the bundle for people: its model card, and how precisions were chosen."""
    provenance: Provenance

    def compute_digest(self) -> str:
        """SHA-256 of the manifest as compact JSON, its ``digest`` taken as 64 zeros."""
        blank = msgspec.json.encode(msgspec.structs.replace(self, digest="0" * 64))
        as_read = msgspec.json.decode(blank, type=Manifest)  # where an int stands for a float, it is a float then
        return hashlib.sha256(msgspec.json.encode(as_read)).hexdigest()

    def graph(self, role: Role, expert: str | None = None, precision: Precision = "fp32") -> GraphSpec:
        """The graph of a role, or of one expert, that is run in a precision: its own, or else that of ``fp32``.

        Raises:
            KeyError: the bundle has none.
        """
        found = {graph.precision: graph for graph in self.graphs if (graph.role, graph.expert) == (role, expert)}
        if precision in found or "fp32" in found:
            return found.get(precision) or found["fp32"]
        raise KeyError(role if expert is None else f"{role} {expert}")

    def precisions_for(self, provider: ProviderName) -> tuple[Precision, ...]:
        """The precisions whose every graph is meant for a provider, those with files of their own and the quickest
        first; never none."""
        names = {(graph.role, graph.expert) for graph in self.graphs}
        fits: list[Precision] = [
            precision
            for precision in reversed(PRECISIONS)
            if precision in self.precisions
            and all(provider in self.graph(role, expert, precision).providers for role, expert in names)
        ]
        own = {graph.precision for graph in self.graphs}
        return tuple(sorted(fits, key=lambda precision: precision not in own)) or self.precisions[:1]


Seconds = Annotated[float, Meta(ge=0)]


class TraceRecord(Struct, frozen=True, kw_only=True):
    """How the answer for a window came about."""

    attributes: dict[str, float]
    saliency: tuple[float, ...]
    """Of each patch; sums to 1."""
    run: tuple[tuple[int, str, float], ...]
    """(patch, expert, gate) of the pairs that were run, the largest gates first."""
    left_out: tuple[tuple[int, str, float], ...]
    """The same of the pairs that did not fit into the budget."""
    ms: dict[str, float]
    """Milliseconds spent, by stage."""
    predicted_ms: dict[str, float]
    """Milliseconds that stages were expected to take; none without a budget."""

    @classmethod
    def of(cls, trace: Trace) -> TraceRecord:
        """Of the trace of one window."""

        def pairs(gates: NDArray[np.float32]) -> tuple[tuple[int, str, float], ...]:
            patches, experts = np.nonzero(gates)
            order = np.argsort(-gates[patches, experts], kind="stable").tolist()
            return tuple(
                (int(patches[i]), trace.experts[experts[i]], _short(gates[patches[i], experts[i]])) for i in order
            )

        return cls(
            attributes=dict(zip(trace.attribute_names, map(_short, trace.attributes[0]), strict=True)),
            saliency=tuple(map(_short, trace.saliency[0])),
            run=pairs(trace.gates[0]),
            left_out=pairs(trace.left_out[0]),
            ms={stage: round(ms, 3) for stage, ms in trace.ms.items()},
            predicted_ms={stage: round(ms, 3) for stage, ms in trace.predicted_ms.items()},
        )


def _short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


class WindowRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="window"):
    """What was heard in one window of a recording or of a stream."""

    path: str | UnsetType = UNSET
    """Of the recording."""
    source: str | UnsetType = UNSET
    """Of the stream."""
    labels: tuple[str, ...]
    scores: dict[str, Share]
    start_s: Seconds
    end_s: Seconds
    degraded: bool
    """Whether pairs were left out."""
    late: bool
    """Whether the answer came after the deadline."""
    ms: Milliseconds
    """Milliseconds from samples at the model's rate to scores; decoding and resampling excluded."""
    pairs: Annotated[int, Meta(ge=0)]
    """(patch, expert) pairs run."""
    left_out: Annotated[int, Meta(ge=0)] = 0
    """Pairs that were chosen but did not fit into the budget."""
    channel: int | None = None
    time: str | UnsetType = UNSET
    """When the last sample of a live stream's window came, in UTC."""
    latency_ms: Milliseconds | UnsetType = UNSET
    """From then until the answer."""
    drift: tuple[str, ...] | UnsetType = UNSET
    """Of a window: signal attributes that are unlike those of the training split."""
    trace: TraceRecord | UnsetType = UNSET
    """If it was asked for."""


class ResultRecord(WindowRecord, frozen=True, kw_only=True, tag_field="kind", tag="result"):
    """What was heard in a whole recording: the scores are the mean over its windows."""

    windows: Count = 1


class EventRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="event"):
    """A label that begins to be heard in a stream, or that was."""

    source: str
    label: str
    state: Literal["onset", "offset"]
    start_s: Seconds
    """Start of the first window in which it was heard, from the start of the stream."""
    end_s: Seconds
    """End of the last window so far in which it was."""
    peak: Share
    """Largest score so far, averaged as the settings say."""
    channel: int | None = None
    time: str | UnsetType = UNSET
    """When a live stream's event was found to begin or to be over, in UTC."""


class ErrorRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="error"):
    """A recording that could not be classified, or trouble in a stream, which goes on."""

    path: str | UnsetType = UNSET
    """Of the recording."""
    source: str | UnsetType = UNSET
    """Of the stream."""
    error: str
    """Class of the error."""
    message: str
    time: str | UnsetType = UNSET
    """When it was noticed in a live stream, in UTC."""


class SummaryRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="summary"):
    """The last record of a run over files, or of a stream."""

    source: str
    """The bundle or checkpoint that answered."""
    files: int
    errors: int
    windows: int
    audio_s: Seconds
    provider: str
    routing: Routing
    p50_ms: Milliseconds
    """Median time of a window."""
    p95_ms: Milliseconds
    pair_share: Share
    """Share of all (patch, expert) pairs that were run."""
    budget_ms: Milliseconds | None = None
    """Milliseconds that each window was allowed."""
    degraded: Annotated[int, Meta(ge=0)] = 0
    """Windows of which pairs were left out."""
    late: Annotated[int, Meta(ge=0)] = 0
    """Windows whose answer came after the deadline."""
    left_out_share: Share = 0.0
    """Share of the chosen pairs that were left out."""
    drifted: Annotated[int, Meta(ge=0)] = 0
    """Windows that are unlike the training split in a signal attribute."""
    events: Annotated[int, Meta(ge=0)] = 0
    """Events of a stream that began."""
    dropped: Annotated[int, Meta(ge=0)] = 0
    """Windows of a stream that were given up, since those before them took too long."""
    lost_s: Seconds = 0.0
    """Seconds of a stream that were never heard, since the buffer was full."""


Record = WindowRecord | ResultRecord | EventRecord | ErrorRecord | SummaryRecord


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
