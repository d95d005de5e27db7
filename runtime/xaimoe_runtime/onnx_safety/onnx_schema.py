"""The messages of ``onnx.proto`` as data: which fields a graph of a bundle may have, and which exist but are refused.

Source: onnx.proto of ONNX 1.16 to 1.23 (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). A field that is not
named here is unknown, and an error.
"""

from __future__ import annotations

from typing import NamedTuple

from xaimoe_runtime.onnx_safety.wire import Field, Kind, Schema


def _single(name: str, kind: Kind, message: str = "", oneof: str = "") -> Field:
    return Field(name, kind, message=message, oneof=oneof)


def _many(name: str, kind: Kind, message: str = "", packed: bool = False) -> Field:
    return Field(name, kind, repeated=True, packed=packed, message=message)


def _refused(name: str) -> Field:
    return Field(name, Kind.REFUSED)


ENTRIES = _many("metadata_props", Kind.MESSAGE, "StringStringEntryProto")
DOC = _single("doc_string", Kind.TEXT)

MESSAGES = {
    "ModelProto": {
        1: _single("ir_version", Kind.INT64),
        2: _single("producer_name", Kind.TEXT),
        3: _single("producer_version", Kind.TEXT),
        4: _single("domain", Kind.TEXT),
        5: _single("model_version", Kind.INT64),
        6: DOC,
        7: _single("graph", Kind.MESSAGE, "GraphProto"),
        8: _many("opset_import", Kind.MESSAGE, "OperatorSetIdProto"),
        14: ENTRIES,
        20: _refused("training_info"),
        25: _refused("functions"),
        26: _refused("configuration"),
    },
    "OperatorSetIdProto": {1: _single("domain", Kind.TEXT), 2: _single("version", Kind.INT64)},
    "StringStringEntryProto": {1: _single("key", Kind.TEXT), 2: _single("value", Kind.TEXT)},
    "GraphProto": {
        1: _many("node", Kind.MESSAGE, "NodeProto"),
        2: _single("name", Kind.TEXT),
        5: _many("initializer", Kind.MESSAGE, "TensorProto"),
        10: DOC,
        11: _many("input", Kind.MESSAGE, "ValueInfoProto"),
        12: _many("output", Kind.MESSAGE, "ValueInfoProto"),
        13: _many("value_info", Kind.MESSAGE, "ValueInfoProto"),
        14: _refused("quantization_annotation"),
        15: _refused("sparse_initializer"),
        16: ENTRIES,
    },
    "NodeProto": {
        1: _many("input", Kind.TEXT),
        2: _many("output", Kind.TEXT),
        3: _single("name", Kind.TEXT),
        4: _single("op_type", Kind.TEXT),
        5: _many("attribute", Kind.MESSAGE, "AttributeProto"),
        6: DOC,
        7: _single("domain", Kind.TEXT),
        8: _refused("overload"),
        9: ENTRIES,
        10: _refused("device_configurations"),
    },
    "AttributeProto": {
        1: _single("name", Kind.TEXT),
        2: _single("f", Kind.FLOAT),
        3: _single("i", Kind.INT64),
        4: _single("s", Kind.BYTES),
        5: _single("t", Kind.MESSAGE, "TensorProto"),
        6: _refused("g"),
        7: _many("floats", Kind.FLOAT),
        8: _many("ints", Kind.INT64),
        9: _many("strings", Kind.BYTES),
        10: _refused("tensors"),
        11: _refused("graphs"),
        13: DOC,
        14: _refused("tp"),
        15: _refused("type_protos"),
        20: _single("type", Kind.INT32),
        21: _refused("ref_attr_name"),
        22: _refused("sparse_tensor"),
        23: _refused("sparse_tensors"),
    },
    "TensorProto": {
        1: _many("dims", Kind.INT64),
        2: _single("data_type", Kind.INT32),
        3: _refused("segment"),
        4: _many("float_data", Kind.FLOAT, packed=True),
        5: _many("int32_data", Kind.INT32, packed=True),
        6: _refused("string_data"),
        7: _many("int64_data", Kind.INT64, packed=True),
        8: _single("name", Kind.TEXT),
        9: _single("raw_data", Kind.BYTES),
        10: _many("double_data", Kind.DOUBLE, packed=True),
        11: _many("uint64_data", Kind.UINT64, packed=True),
        12: DOC,
        13: _refused("external_data"),
        14: _single("data_location", Kind.INT32),
        16: ENTRIES,
    },
    "ValueInfoProto": {
        1: _single("name", Kind.TEXT),
        2: _single("type", Kind.MESSAGE, "TypeProto"),
        3: DOC,
        4: ENTRIES,
    },
    "TypeProto": {
        1: _single("tensor_type", Kind.MESSAGE, "TypeProto.Tensor"),
        4: _refused("sequence_type"),
        5: _refused("map_type"),
        6: _single("denotation", Kind.TEXT),
        7: _refused("opaque_type"),
        8: _refused("sparse_tensor_type"),
        9: _refused("optional_type"),
    },
    "TypeProto.Tensor": {
        1: _single("elem_type", Kind.INT32),
        2: _single("shape", Kind.MESSAGE, "TensorShapeProto"),
    },
    "TensorShapeProto": {1: _many("dim", Kind.MESSAGE, "TensorShapeProto.Dimension")},
    "TensorShapeProto.Dimension": {
        1: _single("dim_value", Kind.INT64, oneof="value"),
        2: _single("dim_param", Kind.TEXT, oneof="value"),
        3: _single("denotation", Kind.TEXT),
    },
}
SCHEMA = Schema(MESSAGES)

REFUSED: dict[str, tuple[str, str]] = {
    "training_info": ("instructions for training", "none"),
    "functions": ("functions of its own", "standard operators alone"),
    "configuration": ("instructions for several devices", "none"),
    "quantization_annotation": ("notes on quantisation", "QuantizeLinear and DequantizeLinear"),
    "sparse_initializer": ("sparse weights", "dense ones"),
    "overload": ("an overloaded function", "standard operators alone"),
    "device_configurations": ("instructions for several devices", "none"),
    "g": ("a subgraph", "operators without one"),
    "graphs": ("a subgraph", "operators without one"),
    "tensors": ("a list of tensors", "one tensor"),
    "tp": ("a type", "numbers, text or a tensor"),
    "type_protos": ("a type", "numbers, text or a tensor"),
    "ref_attr_name": ("an attribute of a function", "attributes of its own"),
    "sparse_tensor": ("a sparse tensor", "dense ones"),
    "sparse_tensors": ("a sparse tensor", "dense ones"),
    "segment": ("a part of a tensor", "whole tensors"),
    "string_data": ("text in a tensor", "numbers"),
    "external_data": ("weights in another file", "weights inside the graph"),
}
"""What a refused field is in words, and what is expected instead."""


class DataType(NamedTuple):
    """An element type of tensors."""

    name: str
    bytes: int
    """Of an element."""
    field: str
    """Where ``TensorProto`` keeps values that are not in ``raw_data``."""


FLOAT, UINT8, INT8, UINT16, INT16, INT32, INT64, BOOL, FLOAT16, DOUBLE, BFLOAT16 = 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 16
DATA_TYPES: dict[int, DataType] = {
    FLOAT: DataType("float32", 4, "float_data"),
    UINT8: DataType("uint8", 1, "int32_data"),
    INT8: DataType("int8", 1, "int32_data"),
    UINT16: DataType("uint16", 2, "int32_data"),
    INT16: DataType("int16", 2, "int32_data"),
    INT32: DataType("int32", 4, "int32_data"),
    INT64: DataType("int64", 8, "int64_data"),
    BOOL: DataType("bool", 1, "int32_data"),
    FLOAT16: DataType("float16", 2, "int32_data"),
    DOUBLE: DataType("float64", 8, "double_data"),
    12: DataType("uint32", 4, "uint64_data"),
    13: DataType("uint64", 8, "uint64_data"),
    BFLOAT16: DataType("bfloat16", 2, "int32_data"),
}
"""By their number in ``TensorProto.DataType``; no texts and no complex numbers."""
