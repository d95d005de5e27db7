"""What an ONNX file says of itself, read without ONNX Runtime: a file from outside is refused before it is run.

Only the few fields that matter are read, from the wire format of ``onnx.proto`` (https://github.com/onnx/onnx): numbers
are varints, everything else has its length before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from xaimoe_runtime.errors import BundleError

DOMAINS = frozenset({"", "ai.onnx"})
"""Of operators that every engine knows."""
LARGEST = 1 << 30
"""Bytes that a tensor may declare."""
_WIDTHS = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
"""Bytes of an element, by the number of its data type; strings (8) have no width."""

_SHAPED_BY = {"ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Resize": (3,), "OneHot": (1,), "Range": (1,)}
"""Inputs that say how large an operator's output is."""

_Value = int | memoryview
_Message = dict[int, list[_Value]]


def check(name: str, content: bytes) -> None:
    """Refuses an ONNX file that holds anything but standard operators and its own weights.

    Args:
        name: of the file, for messages.
        content: of the file.

    Raises:
        BundleError: cut short, or no ONNX file; operators of another domain, functions, subgraphs; weights outside the
            file; a tensor that declares more than it holds, or more than ``LARGEST``.
    """
    try:
        model = _message(memoryview(content))
        graphs = _messages(model, 7)
        if len(graphs) != 1:
            raise ValueError("it has no graph")
        for opset in _messages(model, 8):
            _check_domain(name, _text(opset, 1), "the operator set")
        if model.get(20):
            raise _refusal(name, "instructions for training", "none")
        if model.get(25):
            raise _refusal(name, "functions of its own", "standard operators alone")
        _check_graph(name, graphs[0])
    except (ValueError, IndexError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{name}: no ONNX graph ({error}); export or copy the bundle again") from error


def operators(content: bytes) -> frozenset[str]:
    """Names of the operators in a file that :func:`check` lets pass."""
    (graph,) = _messages(_message(memoryview(content)), 7)
    return frozenset(_text(node, 4) for node in _messages(graph, 1))


def _check_graph(name: str, graph: _Message) -> None:
    numbers = {_text(tensor, 8): tensor for tensor in _messages(graph, 5)}
    numbers |= {
        _text(node, 2): tensor
        for node in _messages(graph, 1)
        if _text(node, 4) == "Constant"
        for attribute in _messages(node, 5)
        for tensor in _messages(attribute, 5)
    }
    for node in _messages(graph, 1):
        _check_made(name, node, numbers)
        what = f"node {_text(node, 3) or '(unnamed)'} ({_text(node, 4)})"
        _check_domain(name, _text(node, 7), what)
        for attribute in _messages(node, 5):
            if attribute.get(6) or attribute.get(11):
                raise _refusal(name, f"a subgraph in {what}", "operators without one")
            if attribute.get(22) or attribute.get(23):
                raise _refusal(name, f"a sparse tensor in {what}", "dense ones")
            for tensor in (*_messages(attribute, 5), *_messages(attribute, 10)):
                _check_tensor(name, tensor, f"a tensor of {what}")
    if graph.get(15):
        raise _refusal(name, "sparse weights", "dense ones")
    for tensor in _messages(graph, 5):
        _check_tensor(name, tensor, f"the weights {_text(tensor, 8)}")
    for field in (11, 12, 13):
        for value in _messages(graph, field):
            _check_value(name, value)


def _check_made(name: str, node: _Message, numbers: dict[str, _Message]) -> None:
    """A node that makes a tensor of a constant shape does not make a huge one: ONNX Runtime would at loading."""
    operator, what = _text(node, 4), f"a tensor made by node {_text(node, 3) or '(unnamed)'} ({_text(node, 4)})"
    if operator in _SHAPED_BY:
        given = [bytes(part).decode(errors="replace") for part in node.get(1, ()) if isinstance(part, memoryview)]
        for index in _SHAPED_BY[operator]:
            if index < len(given) and given[index] in numbers:
                _check_size(name, 4 * _elements(name, _integers(numbers[given[index]]), what), what)
    elif operator.startswith("Random"):
        for attribute in _messages(node, 5):
            if _text(attribute, 1) == "shape":
                _check_size(name, 4 * _elements(name, _numbers(attribute, 8), what), what)


def _integers(tensor: _Message) -> list[int]:
    """The values of a small tensor of 64-bit integers, those that are -1 taken for 1; empty for any other."""
    raw = [part for part in tensor.get(9, ()) if isinstance(part, memoryview)]
    if _number(tensor, 2) != 7 or sum(map(len, raw)) > 1024:
        return []
    values = [int.from_bytes(part[i : i + 8], "little") for part in raw for i in range(0, len(part), 8)]
    return [1 if value == (1 << 64) - 1 else value for value in values or _numbers(tensor, 7)]


def _check_domain(name: str, domain: str, what: str) -> None:
    if domain not in DOMAINS:
        raise _refusal(name, f"the operator domain {domain!r} in {what}", "standard ONNX operators")


def _check_tensor(name: str, tensor: _Message, what: str) -> None:
    """A tensor holds what its shape and type declare, neither less nor elsewhere."""
    if tensor.get(13) or _number(tensor, 14) != 0:
        raise _refusal(name, f"{what} in another file", "weights inside the graph")
    elements = _elements(name, _numbers(tensor, 1), what)
    width = _WIDTHS.get(_number(tensor, 2), 1)
    _check_size(name, elements * width, what)
    raw = tensor.get(9)
    if raw:
        held = sum(len(part) for part in raw if isinstance(part, memoryview))
        if held != elements * width:
            raise _refusal(name, f"{what} with {held} bytes", f"the {elements * width} that its shape declares")
    elif elements > sum(_packed_bytes(part) for field in (4, 5, 6, 7, 10, 11) for part in tensor.get(field, ())):
        raise _refusal(name, f"{what} with fewer values than its shape declares", f"{elements} of them")


def _check_value(name: str, value: _Message) -> None:
    """An input, output or intermediate result does not declare more than is ever needed."""
    for kind in _messages(value, 2):
        for tensor in _messages(kind, 1):
            for shape in _messages(tensor, 2):
                sizes = [_number(size, 1) for size in _messages(shape, 1) if size.get(1)]
                what = f"the tensor {_text(value, 1)}"
                _check_size(name, _elements(name, sizes, what) * _WIDTHS.get(_number(tensor, 1), 1), what)


def _elements(name: str, sizes: list[int], what: str) -> int:
    if any(size >= 1 << 63 for size in sizes):
        raise _refusal(name, f"{what} of a negative size", "sizes of 0 or more")
    return prod(sizes)


def _check_size(name: str, size: int, what: str) -> None:
    if size > LARGEST:
        raise _refusal(name, f"{what} of {size} bytes", f"at most {LARGEST}")


def _refusal(name: str, found: str, expected: str) -> BundleError:
    return BundleError(f"{name}: found {found}, expected {expected}; do not use the bundle")


def _packed_bytes(part: _Value) -> int:
    """An upper limit of the values in a packed or single field."""
    return 1 if isinstance(part, int) else max(len(part), 1)


def _messages(message: _Message, field: int) -> list[_Message]:
    return [_message(part) for part in message.get(field, ()) if isinstance(part, memoryview)]


def _text(message: _Message, field: int) -> str:
    found = message.get(field, [memoryview(b"")])[-1]
    return bytes(found).decode(errors="replace") if isinstance(found, memoryview) else ""


def _number(message: _Message, field: int) -> int:
    found = message.get(field, [0])[-1]
    return found if isinstance(found, int) else 0


def _numbers(message: _Message, field: int) -> list[int]:
    """A repeated number, packed or not."""
    found: list[int] = []
    for part in message.get(field, ()):
        if isinstance(part, int):
            found.append(part)
            continue
        at = 0
        while at < len(part):
            value, at = _varint(part, at)
            found.append(value)
    return found


def _message(content: memoryview) -> _Message:
    fields: _Message = {}
    for number, value in _fields(content):
        fields.setdefault(number, []).append(value)
    return fields


def _fields(content: memoryview) -> Iterator[tuple[int, _Value]]:
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(content, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(content, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(content):
            raise ValueError(f"cut short at byte {at}")
        yield key >> 3, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
        shift += 7
        if shift > 63:
            raise ValueError(f"number too long at byte {at}")
