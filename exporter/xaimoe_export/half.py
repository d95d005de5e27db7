"""FP16 for GPUs: what leads to the convolutions, and they, in half precision; what is made of their answers is not.

Sums over many cells and powers of them leave the range of sixteen bits; a spectrogram within a few standard deviations
does not.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxslim
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SMALLEST, LARGEST = 6.0e-8, 65_504.0
"""Magnitudes that sixteen bits hold; a weight beyond is brought there, so that none becomes 0 or infinite."""


def why_not(model: onnx.ModelProto) -> str | None:
    """Why a graph stays in FP32; None if it does not."""
    if not any(node.op_type == "Conv" for node in model.graph.node):
        return "it has no convolution; its levels and gates need all their digits"
    return None


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its convolutions, and what leads to them, in half precision; inputs and outputs are float32."""
    half = _up_to_convolutions(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {weight.name: weight for weight in model.graph.initializer if weight.data_type == TensorProto.FLOAT}
    inside = {output for node in model.graph.node if node.name in half for output in node.output}
    nodes: list[onnx.NodeProto] = []
    cast: dict[str, str] = {}
    added: list[onnx.TensorProto] = []

    def convert(name: str, to: int) -> str:
        """The name of a tensor in the other precision, made where it is first asked for."""
        suffix = "fp16" if to == TensorProto.FLOAT16 else "fp32"
        if name not in cast:
            cast[name] = f"{name}/{suffix}"
            if name in weights:
                added.append(numpy_helper.from_array(_in_range(numpy_helper.to_array(weights[name])), cast[name]))
            else:
                nodes.append(helper.make_node("Cast", [name], [cast[name]], name=cast[name], to=to))
        return cast[name]

    for source in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(source)
        for i, name in enumerate(node.input):
            if node.name in half and name not in inside and (name in floats or name in weights):
                node.input[i] = convert(name, TensorProto.FLOAT16)
            elif node.name not in half and name in inside and name in floats:
                node.input[i] = convert(name, TensorProto.FLOAT)
        nodes.append(node)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.value_info[:]
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(added)
    slimmed: onnx.ModelProto = onnxslim.slim(result)
    return slimmed


def _in_range(values: NDArray[np.float32]) -> NDArray[np.float16]:
    held = np.sign(values) * np.clip(np.abs(values), SMALLEST, LARGEST)
    half: NDArray[np.float16] = held.astype(np.float16)
    return half


def _up_to_convolutions(model: onnx.ModelProto) -> set[str]:
    """Names of the convolutions, of what leads to them, and of the ReLUs after them."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    outputs = {value.name for value in model.graph.output}
    waiting = [node for node in model.graph.node if node.op_type == "Conv"]
    waiting += [
        node
        for node in model.graph.node
        if node.op_type == "Relu" and node.input[0] in made_by and made_by[node.input[0]].op_type == "Conv"
    ]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if node.name not in found and not outputs & set(node.output):
            found.add(node.name)
            waiting += [made_by[name] for name in node.input if name in made_by]
    return found
