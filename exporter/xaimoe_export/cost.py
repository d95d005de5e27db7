"""What a graph holds and costs, read off the ONNX model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

import onnx
from onnx import numpy_helper


@dataclass(frozen=True)
class Product:
    """A node that multiplies and adds."""

    name: str
    op_type: str
    inner: int
    """Products that are added up for one value of its output."""
    macs: int
    """Multiply-accumulates for one row of the dynamic axis."""
    channels: int
    """Of a convolution, those that one output sees: 1 in a depthwise one."""


@dataclass(frozen=True)
class Cost:
    """Of one graph."""

    parameters: int
    """Floating-point numbers in its initialisers, and integers that stand for such, without the scales of these."""
    initialiser_bytes: int
    operators: dict[str, int]
    """How many nodes of each operator."""
    products: tuple[Product, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one row of the dynamic axis."""
        return sum(product.macs for product in self.products)


def cost(model: onnx.ModelProto) -> Cost:
    """What a model holds and costs."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    stored = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    integers = {node.input[0] for node in stored}
    scales = {name for node in stored for name in node.input[1:]}
    return Cost(
        parameters=sum(
            prod(tensor.dims)
            for name, tensor in weights.items()
            if name in integers or (tensor.data_type in floats and name not in scales)
        ),
        initialiser_bytes=sum(numpy_helper.to_array(tensor).nbytes for tensor in weights.values()),
        operators=dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        products=tuple(_products(model)),
    )


def shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Shapes of all tensors that can be inferred; a string is a dynamic size."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    found: dict[str, list[int | str]] = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return found | {tensor.name: list(tensor.dims) for tensor in inferred.initializer}


def _products(model: onnx.ModelProto) -> list[Product]:
    known = shapes(model)
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        left, right = (known[name] for name in node.input[:2])
        channels = _static(right[1:2]) if node.op_type == "Conv" else 0
        if node.op_type == "Conv":
            inner = _static(right[1:])
        elif node.op_type == "Gemm":
            inner = _static(right[1:] if transposed else right[:1])
        else:
            inner = _static(left[-1:])
        macs = inner * _static(known[node.output[0]])
        found.append(Product(node.name, node.op_type, inner, macs, channels))
    return found


def _static(sizes: list[int | str]) -> int:
    """How many values there are for one row of the dynamic axis."""
    return prod(size for size in sizes if isinstance(size, int))
