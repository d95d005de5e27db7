"""Sizes of operators whose output is as large as their inputs, smaller, or a product of two of them."""

from __future__ import annotations

from collections.abc import Callable

from xaimoe_runtime.onnx_safety.call import ONE, Call, Known, product
from xaimoe_runtime.onnx_safety.onnx_schema import (
    BFLOAT16,
    BOOL,
    DATA_TYPES,
    DOUBLE,
    FLOAT,
    FLOAT16,
    INT32,
    INT64,
    UINT8,
)
from xaimoe_runtime.onnx_safety.sizes import Size, is_simple

Rule = Callable[[Call], list[Known]]
"""Gives what is known of the outputs of a node."""


def same(call: Call) -> list[Known]:
    """Return outputs as large as the first input."""
    first = call.need(0)
    return [Known(first.data_type, first.shape) for _ in call.node.outputs]


def identity(call: Call) -> list[Known]:
    """Return the first input, values included."""
    return [call.need(0)]


def dropout(call: Call) -> list[Known]:
    """Return the first input and a mask of its shape."""
    first = call.need(0)
    return [Known(first.data_type, first.shape), Known(BOOL, first.shape)][: len(call.node.outputs)]


def normalised(call: Call) -> list[Known]:
    """Return outputs of a normalisation: the first as large as the input, statistics no larger."""
    first = call.need(0)
    return [Known(first.data_type, first.shape), *(Known(FLOAT, first.shape) for _ in call.node.outputs[1:])]


def broadcast(call: Call) -> list[Known]:
    """Return the shape that all inputs are broadcast to, of the first one's type."""
    given = [known for known in call.inputs if known is not None]
    if not given:
        raise call.refuse("no input", "one or more")
    return [Known(given[0].data_type, call.broadcast(*(known.shape for known in given)))]


def compared(call: Call) -> list[Known]:
    """Return truth values of the shape that all inputs are broadcast to."""
    return [Known(BOOL, broadcast(call)[0].shape)]


def tested(call: Call) -> list[Known]:
    """Return truth values as large as the first input."""
    return [Known(BOOL, call.need(0).shape)]


def chosen(call: Call) -> list[Known]:
    """``Where``: of the second input's type."""
    return [Known(call.need(1).data_type, call.broadcast(*(call.need(i).shape for i in range(3))))]


def arithmetic(call: Call) -> list[Known]:
    """``Add``, ``Sub``, ``Mul``, ``Div`` and ``Mod``: also of the sizes that shapes are computed from."""
    (known,) = broadcast(call)
    first, second = call.need(0), call.need(1)
    if call.node.operator in ("Div", "Mod"):
        _check_divisor(call, second)
    if first.values is None or second.values is None or len(known.shape) > 1:
        return [known]
    left, right = list(first.values), list(second.values)
    if len(left) == 1:
        left *= len(right)
    elif len(right) == 1:
        right *= len(left)
    if len(left) != len(right):
        return [known]
    found = [_computed(call, one, other) for one, other in zip(left, right, strict=True)]
    values = tuple(value for value in found if value is not None and _fits(call, value, known.data_type))
    return [Known(known.data_type, known.shape, values if len(values) == len(found) else None)]


def _check_divisor(call: Call, divisor: Known) -> None:
    """Whole numbers are divided by what is never 0, which would end the process."""
    if divisor.data_type in (FLOAT, FLOAT16, DOUBLE, BFLOAT16):
        return
    if divisor.values is None or not all(call.axes.smallest(value) > 0 for value in divisor.values):
        raise call.refuse("a division of whole numbers by what may be 0", "by a constant of 1 or more")


def _fits(call: Call, value: Size, data_type: int) -> bool:
    """Whether a value is held by a type of whole numbers without overflow."""
    return call.axes.magnitude(value) < (1 << 62 if data_type == INT64 else 1 << 30 if data_type == INT32 else 0)


def _computed(call: Call, one: Size, other: Size) -> Size | None:
    """One value; None if nothing is known of it."""
    operator, divisor = call.node.operator, other.constant
    if operator in ("Add", "Sub", "Mul"):
        exact = one + other if operator == "Add" else one - other if operator == "Sub" else one * other
        if call.axes.smallest(exact) < 0:  # a bound stands for numbers of 0 and more alone
            return exact if is_simple(exact) else None
        return call.axes.bounded(exact)
    if call.axes.smallest(one) < 0:
        return None
    if operator == "Div":
        return one.divided(other) if divisor is None else call.divided(one, divisor)
    if divisor is None:
        return None
    numerator = one.constant
    return Size.of(numerator % divisor) if numerator is not None else call.axes.up_to(divisor - 1)


def cast(call: Call) -> list[Known]:
    """``Cast``: whole numbers keep their values if the other type holds them."""
    first, to = call.need(0), call.integer("to", 0)
    if to not in DATA_TYPES:
        raise call.refuse(f"a cast to data type {to}", "numbers")
    values = first.values
    if to not in (INT32, INT64) or (values and not all(_fits(call, value, to) for value in values)):
        values = None
    return [Known(to, first.shape, values)]


def cast_like(call: Call) -> list[Known]:
    """``CastLike``: of the second input's type."""
    return [Known(call.need(1).data_type, call.need(0).shape)]


def quantised(call: Call) -> list[Known]:
    """``QuantizeLinear``: of the zero point's type."""
    zero = call.get(2)
    return [Known(zero.data_type if zero else call.integer("output_dtype", 0) or UINT8, call.need(0).shape)]


def dequantised(call: Call) -> list[Known]:
    """``DequantizeLinear``: of the scale's type."""
    return [Known(call.need(1).data_type, call.need(0).shape)]


def dynamically_quantised(call: Call) -> list[Known]:
    """``DynamicQuantizeLinear``: numbers, a scale and a zero point."""
    return [Known(UINT8, call.need(0).shape), Known(FLOAT, ()), Known(UINT8, ())]


def reduced(call: Call) -> list[Known]:
    """A reduction over the axes of the second input or of the attribute; over all if there are none."""
    first, axes = call.need(0), call.integers("axes")
    if axes is None and call.get(1) is not None:
        axes = call.constants(1, "axes")
    if not axes:
        if call.integer("noop_with_empty_axes", 0):
            return [Known(first.data_type, first.shape)]
        axes = tuple(range(len(first.shape)))
    return [Known(first.data_type, _without(call, first, axes))]


def best(call: Call) -> list[Known]:
    """``ArgMax`` and ``ArgMin``: places along one axis."""
    first = call.need(0)
    return [Known(INT64, _without(call, first, (call.integer("axis", 0),)))]


def _without(call: Call, known: Known, axes: tuple[int, ...]) -> tuple[Size, ...]:
    rank = len(known.shape)
    gone = {call.axis(axis, rank) for axis in axes}
    if call.integer("keepdims", 1):
        return tuple(ONE if i in gone else size for i, size in enumerate(known.shape))
    return tuple(size for i, size in enumerate(known.shape) if i not in gone)


def top(call: Call) -> list[Known]:
    """``TopK``: values and their places."""
    first, k = call.need(0), call.counts(1, "a number of largest values")
    if len(k) != 1:
        raise call.refuse(f"{len(k)} numbers of largest values", "one")
    axis = call.axis(call.integer("axis", -1), len(first.shape))
    shape = (*first.shape[:axis], k[0], *first.shape[axis + 1 :])
    return [Known(first.data_type, shape), Known(INT64, shape)]


def matmul(call: Call) -> list[Known]:
    """``MatMul`` and ``MatMulInteger``: rows of the one by columns of the other."""
    first, second = call.need(0), call.need(1)
    if not first.shape or not second.shape:
        raise call.refuse("a single number", "matrices")
    left = first.shape if len(first.shape) > 1 else (ONE, *first.shape)
    right = second.shape if len(second.shape) > 1 else (*second.shape, ONE)
    inner, other = left[-1], right[-2]
    if inner.constant is not None and other.constant is not None and inner != other:
        raise call.refuse(f"inner sizes {inner.constant} and {other.constant}", "equal ones")
    shape = call.broadcast(left[:-2], right[:-2])
    if len(first.shape) > 1:
        shape = (*shape, left[-2])
    if len(second.shape) > 1:
        shape = (*shape, right[-1])
    call.work = product(shape) * inner
    return [Known(INT32 if call.node.operator == "MatMulInteger" else first.data_type, shape)]


def gemm(call: Call) -> list[Known]:
    """``Gemm``: a product of two matrices, each transposed or not."""
    first, second = call.need(0), call.need(1)
    if len(first.shape) != 2 or len(second.shape) != 2:
        raise call.refuse(f"{len(first.shape)} and {len(second.shape)} axes", "2 and 2")
    rows, inner = first.shape[::-1] if call.integer("transA", 0) else first.shape
    columns = second.shape[0 if call.integer("transB", 0) else 1]
    call.work = rows * columns * inner
    return [Known(first.data_type, (rows, columns))]


def einsum(call: Call) -> list[Known]:
    """``Einsum`` of plain letters, without an ellipsis."""
    left, arrow, right = call.text("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or not (left.replace(",", "") + right).isalpha() or len(terms) != len(call.inputs):
        raise call.refuse(f"the equation {call.text('equation', '')!r}", "letters, as in ij,jk->ik")
    sizes: dict[str, Size] = {}
    for i, term in enumerate(terms):
        known = call.need(i)
        if len(term) != len(known.shape):
            raise call.refuse(f"an input of {len(known.shape)} axes for {term!r}", f"{len(term)}")
        for letter, size in zip(term, known.shape, strict=True):
            (sizes[letter],) = call.broadcast((size,), (sizes.get(letter, ONE),))
    if not set(right) <= sizes.keys():
        raise call.refuse(f"the equation {left}->{right}", "an output of letters of the inputs")
    call.work = product(list(sizes.values()))
    call.scratch = Known(call.need(0).data_type, tuple(sizes.values()))  # products that are added up afterwards
    return [Known(call.need(0).data_type, tuple(sizes[letter] for letter in right))]
