"""A graph as the checks see it: nodes, weights, inputs and outputs, each by its name.

Nothing is computed here; what a file must not hold at all is refused while it is read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.onnx_safety.onnx_schema import BOOL, DATA_TYPES, REFUSED
from xaimoe_runtime.onnx_safety.wire import REFUSED_FIELD, Parsed

DOMAINS = frozenset({"", "ai.onnx"})
"""Of standard operators."""
OPSETS = range(18, 22)
"""Versions of the standard operators whose sizes are known."""
MAX_NODES = 10_000
MAX_RANK = 8
"""Axes of a tensor."""
MAX_NAME = 1024
"""Characters of a name."""
MAX_TENSOR_BYTES = 1 << 30
"""Of one tensor, in the file or computed."""
MAX_VALUES = 64
"""Elements of a tensor whose values the checks look at: shapes, axes, paddings, scales."""
MAX_METADATA = 1 << 16
"""Characters of the notes on a model."""
SESSION_SETTINGS = "ort_config"
"""Key of the notes in which ONNX Runtime looks for settings of its session."""


class UnsafeGraphError(ValueError):
    """A graph that is refused; the message says what was found and what was expected."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(f"found {found}, expected {expected}")


@dataclass(frozen=True)
class Tensor:
    """Numbers that are in the file."""

    data_type: int
    shape: tuple[int, ...]
    integers: tuple[int, ...] | None
    """The values of a small tensor of whole numbers."""
    floats: tuple[float, ...] | None = None
    """The values of a small tensor of floating-point numbers."""


Attribute = int | float | bytes | tuple[int, ...] | tuple[float, ...] | tuple[bytes, ...] | Tensor


@dataclass(frozen=True)
class Declared:
    """An input, output or intermediate tensor as it is declared."""

    data_type: int
    shape: tuple[int | str, ...] | None
    """Sizes; a text names a dynamic one, and is empty if it has no name. None if the rank is not declared."""


@dataclass(frozen=True)
class Node:
    """One operator at work."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    """Names of tensors; empty where an optional input is left out."""
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]

    @property
    def where(self) -> str:
        """The node in messages."""
        return f"node {self.name or '(unnamed)'} ({self.operator})"


@dataclass(frozen=True)
class Graph:
    """What a file holds."""

    nodes: tuple[Node, ...]
    weights: dict[str, Tensor]
    inputs: dict[str, Declared]
    outputs: dict[str, Declared]
    intermediates: dict[str, Declared]
    """Those that are declared."""


def graph_of(model: Parsed) -> Graph:
    """Return the graph of a parsed ``ModelProto``.

    Raises:
        UnsafeGraphError: there is none, or it holds what no graph of a bundle may have: operators of another domain or
            another operator set, functions, subgraphs, weights in another file, sparse weights, tensors that declare
            more than they hold, names that come twice or are used before they are made.
    """
    _refuse(model, "")
    if "graph" not in model:
        raise UnsafeGraphError("no graph", "one")
    _check_notes(model)
    versions = {entry.get("domain", ""): entry.get("version", 0) for entry in model.get("opset_import", ())}
    for domain in versions:
        _check_domain(domain, "the operator set")
    if len(model.get("opset_import", ())) != 1 or next(iter(versions.values())) not in OPSETS:
        found = ", ".join(map(str, versions.values())) or "none"
        raise UnsafeGraphError(f"the operator sets {found}", f"one of {OPSETS.start} to {OPSETS.stop - 1}")
    graph: Parsed = model["graph"]
    _refuse(graph, "")
    if len(graph.get("node", ())) > MAX_NODES:
        raise UnsafeGraphError(f"{len(graph['node'])} nodes", f"at most {MAX_NODES}")
    weights: dict[str, Tensor] = {}
    for tensor in graph.get("initializer", ()):
        name = _name(tensor.get("name", ""), "weights")
        if name in weights:
            raise UnsafeGraphError(f"the weights {name} twice", "each name once")
        weights[name] = tensor_of(tensor, f"the weights {name}")
    nodes = tuple(_node(node) for node in graph.get("node", ()))
    declared = {field: _declared(graph, field) for field in ("input", "output", "value_info")}
    _check_order(nodes, weights, declared["input"], declared["output"])
    return Graph(nodes, weights, declared["input"], declared["output"], declared["value_info"])


def _check_notes(model: Parsed) -> None:
    notes = model.get("metadata_props", ())
    if any(entry.get("key", "") == SESSION_SETTINGS for entry in notes):
        raise UnsafeGraphError(f"settings of ONNX Runtime ({SESSION_SETTINGS}) in the notes on the model", "none")
    size = sum(len(text) for entry in notes for text in entry.values())
    if size > MAX_METADATA:
        raise UnsafeGraphError(f"{size} characters of notes on the model", f"at most {MAX_METADATA}")


def _refuse(message: Parsed, where: str) -> None:
    """Refuses the fields of a message that no graph may have."""
    if REFUSED_FIELD in message:
        found, expected = REFUSED[message[REFUSED_FIELD]]
        raise UnsafeGraphError(f"{found} in {where}" if where else found, expected)


def _check_domain(domain: str, where: str) -> None:
    if domain not in DOMAINS:
        raise UnsafeGraphError(f"the operator domain {domain!r} in {where}", "standard ONNX operators")


def _name(name: str, what: str) -> str:
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise UnsafeGraphError(f"the name {name[:40]!r} of {what}", f"1 to {MAX_NAME} printable characters")
    return name


def _node(node: Parsed) -> Node:
    operator = _name(node.get("op_type", ""), "an operator")
    name = node.get("name", "")
    where = f"node {_name(name, 'a node') if name else '(unnamed)'} ({operator})"
    _check_domain(node.get("domain", ""), where)
    _refuse(node, where)
    for tensor in (*node.get("input", ()), *node.get("output", ())):
        if tensor:
            _name(tensor, f"a tensor of {where}")
    attributes: dict[str, Attribute] = {}
    for attribute in node.get("attribute", ()):
        key = _name(attribute.get("name", ""), f"an attribute of {where}")
        if key in attributes:
            raise UnsafeGraphError(f"the attribute {key} twice in {where}", "each once")
        attributes[key] = _attribute(attribute, where)
    return Node(operator, name, tuple(node.get("input", ())), tuple(node.get("output", ())), attributes)


_VALUES = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
"""Field of an attribute's value, by the number of its type."""
_LISTS = frozenset({"floats", "ints", "strings"})


def _attribute(attribute: Parsed, where: str) -> Attribute:
    """The value of an attribute, which is of the type that it declares and of no other."""
    _refuse(attribute, where)
    name = attribute["name"]
    field = _VALUES.get(attribute.get("type", 0))
    given = [other for other in _VALUES.values() if other in attribute]
    if field is None or given not in ([field], [] if field in _LISTS else [field]):
        raise UnsafeGraphError(
            f"the attribute {name} of type {attribute.get('type', 0)} with {' and '.join(given) or 'no value'} "
            f"in {where}",
            "one value of its type",
        )
    value = attribute.get(field, ())
    if field == "t":
        return tensor_of(value, f"a tensor of {where}")
    if field == "f":
        return float(struct.unpack("<f", value)[0])
    if field == "floats":
        return tuple(np.frombuffer(bytes(value), "<f4").tolist())
    if field == "s":
        return bytes(value)
    if field == "strings":
        return tuple(bytes(one) for one in value)
    return value if field == "i" else tuple(value)


def tensor_of(tensor: Parsed, what: str) -> Tensor:
    """Return what a ``TensorProto`` holds.

    Raises:
        UnsafeGraphError: it is in another file, of a type that is no number, or holds not what its shape declares.
    """
    if tensor.get("data_location", 0) != 0 or tensor.get(REFUSED_FIELD) == "external_data":
        raise UnsafeGraphError(f"{what} in another file", "weights inside the graph")
    _refuse(tensor, what)
    kind = DATA_TYPES.get(tensor.get("data_type", 0))
    if kind is None:
        known = ", ".join(one.name for one in DATA_TYPES.values())
        raise UnsafeGraphError(f"{what} of data type {tensor.get('data_type', 0)}", f"one of {known}")
    shape = tuple(tensor.get("dims", ()))
    elements = _elements(shape, what)
    check_bytes(elements * kind.bytes, what)
    typed = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    given = [field for field in ("raw_data", *typed) if field in tensor and (field == "raw_data" or tensor[field])]
    if given not in ([], ["raw_data"], [kind.field]):
        raise UnsafeGraphError(f"{what} with values in {' and '.join(given)}", f"raw_data or {kind.field}")
    if given == ["raw_data"]:
        held = len(tensor["raw_data"])
        if held != elements * kind.bytes:
            raise UnsafeGraphError(f"{what} with {held} bytes", f"the {elements * kind.bytes} that its shape declares")
        values = np.frombuffer(tensor["raw_data"], _dtype(kind.name)) if kind.name != "bfloat16" else None
    else:
        count = _count(tensor, kind.field)
        if count != elements:
            word = "fewer" if count < elements else "more"
            raise UnsafeGraphError(
                f"{what} with {word} values than its shape declares ({count})", f"{elements} of them"
            )
        values = _typed(tensor, kind.field)
        if kind.field == "int32_data":
            _check_range(tensor, what)
    return _with_values(tensor["data_type"], shape, values, elements)


def _with_values(data_type: int, shape: tuple[int, ...], values: NDArray[np.generic] | None, elements: int) -> Tensor:
    """A tensor with its values, if it is small."""
    if values is None or elements > MAX_VALUES:
        return Tensor(data_type, shape, None)
    if DATA_TYPES[data_type].name.startswith(("int", "uint")):
        return Tensor(data_type, shape, tuple(int(value) for value in values.tolist()))
    if values.dtype.kind == "f":
        return Tensor(data_type, shape, None, tuple(float(value) for value in values.tolist()))
    return Tensor(data_type, shape, None)


def _dtype(name: str) -> np.dtype[np.generic]:
    return np.dtype(name).newbyteorder("<")


def _count(tensor: Parsed, field: str) -> int:
    values = tensor.get(field, ())
    width = {"float_data": 4, "double_data": 8}.get(field, 1)
    return len(values) // width


def _typed(tensor: Parsed, field: str) -> NDArray[np.generic] | None:
    """Values that are not in ``raw_data``; of 16-bit floating-point numbers the bits."""
    values = tensor.get(field, ())
    if field in ("float_data", "double_data"):
        return np.frombuffer(bytes(values), "<f4" if field == "float_data" else "<f8")
    return np.array(values, np.uint64 if field == "uint64_data" else np.int64)


def _check_range(tensor: Parsed, what: str) -> None:
    """Values of 8 and 16 bits, which are written as 32, fit."""
    kind = DATA_TYPES[tensor["data_type"]]
    bits = kind.bytes * 8
    signed = kind.name in ("int8", "int16", "int32")
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 2 if tensor["data_type"] == BOOL else 1 << bits)
    if any(not low <= value < high for value in tensor.get("int32_data", ())):
        raise UnsafeGraphError(f"{what} with values that are no {kind.name}", f"{low} to {high - 1}")


def _elements(shape: tuple[int, ...], what: str) -> int:
    if len(shape) > MAX_RANK:
        raise UnsafeGraphError(f"{what} of {len(shape)} axes", f"at most {MAX_RANK}")
    if any(size < 0 for size in shape):
        raise UnsafeGraphError(f"{what} of a negative size", "sizes of 0 or more")
    return prod(shape)


def check_bytes(size: int, what: str) -> None:
    """Refuse a tensor that is too large.

    Raises:
        UnsafeGraphError: it is.
    """
    if size > MAX_TENSOR_BYTES:
        raise UnsafeGraphError(f"{what} of {size} bytes", f"at most {MAX_TENSOR_BYTES}")


def _declared(graph: Parsed, field: str) -> dict[str, Declared]:
    """Inputs, outputs or intermediate tensors by name."""
    found: dict[str, Declared] = {}
    for value in graph.get(field, ()):
        name = _name(value.get("name", ""), "a tensor")
        if name in found:
            raise UnsafeGraphError(f"the tensor {name} declared twice", "each once")
        found[name] = _declaration(value, f"the tensor {name}")
    return found


def _declaration(value: Parsed, what: str) -> Declared:
    kind = value.get("type", {})
    if REFUSED_FIELD in kind or "tensor_type" not in kind:
        raise UnsafeGraphError(f"{what} of a type that is no tensor", "tensors")
    tensor = kind["tensor_type"]
    data_type = tensor.get("elem_type", 0)
    if data_type not in DATA_TYPES:
        raise UnsafeGraphError(f"{what} of data type {data_type}", "numbers")
    if "shape" not in tensor:
        return Declared(data_type, None)
    shape = tuple(size.get("dim_value", size.get("dim_param", "")) for size in tensor["shape"].get("dim", ()))
    elements = _elements(tuple(size for size in shape if isinstance(size, int)), what)
    check_bytes(elements * DATA_TYPES[data_type].bytes, what)
    if len(shape) > MAX_RANK:
        raise UnsafeGraphError(f"{what} of {len(shape)} axes", f"at most {MAX_RANK}")
    return Declared(data_type, shape)


def _check_order(
    nodes: tuple[Node, ...],
    weights: dict[str, Tensor],
    inputs: dict[str, Declared],
    outputs: dict[str, Declared],
) -> None:
    """Each tensor is made once, and before it is used."""
    if both := sorted(weights.keys() & inputs.keys()):
        raise UnsafeGraphError(f"the input {both[0]} with weights of the same name", "different names")
    made = {*weights, *inputs}
    for node in nodes:
        for tensor in node.inputs:
            if tensor and tensor not in made:
                raise UnsafeGraphError(
                    f"the input {tensor} of {node.where}, which nothing before it makes", "another order"
                )
        for tensor in node.outputs:
            if tensor in made:
                raise UnsafeGraphError(f"the tensor {tensor} made twice, by {node.where}", "each once")
            if tensor:
                made.add(tensor)
    if missing := sorted(outputs.keys() - made):
        raise UnsafeGraphError(f"the output {missing[0]}, which nothing makes", "outputs of nodes")
