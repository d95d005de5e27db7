"""Would TensorRT take a graph? Each node is held against TensorRT's published list of operators.

The list, with its source and version, is ``data/tensorrt_operators.json``. What it says in words is checked here for
the operators that a classifier may hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_TYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
    TensorProto.DOUBLE: "FP64",
}
MOST_AXES = 8
"""Axes of a tensor."""
MOST_TOP = 3840
"""``K`` of TopK must be below."""


class _Operator(msgspec.Struct, frozen=True):
    types: tuple[str, ...]
    restriction: str = ""


class OperatorList(msgspec.Struct, frozen=True):
    """What a version of TensorRT's ONNX parser takes."""

    source: str
    tensorrt: str
    """Version."""
    opsets: tuple[int, int]
    """The oldest and the newest."""
    operators: dict[str, _Operator]
    unsupported: tuple[str, ...]


@cache
def operator_list() -> OperatorList:
    """The list that is checked against."""
    raw = files("xaimoe_export").joinpath("data/tensorrt_operators.json").read_bytes()
    return msgspec.json.decode(raw, type=OperatorList)


def refusals(model: onnx.ModelProto) -> list[str]:
    """What TensorRT would refuse in a model, node by node, in words; empty if it would take it whole."""
    known = operator_list()
    oldest, newest = known.opsets
    opsets = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    found = [
        f"opset {version}: {oldest} to {newest} are known" for version in opsets if not oldest <= version <= newest
    ]
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    types |= {name: tensor.data_type for name, tensor in constants.items()}
    for node in graph.node:
        where = f"{node.name or node.output[0]} ({node.op_type})"
        operator = known.operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if operator is None:
            found.append(f"{where}: no such operator")
            continue
        # The first input has the type that the list speaks of; others may be indices.
        main = node.input[0] if node.input else node.output[0]
        kind = _TYPES.get(types.get(main, TensorProto.UNDEFINED), "a type that cannot be told")
        if kind not in operator.types:
            found.append(f"{where}: {kind}; it takes {', '.join(operator.types)}")
        if ranks.get(node.output[0], 0) > MOST_AXES:
            found.append(f"{where}: {ranks[node.output[0]]} axes; it takes {MOST_AXES}")
        check = _CHECKS.get(node.op_type)
        if check is None and operator.restriction:
            found.append(f"{where}: not checked here: {operator.restriction}")
        if check is not None and not check(_Node(node, constants, ranks)):
            found.append(f"{where}: {operator.restriction}")
    return found


class _Node:
    """A node with what is known about its inputs."""

    def __init__(self, node: NodeProto, constants: dict[str, TensorProto], ranks: dict[str, int]) -> None:
        self.node, self.constants, self.ranks = node, constants, ranks
        self.attributes: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def constant(self, index: int) -> bool:
        """Whether an input is a constant, or left out."""
        given = len(self.node.input) > index and self.node.input[index] != ""
        return not given or self.node.input[index] in self.constants

    def value(self, index: int) -> np.ndarray[Any, Any]:
        """The value of a constant input; empty if it is left out."""
        if len(self.node.input) <= index or not self.node.input[index]:
            return np.zeros(0)
        return numpy_helper.to_array(self.constants[self.node.input[index]])

    @property
    def rank(self) -> int:
        """Axes of the first input."""
        return self.ranks.get(self.node.input[0], 0)


def _pool(node: _Node) -> bool:
    flat = all(size == 1 for size in node.attributes.get("dilations", ()))
    return flat and node.rank in (4, 5) and len(node.node.output) == 1


def _zero_point(node: _Node) -> bool:
    return node.constant(2) and not node.value(2).any()


def _axes(node: _Node) -> bool:
    return node.constant(1)


_CHECKS: dict[str, Callable[[_Node], bool]] = {
    "AveragePool": _pool,
    "MaxPool": _pool,
    "LpPool": lambda node: all(size == 1 for size in node.attributes.get("dilations", ())),
    "Constant": lambda node: (
        set(node.attributes) <= {"value", "value_float", "value_floats", "value_int", "value_ints"}
    ),
    "CumSum": _axes,
    "QuantizeLinear": _zero_point,
    "DequantizeLinear": _zero_point,
    "LayerNormalization": lambda node: len(node.node.output) == 1,
    "OneHot": _axes,
    "ScatterND": lambda node: node.attributes.get("reduction", b"none") == b"none",
    "TopK": lambda node: bool(
        node.attributes.get("sorted", 1) and (not node.constant(1) or (node.value(1) < MOST_TOP).all())
    ),
    "Squeeze": _axes,
    "Unsqueeze": _axes,
    **dict.fromkeys((name for name in operator_list().operators if name.startswith("Reduce")), _axes),
}
