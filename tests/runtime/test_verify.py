"""Proving a bundle: it answers its golden clip as it did where it was exported, or it is not to be used."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from data.bundles import EditableBundle
from numpy.typing import NDArray

from xaimoe_runtime import BundleError, Runtime
from xaimoe_runtime.schema import ROUTINGS
from xaimoe_runtime.verify import Deviation, verify

Floats = NDArray[np.float32]


def golden(editable: EditableBundle) -> dict[str, Floats]:
    with np.load(editable.path / "golden.npz") as arrays:
        return dict(arrays)


def with_golden(editable: EditableBundle, arrays: dict[str, Floats]) -> Path:
    """The bundle with other golden answers, and a manifest that fits them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    editable.put(editable.manifest["golden"], buffer.getvalue())
    return editable.save()


def failed(bundle: Path) -> list[str]:
    return [d.what for d in verify(Runtime.load(bundle, provider="cpu")) if not d.passed]


def test_a_fresh_bundle_passes(bundle: Path) -> None:
    assert failed(bundle) == []


def test_every_output_of_every_graph_and_every_routing_is_compared(runtime: Runtime) -> None:
    graphs = {graph.name: graph for graph in runtime.manifest.graphs}
    outputs = {f"{name}/{tensor.name}" for name, graph in graphs.items() for tensor in graph.outputs}
    assert {deviation.what for deviation in verify(runtime)} == outputs | {f"line/{routing}" for routing in ROUTINGS}
    assert {"frames", "window", *(f"expert {name}" for name in runtime.experts)} < set(graphs)


@pytest.mark.parametrize(
    ("name", "fails"),
    [
        ("scores/routed", ["head/scores", "line/routed"]),
        ("gates_dense", ["router/gates_dense"]),
        ("scores/dense", ["line/dense"]),
        ("frames/chunk", ["frames/frames"]),
    ],
)
def test_an_altered_answer_fails(editable: EditableBundle, name: str, fails: list[str]) -> None:
    arrays = golden(editable)
    arrays[name] = arrays[name] + np.float32(0.01) * np.abs(arrays[name]).max()
    assert failed(with_golden(editable, arrays)) == fails


def test_an_answer_of_another_shape_fails(editable: EditableBundle) -> None:
    arrays = golden(editable)
    arrays["gates_dense"] = np.repeat(arrays["gates_dense"], 2, axis=0)  # a size of B is free
    assert failed(with_golden(editable, arrays)) == ["router/gates_dense"]


def test_an_answer_that_is_not_a_number_fails(editable: EditableBundle) -> None:
    arrays = golden(editable)
    arrays["scores/dense"] = np.full_like(arrays["scores/dense"], np.nan)
    assert failed(with_golden(editable, arrays)) == ["line/dense"]


def test_a_graph_of_other_weights_fails(editable: EditableBundle) -> None:
    entry = editable.graph("expert")
    graph = onnx.load_from_string((editable.path / entry["file"]).read_bytes())
    for weights in graph.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT and len(weights.dims) == 4:
            values = np.array(onnx.numpy_helper.to_array(weights)) * np.float32(1.05)
            weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    editable.put(entry, graph.SerializeToString())
    assert f"expert {entry['expert']}/features" in failed(editable.save())


def test_a_missing_answer_is_named(editable: EditableBundle) -> None:
    arrays = golden(editable)
    del arrays["scores/glance"]
    runtime = Runtime.load(with_golden(editable, arrays), provider="cpu")
    with pytest.raises(BundleError, match=r"golden\.npz: the golden answer 'scores/glance' is missing"):
        verify(runtime)


def test_a_provider_that_the_manifest_does_not_name_may_be_as_far_off_as_the_least_exact(
    editable: EditableBundle,
) -> None:
    tolerance = editable.manifest["golden"]["tolerance"]
    del tolerance["cpu"]
    tolerance["cuda"]["fp32"]["scores"] = 0.25
    found = verify(Runtime.load(editable.save(), provider="cpu"))
    assert {deviation.tolerance for deviation in found if deviation.what.startswith("line/")} == {0.25}


def test_a_precision_without_a_tolerance_cannot_be_verified(editable: EditableBundle) -> None:
    for of_provider in editable.manifest["golden"]["tolerance"].values():
        del of_provider["fp32"]
    runtime = Runtime.load(editable.save(), provider="cpu")
    with pytest.raises(BundleError, match="no tolerance for fp32 on provider 'cpu'"):
        verify(runtime)


def test_a_deviation_passes_up_to_its_tolerance_and_never_as_nan() -> None:
    found = [Deviation("x", value, 0.5).passed for value in (0.0, 0.5, 0.51, float("nan"), float("inf"))]
    assert found == [True, True, False, False, False]
