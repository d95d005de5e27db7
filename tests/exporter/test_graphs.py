"""The exported graphs: standard operators, the contract's names and shapes, nothing of the machine they come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from xaimoe_audio.spectrogram.attributes import BANDS
from xaimoe_runtime import Runtime

FORBIDDEN = {"STFT", "DFT", "If", "Loop", "Scan", "SequenceMap"}


@pytest.fixture(scope="module")
def models(bundle: Path) -> dict[str, ModelProto]:
    """The graphs by file name."""
    return {path.relative_to(bundle).as_posix(): onnx.load(path) for path in sorted(bundle.rglob("*.onnx"))}


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def shapes(values) -> dict[str, list[int | str]]:  # type: ignore[no-untyped-def]
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in values
    }


def test_there_is_a_graph_for_every_role_and_expert(models: dict[str, ModelProto], runtime: Runtime) -> None:
    experts = {f"experts/{name}.onnx" for name in runtime.experts}
    line = {"frontend.onnx", "saliency.onnx", "router.onnx", "head.onnx"}
    assert set(models) == line | {"frames.onnx", "window.onnx", "gather.onnx", "scatter.onnx"} | experts


def test_graphs_hold_standard_operators_alone(models: dict[str, ModelProto]) -> None:
    for file, model in models.items():
        used = list(nodes_of(model.graph))
        assert {node.domain for node in used} <= {"", "ai.onnx"}, file
        assert not {node.op_type for node in used} & FORBIDDEN, file
        assert len(model.functions) == 0
        onnx.checker.check_model(model, full_check=True)


def test_graphs_are_of_opset_18(models: dict[str, ModelProto]) -> None:
    for file, model in models.items():
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 18)}, file


def test_names_and_shapes_are_those_of_the_contract(models: dict[str, ModelProto], runtime: Runtime) -> None:
    manifest = runtime.manifest
    frontend, grid = manifest.frontend, manifest.patches.grid
    patches, experts, labels = grid.count, len(runtime.experts), len(runtime.labels)
    features, attributes = manifest.features, len(manifest.attributes)
    saliency = shapes(models["saliency.onnx"].graph.output)
    context = saliency["context"][1]
    spectrogram = ["B", 1, frontend.bins, frontend.frames]
    contract = {
        "frontend.onnx": (
            {"waveform": ["B", manifest.audio.clip_samples], "source": ["B", 2]},
            {"spectrogram": spectrogram, "attributes": ["B", attributes]},
        ),
        "saliency.onnx": (
            {"spectrogram": spectrogram},
            {
                "saliency": ["B", patches],
                "context": ["B", context],
                "prior_logits": ["B", labels],
            },
        ),
        "router.onnx": (
            {"saliency": ["B", patches], "context": ["B", context], "attributes": ["B", attributes]},
            {"gates": ["B", patches, experts], "gates_dense": ["B", patches, experts]},
        ),
        "window.onnx": (
            {
                "frames": ["B", frontend.bins, frontend.frames],
                "frame_sums": ["B", BANDS + 2, frontend.frames],
                "source": ["B", 2],
            },
            {"spectrogram": spectrogram, "attributes": ["B", attributes]},
        ),
        "head.onnx": (
            {"mixture": ["B", features], "mass": ["B", 1], "prior_logits": ["B", labels]},
            {"scores": ["B", labels]},
        ),
    } | {
        f"experts/{name}.onnx": (
            {"patches": ["M", 1, *grid.tile], "position": ["M", 2]},
            {"features": ["M", features]},
        )
        for name in runtime.experts
    }
    for file, (inputs, outputs) in contract.items():
        assert shapes(models[file].graph.input) == inputs, file
        assert shapes(models[file].graph.output) == outputs, file


def test_all_tensors_at_the_border_are_float32(models: dict[str, ModelProto]) -> None:
    for model in models.values():
        for value in (*model.graph.input, *model.graph.output):
            assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT, value.name


def test_graphs_say_what_they_are_and_nothing_of_where_they_were_made(
    models: dict[str, ModelProto], runtime: Runtime
) -> None:
    for spec in runtime.manifest.graphs:
        model = models[spec.file]
        file = spec.file
        told = {entry.key: entry.value for entry in model.metadata_props}
        expert = {} if spec.expert is None else {"expert": spec.expert}
        assert told == {"role": spec.role, "bundle_id": runtime.manifest.bundle_id} | expert
        assert model.doc_string == "", file
        assert len(model.graph.metadata_props) == 0
        for part in (model.graph, *nodes_of(model.graph), *model.graph.initializer, *model.graph.input):
            assert part.doc_string == "", file
            assert len(part.metadata_props) == 0


@pytest.mark.parametrize(
    "trace", [b"site-packages", b'.py"', b"/home/", b"/tmp", str(Path(__file__).parents[2]).encode()]
)
def test_no_file_of_the_bundle_holds_a_path_of_the_machine(bundle: Path, trace: bytes) -> None:
    # golden.npz is compressed, and graphs.onnx hold weights: a path is long enough not to occur by chance.
    for path in bundle.rglob("*"):
        if path.suffix in (".onnx", ".json"):
            assert trace not in path.read_bytes(), path


def test_weights_are_inside_the_graphs(models: dict[str, ModelProto]) -> None:
    for model in models.values():
        assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


def test_the_manifest_describes_the_graphs_as_they_are(bundle: Path, models: dict[str, ModelProto]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert {graph["file"] for graph in manifest["graphs"]} == set(models)
    for graph in manifest["graphs"]:
        model = models[graph["file"]].graph
        for listed, values in ((graph["inputs"], model.input), (graph["outputs"], model.output)):
            assert {tensor["name"]: tensor["shape"] for tensor in listed} == shapes(values)
