"""The audit for TensorRT: what its list says is found in a graph, and the split graphs have none of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from data.hand import Rich
from onnx import TensorProto, helper, numpy_helper

from xaimoe_export.tensorrt import operator_list, refusals
from xaimoe_runtime import Runtime


def one_node(operator: str, inputs: int = 1, weights: dict[str, np.ndarray] | None = None, **rest: object) -> list[str]:  # type: ignore[type-arg]
    """What is refused of a graph of one node; ``weights`` are further inputs."""
    kind = rest.pop("kind", TensorProto.FLOAT)
    shape = rest.pop("shape", [2, 3, 8, 8])
    gives = rest.pop("gives", kind)
    weights = weights or {}
    names = [f"x{i}" for i in range(inputs)]
    outputs = ["y", "which"] if operator == "TopK" else ["y"]
    node = helper.make_node(operator, [*names, *weights], outputs, name="it", **rest)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],  # type: ignore[arg-type]
        [helper.make_tensor_value_info("y", gives, None)],  # type: ignore[arg-type]
        initializer=[numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return refusals(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def test_the_list_says_where_it_is_from() -> None:
    found = operator_list()
    assert "onnx-tensorrt" in found.source
    assert found.tensorrt == "10.15"
    assert len(found.operators) > 150
    assert not set(found.operators) & set(found.unsupported)


def test_what_is_supported_passes() -> None:
    assert one_node("Relu") == []
    assert one_node("MaxPool", kernel_shape=[2, 2]) == []
    assert one_node("TopK", weights={"k": np.array([3])}) == []
    assert one_node("ReduceMean", weights={"axes": np.array([1])}) == []
    assert one_node("ScatterND", 1, {"i": np.zeros((1, 1), np.int64), "u": np.zeros((1, 3, 8, 8), np.float32)}) == []


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (lambda: one_node("Det"), "it (Det): no such operator"),
        (lambda: one_node("Unheard"), "it (Unheard): no such operator"),
        (lambda: one_node("Relu", kind=TensorProto.DOUBLE), "it (Relu): FP64; it takes FP32"),
        (lambda: one_node("TopK", weights={"k": np.array([4000])}), "K below 3840"),
        (lambda: one_node("TopK", sorted=0, weights={"k": np.array([4])}), "sorted 1"),
        (lambda: one_node("ReduceMean", 2, kind=TensorProto.FLOAT), "axes is an initializer"),
        (lambda: one_node("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]), "dilations all 1"),
        (lambda: one_node("MaxPool", kernel_shape=[2], shape=[2, 3, 8]), "2D or 3D"),
        (
            lambda: one_node(
                "ScatterND",
                1,
                {"i": np.zeros((1, 1), np.int64), "u": np.zeros((1, 3, 8, 8), np.float32)},
                reduction="add",
            ),
            "reduction none",
        ),
        (
            lambda: one_node("QuantizeLinear", 1, {"s": np.float32(0.1), "z": np.uint8(3)}, gives=TensorProto.UINT8),
            "zero point 0",
        ),
        (
            lambda: one_node("Unsqueeze", 1, {"axes": np.arange(5)}),
            "9 axes; it takes 8",
        ),
    ],
)
def test_what_is_not_is_named_with_its_node(found: object, why: str) -> None:
    lines = found()  # type: ignore[operator]
    assert any(why in line for line in lines), lines


def test_an_operator_set_that_is_too_new_is_named() -> None:
    graph = helper.make_graph([], "g", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 99)])
    assert refusals(model) == ["opset 99: 9 to 24 are known"]


def test_nothing_of_a_bundle_that_is_meant_for_tensorrt_is_refused(bundle: Path, runtime: Runtime, rich: Rich) -> None:
    for folder, manifest in ((bundle, runtime.manifest), (rich.bundle, Runtime.load(rich.bundle, "cpu").manifest)):
        for spec in manifest.graphs:
            if "tensorrt" in spec.providers:
                assert refusals(onnx.load(folder / spec.file)) == [], spec.file
    assert set(rich.report.refused_by_tensorrt) >= {"frontend", "fused", "fused (fp16)", "expert Bright one (fp16)"}


def test_every_graph_has_a_profile_for_its_dynamic_axes(bundle: Path, runtime: Runtime) -> None:
    for spec in runtime.manifest.graphs:
        axes = {"expert": {"M"}, "frames": {"B", "n"}, "gather": {"B", "M"}, "scatter": {"B", "M"}}
        assert set(spec.profiles) == axes.get(spec.role, {"B"})
        assert all(profile.min <= profile.opt <= profile.max for profile in spec.profiles.values())
    buckets = runtime.manifest.buckets
    assert list(buckets) == sorted(set(buckets))
    expert = runtime.manifest.graph("expert", runtime.experts[0])
    assert expert.profiles["M"].max == buckets[-1]
