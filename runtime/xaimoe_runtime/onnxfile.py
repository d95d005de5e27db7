"""An ONNX file from outside: checked, and written anew from what the check understood.

ONNX Runtime reads files with a parser of its own. It is never given the file, only what :func:`check` wrote, so both
see the same graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.onnx_safety.bounds import Axis, Bounds, bound
from xaimoe_runtime.onnx_safety.graph import Declared, Graph, UnsafeGraphError, graph_of
from xaimoe_runtime.onnx_safety.onnx_schema import FLOAT, SCHEMA
from xaimoe_runtime.onnx_safety.sizes import Range
from xaimoe_runtime.onnx_safety.wire import Parsed, WireError, decode, encode
from xaimoe_runtime.schema import GraphSpec, Manifest, TensorSpec

ORT_FORMAT = b"ORTM"
"""Bytes 4 to 7 of a model in ONNX Runtime's own format, which the session would take instead of an ONNX graph."""
BATCH, PATCHES = 32, 128
"""Clips and patches that a graph is at least to be run on: what the manifest says can only raise it."""

Dynamic = Mapping[tuple[str, int], Axis]
"""The dynamic axes, by input and number of the axis."""


@dataclass(frozen=True)
class CheckedGraph:
    """A graph that may be run."""

    content: bytes
    """The graph written anew: what ONNX Runtime is given."""
    bounds: Bounds
    """What it takes at most."""


def check(
    name: str,
    content: bytes,
    spec: GraphSpec | None = None,
    manifest: Manifest | None = None,
    advice: str = "do not use the bundle",
) -> CheckedGraph:
    """Check an ONNX file and write it anew.

    Args:
        name: of the file, for messages.
        content: of the file.
        spec: what the manifest says of it, whose inputs and outputs it must have.
        manifest: the whole one, for the sizes that dynamic axes may have.
        advice: what to do about a graph that is refused.

    Raises:
        BundleError: the file is cut short, no ONNX graph, or one that parsers could read in two ways; it holds
            operators that are not in the table, functions, subgraphs, sparse weights or weights in another file; a
            tensor declares more than it holds, or takes too much memory; or it is not what the manifest says.
    """
    try:
        parsed = _parsed(content)
        graph = graph_of(parsed)
        dynamic: Dynamic | None = None
        if spec is not None:
            _check_borders(graph, spec)
            dynamic = _dynamic(graph, spec, manifest)
        return CheckedGraph(encode(parsed, "ModelProto", SCHEMA), bound(graph, dynamic))
    except WireError as error:
        raise BundleError(f"{name}: no ONNX graph ({error}); export or copy the bundle again") from error
    except UnsafeGraphError as error:
        raise BundleError(f"{name}: {error}; {advice}") from error


def operators(content: bytes) -> frozenset[str]:
    """Return the names of the operators in a file that :func:`check` lets pass."""
    return frozenset(node["op_type"] for node in _parsed(content)["graph"].get("node", ()))


def _parsed(content: bytes) -> Parsed:
    if content[4:8] == ORT_FORMAT:
        raise UnsafeGraphError("a model in ONNX Runtime's own format (ORTM)", "an ONNX graph")
    return decode(content, "ModelProto", SCHEMA)


def _check_borders(graph: Graph, spec: GraphSpec) -> None:
    """The graph takes and gives what the manifest says."""
    sides = (("inputs", spec.inputs, graph.inputs), ("outputs", spec.outputs, graph.outputs))
    for kind, expected, actual in sides:
        promised = {tensor.name: _sizes(tensor) for tensor in expected}
        real = {name: _declared_sizes(declared) for name, declared in actual.items()}
        if promised != real:
            raise UnsafeGraphError(f"{kind} {real}", f"{promised}, as the manifest has them")
        for name, declared in actual.items():
            if declared.data_type != FLOAT:
                raise UnsafeGraphError(f"{kind} {name} of data type {declared.data_type}", "float32")


def _sizes(tensor: TensorSpec) -> list[int | str]:
    """Sizes but for the first axis, as the session compares them, too."""
    return [size if isinstance(size, int) else "any" for size in tensor.shape][1:]


def _declared_sizes(declared: Declared) -> list[int | str]:
    return [size if isinstance(size, int) else "any" for size in declared.shape or ()][1:]


def _dynamic(graph: Graph, spec: GraphSpec, manifest: Manifest | None) -> Dynamic:
    """The values that the dynamic axes of the inputs may have.

    Raises:
        UnsafeGraphError: an axis is dynamic that is none of clips, patches and frames of a chunk.
    """
    most = {axis: profile.max for axis, profile in spec.profiles.items()}
    buckets = manifest.buckets[-1] if manifest is not None else 1
    clips = Axis("B", Range(1, max(most.get("B", 1), BATCH), 1))
    patches = Axis("M", Range(0, max(most.get("M", 1), PATCHES, buckets), 1))
    found: dict[tuple[str, int], Axis] = {}
    for tensor in spec.inputs:
        for number, size in enumerate(graph.inputs[tensor.name].shape or ()):
            if isinstance(size, int):
                continue
            if number == 0:
                found[tensor.name, 0] = patches if tensor.shape[0] == "M" else clips
            elif number == 1 and tensor.name == "weights":
                found[tensor.name, 1] = patches
            elif number == 1 and spec.role == "frames" and manifest is not None:
                found[tensor.name, 1] = _samples(manifest, most.get("n", 1))
            else:
                raise UnsafeGraphError(f"a dynamic axis {number} of the input {tensor.name}", "a size")
    return found


def _samples(manifest: Manifest, frames: int) -> Axis:
    """The samples of a chunk, which holds whole frames."""
    most = max(frames, manifest.frontend.frames)
    return Axis("n", Range(1, most, most), manifest.audio.frame_hop, manifest.frontend.context_samples)
