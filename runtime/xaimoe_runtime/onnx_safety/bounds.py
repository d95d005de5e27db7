"""How much memory and work a graph takes, bounded before anything is run.

Sizes follow from the declared inputs, operator by operator. What depends on numbers that only a run would show is
refused, unless it is bounded by what it is taken from (``NonZero``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from xaimoe_runtime.onnx_safety.call import Call, Known, known_of
from xaimoe_runtime.onnx_safety.graph import MAX_RANK, MAX_TENSOR_BYTES, Declared, Graph, Node, UnsafeGraphError
from xaimoe_runtime.onnx_safety.onnx_schema import DATA_TYPES
from xaimoe_runtime.onnx_safety.operators import OPERATORS
from xaimoe_runtime.onnx_safety.sizes import Axes, Range, Size

MAX_TOTAL_BYTES = 16 << 30
"""Of all tensors that a graph computes for the largest batch, added up; few of them are held at a time."""
MAX_SINGLE_BYTES = 256 << 20
"""The same for a batch of one."""
PER_INPUT_BYTE, PER_INPUT_BYTE_TENSOR = 400, 32
"""Where that is more: bytes of all tensors, and of one, for each byte of the inputs. Frontends and fused graphs, whose
clips may be long and of a high rate, compute 150 to 210 and 13 of them."""
MAX_DIMENSION = 1 << 31
"""Elements along an axis."""
MAX_CONSTANT_BYTES = 64 << 20
"""Of what is computed from weights alone, which ONNX Runtime does when it makes a session, and keeps."""
MAX_SINGLE_WORK = 50_000_000_000
"""Multiply-accumulates for a batch of one."""
MAX_CONSTANT_WORK = 200_000_000
"""Those of what is computed from weights alone."""
DEFAULT_RANGE = Range(1, 128, 1)
"""Of a dynamic axis that nothing is said of."""
FORMULA = re.compile(r"(?P<factor>[0-9]{1,9})\*(?P<name>\w{1,64})( \+ (?P<offset>[0-9]{1,9}))?")
"""Name of an axis that holds whole frames, as in ``320*n + 704``."""


@dataclass(frozen=True)
class Axis:
    """A dynamic axis of an input: ``factor * name + offset`` elements."""

    name: str
    values: Range
    """Of what has the name."""
    factor: int = 1
    offset: int = 0


@dataclass(frozen=True)
class Bounds:
    """What a graph takes at most."""

    single_bytes: int
    """Of all tensors that are computed for a batch of one."""
    total_bytes: int
    """The same for the largest batch."""
    largest_bytes: int
    """Of one tensor, for the largest batch."""
    constant_bytes: int
    """Of what is computed from weights alone."""
    single_work: int
    """Multiply-accumulates, or elements where nothing is added up, for a batch of one."""
    constant_work: int


@dataclass
class _Sum:
    total_input: int = 0
    single_input: int = 0
    single: int = 0
    total: int = 0
    largest: int = 0
    constant: int = 0
    single_work: int = 0
    constant_work: int = 0


def bound(graph: Graph, dynamic: Mapping[tuple[str, int], Axis] | None = None) -> Bounds:
    """Return what a graph takes at most.

    Args:
        graph: the graph.
        dynamic: what is known of dynamic axes, by input and number of the axis. Others have 1 to 128 elements, or as
            many frames.

    Raises:
        UnsafeGraphError: an operator is not in the table, or its output has no bound, or one that is too large; or the
            graph declares other shapes than follow.
    """
    return infer(graph, dynamic)[2]


def infer(graph: Graph, dynamic: Mapping[tuple[str, int], Axis] | None = None) -> tuple[dict[str, Known], Axes, Bounds]:
    """Return what is known of each tensor, the axes that sizes depend on, and what the graph takes at most.

    Args:
        graph: as for :func:`bound`.
        dynamic: as for :func:`bound`.

    Raises:
        UnsafeGraphError: as :func:`bound` does.
    """
    axes = Axes()
    known = {name: known_of(tensor) for name, tensor in graph.weights.items()}
    for name, declared in graph.inputs.items():
        known[name] = _input(name, declared, axes, dynamic or {})
    fixed = set(graph.weights)
    counts = {name: axes.elements(one.shape) for name, one in known.items()}
    taken = [[DATA_TYPES[known[name].data_type].bytes * count for count in counts[name]] for name in graph.inputs]
    found = _Sum(*(sum(sizes) for sizes in zip(*taken, strict=True))) if taken else _Sum()
    for node in graph.nodes:
        given = tuple(known[name] if name else None for name in node.inputs)
        call = Call(node, given, axes)
        outputs = _outputs(call, node)
        is_fixed = all(name in fixed for name in node.inputs if name)
        for name, output in zip(node.outputs, outputs, strict=False):
            if name:
                known[name] = output
                counts[name] = _count(call, output, is_fixed, found)
                if is_fixed or _is_constant(output):
                    fixed.add(name)
        if call.scratch is not None:
            _count(call, call.scratch, is_fixed, found)
        _count_work(call, [counts[name] for name in (*node.inputs, *node.outputs) if name], is_fixed, found)
        _check_sum(found, node)
    for name, declared in (graph.outputs | graph.intermediates).items():
        if name not in known:
            raise UnsafeGraphError(f"the declared tensor {name}, which nothing makes", "tensors of the graph")
        _check_declared(name, declared, known[name])
    bounds = Bounds(found.single, found.total, found.largest, found.constant, found.single_work, found.constant_work)
    return known, axes, bounds


def _input(name: str, declared: Declared, axes: Axes, dynamic: Mapping[tuple[str, int], Axis]) -> Known:
    if declared.shape is None:
        raise UnsafeGraphError(f"the input {name} without a shape", "one")
    shape = []
    for number, size in enumerate(declared.shape):
        if isinstance(size, int):
            shape.append(Size.of(size))
            continue
        axis = dynamic.get((name, number)) or _named(size or f"{name} {number}")
        values = axis.values
        one = axes.add(axis.name, values.least, values.most, values.single)
        shape.append(one * Size.of(axis.factor) + Size.of(axis.offset))
    return Known(declared.data_type, tuple(shape))


def _named(name: str) -> Axis:
    """An axis of which only the name is known."""
    formula = FORMULA.fullmatch(name)
    if formula is None:
        return Axis(f"{name} of the graph", DEFAULT_RANGE)
    factor, offset = int(formula["factor"]), int(formula["offset"] or 0)
    return Axis(f"{formula['name']} of the graph", DEFAULT_RANGE, factor, offset)


def _outputs(call: Call, node: Node) -> list[Known]:
    rule = OPERATORS.get(node.operator)
    if rule is None:
        raise UnsafeGraphError(
            f"the operator {node.operator} in {node.where}, of which no bound on memory is known",
            "operators of xaimoe_runtime.onnx_safety.operators.OPERATORS (one row adds one: register_operator)",
        )
    outputs = rule(call)
    if len(outputs) < len(node.outputs):
        raise call.refuse(f"{len(node.outputs)} outputs", f"{len(outputs)}")
    for output in outputs:
        if len(output.shape) > MAX_RANK:
            raise call.refuse(f"a tensor of {len(output.shape)} axes", f"at most {MAX_RANK}")
        if output.data_type not in DATA_TYPES:
            raise call.refuse(f"a tensor of data type {output.data_type}", "numbers")
    return outputs


def _is_constant(known: Known) -> bool:
    return known.values is not None and all(value.constant is not None for value in known.values)


def _count(call: Call, output: Known, is_fixed: bool, found: _Sum) -> tuple[int, int]:
    """Adds a tensor to the sums; returns its elements at the largest batch and for a batch of one."""
    width = DATA_TYPES[output.data_type].bytes
    if any(call.axes.largest(size) > MAX_DIMENSION for size in output.shape):
        raise call.refuse(f"more than {MAX_DIMENSION} elements along an axis of a tensor", "fewer")
    elements, single = call.axes.elements(output.shape)
    size = width * elements
    most = max(MAX_TENSOR_BYTES, PER_INPUT_BYTE_TENSOR * found.total_input)
    if size > most:
        raise UnsafeGraphError(f"a tensor made by {call.node.where} of {size} bytes", f"at most {most}")
    found.total += size
    found.largest = max(found.largest, size)
    found.single += width * single
    found.constant += size if is_fixed else 0
    return elements, single


def _count_work(call: Call, counts: list[tuple[int, int]], is_fixed: bool, found: _Sum) -> None:
    work = max([call.axes.largest(call.work, single=True), *(single for _, single in counts)])
    found.single_work += work
    found.constant_work += work if is_fixed else 0


def _check_sum(found: _Sum, node: Node) -> None:
    total = max(MAX_TOTAL_BYTES, PER_INPUT_BYTE * found.total_input)
    single = max(MAX_SINGLE_BYTES, PER_INPUT_BYTE * found.single_input)
    for value, most, what in (
        (found.total, total, "bytes of tensors for the largest batch"),
        (found.single, single, "bytes of tensors for a batch of one"),
        (found.constant, MAX_CONSTANT_BYTES, "bytes of tensors made of weights alone"),
        (found.single_work, MAX_SINGLE_WORK, "multiply-accumulates for a batch of one"),
        (found.constant_work, MAX_CONSTANT_WORK, "multiply-accumulates of weights alone"),
    ):
        if value > most:
            raise UnsafeGraphError(f"{value} {what} up to {node.where}", f"at most {most}")


def _check_declared(name: str, declared: Declared, known: Known) -> None:
    """What a graph says of a tensor is what follows."""
    if declared.shape is None:
        return
    sizes = [size.constant for size in known.shape]
    fits = len(sizes) == len(declared.shape) and all(
        size is None or not isinstance(said, int) or size == said
        for size, said in zip(sizes, declared.shape, strict=False)
    )
    if not fits or declared.data_type != known.data_type:
        kind, given = DATA_TYPES[declared.data_type].name, DATA_TYPES[known.data_type].name
        shape = ["any" if size is None else size for size in sizes]
        raise UnsafeGraphError(
            f"the tensor {name} declared as {kind} {list(declared.shape)}", f"{given} {shape}, which follows"
        )
