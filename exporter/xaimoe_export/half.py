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

SMALLEST, LARGEST = 6.2e-5, 65_504.0
"""Magnitudes that sixteen bits hold, on hardware that takes what is not normal for 0, too. A weight beyond the largest
is brought there, and a number under the smallest, which may be one that keeps a divisor from 0."""
FIXED_TYPES = frozenset({"Cast", "CastLike", "Constant", "ConstantOfShape", "Range", "Resize", "Shape", "Size"})
"""Operators whose inputs or outputs are of a type of their own; they stay as they are."""


def why_not(model: onnx.ModelProto) -> str | None:
    """Why a graph stays in FP32; None if it does not."""
    if not any(node.op_type == "Conv" for node in model.graph.node):
        return "it has no convolution; its levels and gates need all their digits"
    if "waveform" in {value.name for value in model.graph.input} or "frames" in {v.name for v in model.graph.input}:
        return "a frontend's levels need all their digits"
    return None


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its convolutions, and what leads to them, in half precision; inputs and outputs are float32."""
    half = _up_to_convolutions(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    weights = {weight.name: weight for weight in model.graph.initializer if weight.data_type == TensorProto.FLOAT}
    inside = {output for node in model.graph.node if _key(node) in half for output in node.output}
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
            if _key(node) in half and name not in inside and (name in floats or name in weights):
                node.input[i] = convert(name, TensorProto.FLOAT16)
            elif _key(node) not in half and name in inside and name in floats:
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
    held = np.clip(values, -LARGEST, LARGEST)
    if values.size == 1 and 0 < np.abs(values).item() < SMALLEST:
        held = np.copysign(np.full_like(values, SMALLEST), values)
    half: NDArray[np.float16] = held.astype(np.float16)
    return half


def _key(node: onnx.NodeProto) -> str:
    """What tells a node from the others; names may be left out."""
    return str(node.output[0])


def _up_to_convolutions(model: onnx.ModelProto) -> set[str]:
    """Keys of the convolutions, of what leads to them, and of the ReLUs after them."""
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
        if _key(node) not in found and node.op_type not in FIXED_TYPES and not outputs & set(node.output):
            found.add(_key(node))
            waiting += [made_by[name] for name in node.input if name in made_by]
    return found
