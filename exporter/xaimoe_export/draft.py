"""A bundle in memory: graphs are added, tried and compared before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from xaimoe_export.golden import GOLDEN
from xaimoe_export.graphs import FRAMES_AXIS, file_of, seal, tensor_specs
from xaimoe_runtime import Runtime, __version__, onnxfile
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.providers import SessionFactory
from xaimoe_runtime.schema import (
    SCHEMA_VERSION,
    AttributeSpec,
    AudioSpec,
    EventSettings,
    ExpertSpec,
    FileSpec,
    FrontendSpec,
    GoldenSpec,
    GraphSpec,
    Manifest,
    PatchSpec,
    Precision,
    Profile,
    Provenance,
    ProviderName,
    Role,
    Routing,
    TaskSpec,
    Tolerance,
)

Floats = NDArray[np.float32]
MEANT_FOR: dict[Precision, tuple[ProviderName, ...]] = {
    "fp32": ("cpu", "cuda", "tensorrt"),
    "int8": ("cpu",),
    "fp16": ("cuda", "tensorrt"),
}
"""INT8 is slower than FP32 on CUDA, FP16 on a CPU."""
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(graphs=1e-3, scores=1e-4),
    "int8": Tolerance(graphs=0.05, scores=0.02),
    "fp16": Tolerance(graphs=0.02, scores=0.01),
}
"""Of a device from the golden answers. Those of INT8 and FP16 are the graphs' own, on the CPU: a device whose integer
sums saturate, or that computes in another precision than it says, is farther off."""
BUCKETS = (8, 16, 32, 64, 128)
"""Batches of patches. On an H100 an expert took 0.7 to 1.4 ms for any number from 1 to 128, but the first run of a size
0.02 to 0.03 s from 8 on, 0.2 s for 4 and up to 1 s for 1 and 2, for which cuDNN compiles kernels."""
BATCHES = Profile(min=1, opt=1, max=32)
"""Clips."""
PATCHES = Profile(min=1, opt=BUCKETS[0], max=BUCKETS[-1])

REFUSED_ON_DEVICES = (
    "a device would refuse the graph: write the module with other operators, or add a row for it "
    "(xaimoe_runtime.onnx_safety.register_operator) here and on the device"
)


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
    events: EventSettings = field(default_factory=EventSettings)


@dataclass
class Draft:
    """What a bundle will hold."""

    description: BundleDescription
    bundle_id: str
    precisions: tuple[Precision, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    """By path in the bundle; the graphs, and what else was put there."""
    graphs: dict[tuple[str, Precision], GraphSpec] = field(default_factory=dict)
    """By name and precision."""
    documents: tuple[FileSpec, ...] = ()
    golden: FileSpec | None = None

    def add(self, role: Role, expert: str | None, precision: Precision, model: onnx.ModelProto) -> GraphSpec:
        """Adds a graph; one of the same name and precision is replaced.

        Raises:
            BundleError: a device would refuse it.
        """
        file = file_of(role, expert, precision)
        metadata = {"role": role, "bundle_id": self.bundle_id} | ({} if expert is None else {"expert": expert})
        content = seal(model, role if expert is None else f"{role} {expert}", metadata)
        inputs, outputs = tensor_specs(onnx.load_model_from_string(content))
        axes = {axis for tensor in inputs for axis in tensor.shape}
        profiles = {axis: profile for axis, profile in (("B", BATCHES), ("M", PATCHES)) if axis in axes}
        if role == "frames":
            profiles[FRAMES_AXIS] = Profile(
                min=1, opt=self.description.frontend.frames, max=self.description.frontend.frames
            )
        spec = GraphSpec(
            file=file,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            role=role,
            precision=precision,
            providers=MEANT_FOR[precision],
            expert=expert,
            profiles=profiles,
            inputs=inputs,
            outputs=outputs,
        )
        self.graphs[spec.name, precision] = spec
        self.files[file] = onnxfile.check(file, content, spec, self.manifest(), REFUSED_ON_DEVICES).content
        return spec

    def put(self, file: str, content: bytes) -> FileSpec:
        """Adds a file that is no graph."""
        self.files[file] = content
        return FileSpec(file=file, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))

    def model(self, name: str, precision: Precision = "fp32") -> onnx.ModelProto:
        """A graph as it was added, in ``fp32`` if it has no other."""
        spec = self.graphs.get((name, precision)) or self.graphs[name, "fp32"]
        return onnx.load_model_from_string(self.files[spec.file])

    def with_only(self, precision: Precision, models: Mapping[str, onnx.ModelProto]) -> Draft:
        """This draft with these graphs, by name, and no other, in a precision: to try them."""
        fp32 = {key: spec for key, spec in self.graphs.items() if key[1] == "fp32"}
        other = replace(self, files=dict(self.files), graphs=fp32)
        for name, model in models.items():
            other.add(fp32[name, "fp32"].role, fp32[name, "fp32"].expert, precision, model)
        return other

    def drop_unused(self) -> None:
        """Removes the graphs in FP32 that no precision of the bundle runs."""
        if "fp32" in self.precisions:
            return
        for name in [name for name, precision in self.graphs if precision == "fp32"]:
            if all((name, precision) in self.graphs for precision in self.precisions):
                del self.files[self.graphs.pop((name, "fp32")).file]

    def manifest(self) -> Manifest:
        """The manifest of what has been added."""
        content = {name: getattr(self.description, name) for name in BundleDescription.__dataclass_fields__}
        precisions = dict.fromkeys([*(precision for _, precision in self.graphs), *self.precisions])
        golden = self.golden or FileSpec(file=GOLDEN, sha256="0" * 64, bytes=1)  # not made yet
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            digest="0" * 64,
            bundle_id=self.bundle_id,
            precisions=self.precisions,
            graphs=tuple(self.graphs.values()),
            buckets=BUCKETS,
            golden=GoldenSpec(
                **msgspec.structs.asdict(golden),
                tolerance={provider: {p: TOLERANCES[p] for p in precisions} for provider in MEANT_FOR["fp32"]},
            ),
            documents=self.documents,
            **content,
        )
        return msgspec.structs.replace(manifest, digest=manifest.compute_digest())

    def runtime(self, precision: Precision = "fp32") -> Runtime:
        """What a device would make of it, on the CPU with one thread."""
        manifest = msgspec.structs.replace(self.manifest(), precisions=(precision,))
        return Runtime(Bundle(Path(), manifest, self.files, {}), SessionFactory("cpu"), precision)


def identity(description: BundleDescription, options: dict[str, object]) -> str:
    """SHA-256 over the description, which names the checkpoint, the options and the exporter's version."""
    told = msgspec.json.encode([description, options, __version__], order="sorted")
    return hashlib.sha256(told).hexdigest()
