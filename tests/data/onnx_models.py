"""Small ONNX models, and what may be wrong with them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET = 18


def integers(name: str, values: object) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def floats(name: str, values: object) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def around(
    *nodes: NodeProto, weights: Sequence[TensorProto] = (), given: Sequence[int | str] = ("B", 3), out: str = "z"
) -> bytes:
    """A model of nodes that take ``x`` [given] and make ``z``, whose sum is its output."""
    last = helper.make_node("ReduceSum", [out], ["y"], name="last", keepdims=0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, given)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph = helper.make_graph([*nodes, last], "g", [x], [y], initializer=list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return made.SerializeToString()


def varied() -> list[bytes]:
    """Models that have each kind of field that a graph may have, to be mutated."""
    node = helper.make_node
    typed = helper.make_tensor("t", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    small = helper.make_tensor("i8", TensorProto.INT8, [3], [1, -2, 3])
    whole = helper.make_tensor("i", TensorProto.INT64, [2], [-1, 3])
    value = numpy_helper.from_array(np.ones((1, 3), np.float32), "v")
    first = around(
        node("Constant", [], ["c"], name="c", value=value),
        node("Mul", ["x", "c"], ["m"], name="m", doc_string="a note"),
        node("Add", ["m", "t"], ["a"], name="a"),
        node("Reshape", ["a", "i"], ["z"], name="r"),
        node("Constant", [], ["d"], value_ints=[1, -2]),
        node("Constant", [], ["e"], value_floats=[1.0, -2.0]),
        node("LeakyRelu", ["z"], ["f"], alpha=0.5),
        weights=(typed, small, whole),
    )
    second = around(
        node("Conv", ["x", "w"], ["k"], name="k", pads=[1, 1, 1, 1], auto_pad="NOTSET"),
        node("Resize", ["k", "", "s"], ["z"], mode="nearest"),
        weights=(floats("w", np.ones((2, 1, 3, 3))), floats("s", [1, 1, 2, 2])),
        given=("B", 1, 4, 4),
    )
    return [first, second]


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = b""
    while value >= 0x80:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


def field(number: int, payload: bytes, wire_type: int = 2) -> bytes:
    """A field of a message; of wire type 2 with its length."""
    length = varint(len(payload)) if wire_type == 2 else b""
    return varint(number << 3 | wire_type) + length + payload


def mutated(content: bytes, draw: Random) -> bytes:
    """A model with one to four changes: bytes, spans, or whole fields that a parser may take in two ways."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content) + 1)
        end = min(len(content), at + draw.randint(0, 12))
        kind = draw.randrange(8)
        if kind == 0:
            new = bytes((draw.randrange(256),))
            content = content[:at] + new + content[at + 1 :]
        elif kind == 1:
            content = content[:at] + content[end:]
        elif kind == 2:
            content = content[:at] + content[at:end] + content[at:]
        elif kind == 3:
            new = bytes(draw.randrange(256) for _ in range(draw.randint(1, 6)))
            content = content[:at] + new + content[at:]
        elif kind == 4 and at < len(content):
            content = content[:at] + bytes((content[at] ^ 1 << draw.randrange(8),)) + content[at + 1 :]
        else:
            content = _with_field(content, draw)
    return content


def _with_field(content: bytes, draw: Random) -> bytes:
    """A field more, at a place where one may start, and all lengths around it put right."""
    places = list(_places(content))
    path, at = draw.choice(places)
    number = draw.choice((*range(1, 27), draw.randrange(1 << 29)))
    wire_type = draw.choice((0, 1, 2, 2, 2, 5))
    payload = {
        0: varint(draw.choice((0, 1, 2, 7, draw.getrandbits(31), draw.getrandbits(64)))),
        1: struct.pack("<d", 1.0),
        2: draw.choice((b"", b"x", field(1, b"location") + field(2, b"etc/hostname"), draw.randbytes(6))),
        5: struct.pack("<f", 1.0),
    }[wire_type]
    new = field(number, payload, wire_type)
    if draw.random() < 0.3:  # a tag whose number overflows 32 bits, or is longer than it need be
        tag = number << 3 | wire_type
        long = draw.choice((varint(tag | 1 << 32 + draw.randrange(3)), _overlong(tag)))
        new = long + (varint(len(payload)) if wire_type == 2 else b"") + payload
    return _inserted(content, path, at, new)


def _overlong(value: int) -> bytes:
    plain = varint(value)
    return plain[:-1] + bytes((plain[-1] | 0x80, 0))


MESSAGES = {"model": {7: "graph", 8: "entry", 14: "entry"}, "graph": {1: "node", 5: "tensor", 11: "value", 12: "value"}}
MESSAGES |= {"node": {5: "attribute"}, "attribute": {5: "tensor"}, "value": {2: "type"}, "type": {1: "kind"}}
"""Messages inside messages, by field."""

Path = tuple[tuple[int, int, int], ...]
"""Of the messages around a place: where each one's length is written, where it starts and where it ends."""


def _places(content: bytes, name: str = "model", at: int = 0, end: int = -1, path: Path = ()) -> list[tuple[Path, int]]:
    """Places where a field may start, as far as the bytes are still those of a message."""
    end = len(content) if end < 0 else end
    found = [(path, at)]
    try:
        while at < end:
            tag, at = _read(content, at)
            if tag & 7 == 2:
                size, start = _read(content, at)
                if start + size > end:
                    return found
                inner = MESSAGES.get(name, {}).get(tag >> 3)
                if inner:
                    found += _places(content, inner, start, start + size, (*path, (at, start, start + size)))
                at = start + size
            elif tag & 7 == 0:
                _, at = _read(content, at)
            else:
                at += 8 if tag & 7 == 1 else 4
            found.append((path, min(at, end)))
    except IndexError:
        return found
    return found


def _read(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _inserted(content: bytes, path: Path, at: int, new: bytes) -> bytes:
    """The content with bytes more at a place, and the lengths of the messages around it."""
    inner, grown = content[:at] + new + content[at:], len(new)
    for place, start, end in reversed(path):
        size = end - start + grown
        length = varint(size)
        inner = inner[:place] + length + inner[start:]
        grown = size - (end - start) + len(length) - (start - place)
    return inner
