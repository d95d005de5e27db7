"""The bundle's manifest. Its JSON Schema lies beside this file in ``schemas/``."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.grid import PatchGrid

SCHEMA_VERSION = 1
"""Version of the manifest that this release writes, and the newest that it reads."""

TaskKind = Literal["single_label", "multi_label"]
Routing = Literal["routed", "dense", "glance"]
"""``routed``: gates as they are; ``dense``: all compatible pairs of patches that are not silent; ``glance``: no pair,
the prior alone."""
ROUTINGS: tuple[Routing, ...] = ("routed", "dense", "glance")
Pool = Literal["mean", "max", "top3", "lse"]
"""How the scores of a recording come from those of its windows; see :class:`xaimoe_runtime.pooling.Pooling`."""
POOLS: tuple[Pool, ...] = ("mean", "max", "top3", "lse")
Role = Literal["frontend", "saliency", "router", "expert", "head", "frames", "window", "gather", "scatter", "fused"]
"""``frames`` and ``window`` are the two stages of ``frontend``, for streams; ``gather`` and ``scatter`` lie before and
after an expert on a GPU; ``fused`` is the whole line in one."""
LINE: tuple[Role, ...] = ("frontend", "saliency", "router", "head")
"""What every clip passes through, beside the experts."""
STREAM: tuple[Role, ...] = ("frames", "window")
"""What a bundle has as well if its frontend can share frames."""
EXCHANGE: tuple[Role, ...] = ("gather", "scatter")
"""What a bundle may have as well, so that a GPU's work stays there."""
CONTRACT: dict[Role, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "frontend": (("waveform", "source"), ("spectrogram", "attributes")),
    "saliency": (("spectrogram",), ("saliency", "context", "prior_logits", "feature_map")),
    "router": (("saliency", "context", "attributes"), ("gates", "gates_dense")),
    "expert": (("patches", "position"), ("features",)),
    "head": (("mixture", "mass", "prior_logits"), ("scores",)),
    "frames": (("waveform",), ("frames", "frame_sums")),
    "window": (("frames", "frame_sums", "source"), ("spectrogram", "attributes")),
    "gather": (("spectrogram", "pair_index"), ("patches", "position")),
    "scatter": (("features", "weights", "so_far"), ("mixture",)),
    "fused": (("waveform", "source"), ("scores", "saliency", "gates", "attributes", "spectrogram")),
}
"""Names of the inputs and outputs of each role. The saliency's ``feature_map`` may be left out."""
Precision = Literal["fp32", "int8", "fp16"]
"""Of the weights and sums inside a graph; what goes in and comes out is float32."""
PrecisionChoice = Literal["auto", "fp32", "int8", "fp16"]
"""``auto``: what the bundle means for the provider."""
OF_PATCHES = frozenset({"patches", "position", "features", "pair_index"})
"""Tensors whose first axis counts patches, and not clips."""
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8", "fp16")
ProviderName = Literal["cpu", "cuda", "tensorrt"]
"""ONNX Runtime's execution providers, in short."""

MAX_FILE = 1 << 30
"""Bytes of a file of the bundle."""
MAX_TEXT = 1_000
"""Characters of a name, a label or a line of text."""
MAX_LABELS = 1 << 16
MAX_EXPERTS = 256
MAX_SAMPLES = 1 << 26
"""Samples of a clip, or of a step between windows."""
MAX_CELLS = 1 << 16
"""Bands or frames of a spectrogram."""
MAX_AXIS = 1 << 28
"""Numbers of a tensor along an axis, and in all."""
MAX_COUNT = 1 << 53
"""Up to which JSON numbers are exact everywhere."""
MAX_SECONDS = 1e9
NO_CONTROL = r"^(?![\s\S]*[\u0000-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069])"
"""Text without control characters, line breaks and changes of the writing direction: it is shown in terminals."""

Count = Annotated[int, Meta(ge=1, le=MAX_COUNT)]
Samples = Annotated[int, Meta(ge=1, le=MAX_SAMPLES)]
Cells = Annotated[int, Meta(ge=1, le=MAX_CELLS)]
BatchSize = Annotated[int, Meta(ge=1, le=1 << 16)]
"""Is allocated, so it has a limit."""
Share = Annotated[float, Meta(ge=0, le=1)]
Hertz = Annotated[float, Meta(ge=0, le=1e7)]
Quantity = Annotated[float, Meta(ge=-1e12, le=1e12)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
Text = Annotated[str, Meta(max_length=MAX_TEXT, pattern=NO_CONTROL)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=NO_CONTROL)]
Temperature = Annotated[float, Meta(gt=0, le=1e6)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class TaskSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is answered."""

    kind: TaskKind
    labels: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=MAX_LABELS)]
    """Class names, in the order of the scores."""
    thresholds: Annotated[tuple[Share, ...], Meta(max_length=MAX_LABELS)]
    """Score from which a class counts as present, per class; multi-label only."""
    temperatures: tuple[Temperature, Temperature]
    """Calibration of the prior's and of the experts' logits; already inside the head graph."""


class AudioSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the model listens to."""

    sample_rate: Annotated[int, Meta(ge=1, le=10_000_000)]
    """Rate of the waveform input, in Hz."""
    clip_samples: Samples
    """Samples S of a clip."""
    frame_hop: Samples
    """Samples from frame to frame."""
    window_hop: Samples
    """Default step from window to window over long audio, in samples; a whole number of frame hops."""


class FrontendSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the spectrogram is made."""

    backend: Text
    streamable: bool
    """Whether frames can be computed once and shared by overlapping windows."""
    n_fft: Annotated[int, Meta(ge=1, le=1 << 20)]
    """Length of the DFT."""
    win_length: Samples
    """Samples a frame sees."""
    bins: Cells
    """Height F of the spectrogram."""
    frames: Cells
    """Width T of the spectrogram."""
    fmin: Hertz
    fmax: Hertz
    centres_hz: Annotated[tuple[Hertz, ...], Meta(min_length=1, max_length=MAX_CELLS)]
    """Middle of each band, rising."""
    context_samples: Annotated[int, Meta(ge=0, le=MAX_SAMPLES)]
    """Samples a frame reaches beyond its own hop."""


class AttributeSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signal attribute and how it was distributed over the training split, at the model's rate."""

    name: Name
    unit: Text
    q05: Quantity
    q50: Quantity
    q95: Quantity


class TensorSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input or output of a graph, float32."""

    name: Name
    shape: Annotated[tuple[Annotated[int, Meta(ge=1, le=MAX_AXIS)] | Text, ...], Meta(min_length=1, max_length=8)]
    """Sizes; a string names a dynamic axis."""


class FileSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    file: Text
    """Path inside the bundle, with forward slashes."""
    sha256: Sha256
    bytes: Annotated[int, Meta(ge=1, le=MAX_FILE)]


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of a dynamic axis that a TensorRT engine is built for."""

    min: BatchSize
    opt: BatchSize
    """That it is tuned for."""
    max: BatchSize

    def __post_init__(self) -> None:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"profile: found {self.min}, {self.opt}, {self.max}, expected min <= opt <= max")


class GraphSpec(FileSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ONNX file."""

    role: Role
    expert: Name | None = None
    """Name of the expert, for role ``expert``."""
    precision: Precision
    providers: Annotated[tuple[ProviderName, ...], Meta(max_length=8)]
    """Execution providers that the file is meant for; with any other it works, too, but another file is faster."""
    profiles: Annotated[dict[Text, Profile], Meta(max_length=8)]
    """By dynamic axis: ``B`` clips, ``M`` patches, ``n`` frames of a stream."""
    inputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=16)]
    outputs: Annotated[tuple[TensorSpec, ...], Meta(max_length=16)]

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
    each routing; what a stream's first stage is given and gives, which is a chunk of the clip; and what is scattered,
    which is what one expert answers.
    """
    if role == "frames":
        return f"{tensor}/chunk"
    if role == "scatter":
        return f"{tensor}/scatter"
    if tensor == "scores":
        return "scores/routed"
    return f"{tensor}/{expert}" if tensor == "features" else tensor


class ExpertSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One expert, in the order of the gates' last axis."""

    name: Name
    family: Text
    purpose: Text
    band: tuple[Share, Share]
    """Part of the tile's height it looks at, from the bottom."""
    parameters: Annotated[int, Meta(ge=0, le=MAX_COUNT)]
    macs: Annotated[int, Meta(ge=0, le=MAX_COUNT)]
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


class EventSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a label counts as heard."""

    on: Annotated[dict[Text, Share], Meta(max_length=MAX_LABELS)] = msgspec.field(default_factory=dict)
    """Score from which it is, by label; the model's threshold for those that are not named, or else 0.5."""
    off: Annotated[float, Meta(ge=0, le=1)] = 0.8
    """Share of that score under which it is not any more."""
    smooth: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """Windows whose scores are averaged."""
    min_duration_s: Seconds = 0.0
    """Events that are shorter are not reported. One window is as long as the model's clip."""
    refractory_s: Seconds = 0.0
    """A label is heard again only in windows that end so long after its last event."""


class Provenance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bundle comes from."""

    exporter_version: Text
    checkpoint_sha256: Sha256
    dataset_sha256: Sha256
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    versions: Annotated[dict[Text, Text], Meta(max_length=256)]
    metrics: Annotated[dict[Text, Quantity], Meta(max_length=1024)]


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
    attributes: Annotated[tuple[AttributeSpec, ...], Meta(max_length=256)]
    experts: Annotated[tuple[ExpertSpec, ...], Meta(max_length=MAX_EXPERTS)]
    routing: Routing
    """Routing used unless another is asked for."""
    events: EventSettings
    """When a label counts as heard in a stream, unless told otherwise."""
    features: Annotated[int, Meta(ge=1, le=1 << 20)]
    """Length D of an expert's answer."""
    precisions: Annotated[tuple[Precision, ...], Meta(min_length=1, max_length=8)]
    """In which the line can be run."""
    graphs: Annotated[tuple[GraphSpec, ...], Meta(max_length=4 * MAX_EXPERTS)]
    """Of ``fp32``, and of each other precision those that run in it; where it has no file of its own, a graph runs in
    ``fp32``."""
    buckets: Annotated[tuple[BatchSize, ...], Meta(min_length=1, max_length=64)]
    """Numbers of patches, rising, that a batch for an expert is filled up to where every new size costs time."""
    golden: GoldenSpec
    documents: Annotated[tuple[FileSpec, ...], Meta(max_length=64)]
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

    def tolerance(self, provider: str, precision: Precision) -> Tolerance | None:
        """How far a precision may be from the golden answers on a provider; on one that the manifest does not name, as
        far as on the least exact of those that it does."""
        of_provider = self.golden.tolerance
        if provider in of_provider:
            return of_provider[provider].get(precision)
        given = [of[precision] for of in of_provider.values() if precision in of]
        return max(given, key=lambda tolerance: (tolerance.scores, tolerance.graphs), default=None)

    def precision(self, wanted: str, provider: str) -> Precision:
        """The precision to run in: one that is named, or with ``auto`` what is meant for the provider.

        Raises:
            ConfigError: the bundle has no such precision.
        """
        if wanted == "auto":
            return self.precisions_for(provider)[0]
        for precision in self.precisions:
            if precision == wanted:
                return precision
        raise ConfigError(
            f"precision: found {wanted!r}, the bundle has {', '.join(self.precisions)}; choose one of them or auto, or "
            "export the checkpoint with --precision"
        )

    def precisions_for(self, provider: str) -> tuple[Precision, ...]:
        """The precisions whose every graph is meant for a provider, those with files of their own first, of these the
        one of the fewest bits; never none."""
        names = {(graph.role, graph.expert) for graph in self.graphs}
        fits: list[Precision] = [
            precision
            for precision in reversed(PRECISIONS)
            if precision in self.precisions
            and all(provider in self.graph(role, expert, precision).providers for role, expert in names)
        ]
        own = {graph.precision for graph in self.graphs}
        return tuple(sorted(fits, key=lambda precision: precision not in own)) or self.precisions[:1]
