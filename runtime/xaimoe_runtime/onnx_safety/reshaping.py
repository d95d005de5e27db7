"""Sizes of operators that rearrange, cut, repeat or join tensors, and of those that shapes are computed with."""

from __future__ import annotations

from itertools import accumulate

from xaimoe_runtime.onnx_safety.call import ONE, Call, Known, known_of, product
from xaimoe_runtime.onnx_safety.graph import MAX_RANK, MAX_VALUES, Tensor
from xaimoe_runtime.onnx_safety.onnx_schema import FLOAT, INT64
from xaimoe_runtime.onnx_safety.sizes import Size

END = 1 << 31
"""A place from here on means the end of an axis."""


def constant(call: Call) -> list[Known]:
    """``Constant``: what its one attribute holds."""
    if len(call.node.attributes) != 1:
        raise call.refuse(f"{len(call.node.attributes)} attributes", "one")
    ((name, value),) = call.node.attributes.items()
    if name == "value" and isinstance(value, Tensor):
        return [known_of(value)]
    if name == "value_int" and isinstance(value, int):
        return [Known(INT64, (), (Size.of(value),))]
    if name == "value_float" and isinstance(value, float):
        return [Known(FLOAT, (), None, (value,))]
    numbers = value if isinstance(value, tuple) else ()
    if name == "value_ints":
        whole = call.integers(name) or ()
        return [Known(INT64, (Size.of(len(whole)),), tuple(map(Size.of, whole)) if len(whole) <= MAX_VALUES else None)]
    if name == "value_floats":
        return [Known(FLOAT, (Size.of(len(numbers)),), None, tuple(float(one) for one in numbers))]
    raise call.refuse(f"the attribute {name}", "numbers")


def filled(call: Call) -> list[Known]:
    """``ConstantOfShape``: as large as the values of its input say."""
    shape = call.counts(0, "a shape")
    value = call.tensor("value")
    integer = value.integers[0] if value is not None and value.integers else None
    known = Known(FLOAT if value is None else value.data_type, shape)
    size = known.elements.constant
    if integer is None or size is None or size > MAX_VALUES or len(shape) > 1:
        return [known]
    return [Known(known.data_type, shape, (Size.of(integer),) * size)]


def shape_of(call: Call) -> list[Known]:
    """``Shape``: the sizes themselves."""
    sizes = call.need(0).shape
    rank = len(sizes)
    start, end = call.integer("start", 0), call.integer("end", rank)
    low, high = (min(max(at + rank if at < 0 else at, 0), rank) for at in (start, end))
    chosen = sizes[low:high]
    return [Known(INT64, (Size.of(len(chosen)),), chosen)]


def size_of(call: Call) -> list[Known]:
    """``Size``: the number of elements."""
    return [Known(INT64, (), (call.axes.bounded(call.need(0).elements),))]


def counted(call: Call) -> list[Known]:
    """``Range``: as long as its limits say."""
    start, limit, step = (call.need(i) for i in range(3))
    numbers: list[tuple[Size | float, ...]] = [known.values or known.floats or () for known in (start, limit, step)]
    if any(len(of) != 1 for of in numbers):
        raise call.refuse("limits that only a run would show", "constants, or values computed from shapes alone")
    if start.values and limit.values and step.values:
        return [_whole_range(call, start.values[0], limit.values[0], step.values[0])]
    first, last, by = (_number(call, of[0]) for of in numbers)
    length = (last - first) / by if by else float("inf")
    if not abs(length) < float(1 << 53):
        raise call.refuse(f"a range of {length:g} values", "a finite number of them")
    return [Known(start.data_type, (call.axes.up_to(int(length * 1.001) + 2),))]


def _number(call: Call, value: Size | float) -> float:
    number = value.constant if isinstance(value, Size) else value
    if number is None:
        raise call.refuse("limits that depend on the batch", "constants")
    return float(number)


def _whole_range(call: Call, start: Size, limit: Size, step: Size) -> Known:
    by, first, last = step.constant, start.constant, limit.constant
    if not by:
        raise call.refuse("a step that depends on the batch or is 0", "a constant other than 0")
    if first is not None and last is not None:
        length = max(-(-(last - first) // by), 0)
        values = tuple(Size.of(first + i * by) for i in range(length)) if length <= MAX_VALUES else None
        return Known(INT64, (Size.of(length),), values)
    span = limit - start if by > 0 else start - limit
    return Known(INT64, (call.divided(call.if_positive(span) + Size.of(abs(by) - 1), abs(by)),))


def reshaped(call: Call) -> list[Known]:
    """``Reshape``: to sizes that follow from constants and shapes; one may be what is left."""
    first, sizes = call.need(0), list(call.values(1, "a shape"))
    if len(sizes) > MAX_RANK:
        raise call.refuse(f"a tensor of {len(sizes)} axes", f"at most {MAX_RANK}")
    left = [i for i, size in enumerate(sizes) if size.constant == -1]
    for i, size in enumerate(sizes):
        if size.constant == 0 and not call.integer("allowzero", 0):
            if i >= len(first.shape):
                raise call.refuse("a size 0 past the last axis", "an axis to take it from")
            sizes[i] = first.shape[i]
        elif size.constant is None and size not in first.shape[i : i + 1]:
            sizes[i] = _never_special(call, first, size, i)
    if len(left) > 1:
        raise call.refuse("several sizes of -1", "one at most")
    if left:
        others = product([size for i, size in enumerate(sizes) if i != left[0]])
        sizes[left[0]] = _rest(call, first.elements, others)
    return [Known(first.data_type, tuple(sizes), first.values if len(sizes) <= 1 else None, first.floats)]


def _never_special(call: Call, first: Known, size: Size, i: int) -> Size:
    """A size that depends on the batch; where it may turn out 0 or -1, which mean something else, only its bound."""
    if call.axes.smallest(size) >= 1:
        return size
    others = (size, first.elements, *first.shape[i : i + 1])
    return call.axes.up_to(*(max(call.axes.largest(other, single) for other in others) for single in (False, True)))


def _rest(call: Call, elements: Size, others: Size) -> Size:
    """What is left for an axis: exact, or a bound."""
    exact = elements.divided(others) if others.terms else None
    if exact is not None:
        return exact
    by = others.constant
    return call.divided(elements, by) if by else call.at_most(elements)


def flattened(call: Call) -> list[Known]:
    """``Flatten``: to a matrix."""
    first, axis = call.need(0), call.integer("axis", 1)
    rank = len(first.shape)
    if not -rank <= axis <= rank:
        raise call.refuse(f"the axis {axis}", f"one of {rank} axes")
    at = axis + rank if axis < 0 else axis
    return [Known(first.data_type, (product(first.shape[:at]), product(first.shape[at:])))]


def transposed(call: Call) -> list[Known]:
    """``Transpose``."""
    first = call.need(0)
    order = call.integers("perm") or tuple(range(len(first.shape)))[::-1]
    if sorted(order) != list(range(len(first.shape))):
        raise call.refuse(f"the order {list(order)}", f"all of {len(first.shape)} axes")
    return [Known(first.data_type, tuple(first.shape[axis] for axis in order))]


def squeezed(call: Call) -> list[Known]:
    """``Squeeze``: without axes of one element."""
    first, rank = call.need(0), len(call.need(0).shape)
    if call.get(1) is None:
        if any(size.constant is None for size in first.shape):
            raise call.refuse("no axes, and sizes that depend on the batch", "axes")
        gone = {i for i, size in enumerate(first.shape) if size == ONE}
    else:
        gone = {call.axis(axis, rank) for axis in call.constants(1, "axes")}
    shape = tuple(size for i, size in enumerate(first.shape) if i not in gone)
    return [Known(first.data_type, shape, first.values, first.floats)]


def unsqueezed(call: Call) -> list[Known]:
    """``Unsqueeze``: with further axes of one element."""
    first, axes = call.need(0), call.constants(1, "axes")
    rank = len(first.shape) + len(axes)
    if rank > MAX_RANK:
        raise call.refuse(f"a tensor of {rank} axes", f"at most {MAX_RANK}")
    new = {call.axis(axis, rank) for axis in axes}
    if len(new) < len(axes):
        raise call.refuse("an axis twice", "each once")
    rest = iter(first.shape)
    shape = tuple(ONE if i in new else next(rest) for i in range(rank))
    return [Known(first.data_type, shape, first.values if rank <= 1 else None, first.floats)]


def joined(call: Call) -> list[Known]:
    """``Concat``: sizes along one axis added up."""
    parts = [call.need(i) for i in range(len(call.inputs))]
    if not parts or not parts[0].shape or any(len(part.shape) != len(parts[0].shape) for part in parts):
        raise call.refuse("inputs of different numbers of axes", "equal ones")
    axis = call.axis(call.integer("axis", 0), len(parts[0].shape))
    total = sum((part.shape[axis] for part in parts), Size.of(0))
    around = call.broadcast(*((*part.shape[:axis], ONE, *part.shape[axis + 1 :]) for part in parts))
    values: tuple[Size, ...] | None = None
    if len(around) == 1 and all(part.values is not None for part in parts):
        values = tuple(value for part in parts for value in part.values or ())
        values = values if len(values) <= MAX_VALUES else None
    shape = (*around[:axis], call.axes.bounded(total), *around[axis + 1 :])
    return [Known(parts[0].data_type, shape, values)]


def split(call: Call) -> list[Known]:
    """``Split``: into parts of given sizes, or of equal ones."""
    first = call.need(0)
    axis = call.axis(call.integer("axis", 0), len(first.shape))
    count = len(call.node.outputs)
    if call.get(1) is not None:
        sizes = call.counts(1, "sizes of the parts")
    else:
        sizes = _equal_parts(call, first.shape[axis], count)
    if len(sizes) != count:
        raise call.refuse(f"{len(sizes)} sizes for {count} parts", "one for each")
    at = [0, *accumulate(size.constant or 0 for size in sizes)]
    found = []
    for i, size in enumerate(sizes):
        values = first.values[at[i] : at[i + 1]] if first.values and len(first.shape) == 1 else None
        known = values is not None and size.constant == len(values)
        shape = (*first.shape[:axis], size, *first.shape[axis + 1 :])
        found.append(Known(first.data_type, shape, values if known else None))
    return found


def _equal_parts(call: Call, whole: Size, count: int) -> tuple[Size, ...]:
    """Sizes of parts that are as equal as can be, the last one perhaps smaller."""
    size = whole.constant
    if size is not None:
        part = -(-size // count)
        return (*(Size.of(part) for _ in range(count - 1)), Size.of(max(size - part * (count - 1), 0)))
    exact = whole.divided(Size.of(count))
    return tuple(exact or call.at_most(whole) for _ in range(count))


def sliced(call: Call) -> list[Known]:
    """``Slice``: no larger than the input, and exact where the places are constants."""
    first = call.need(0)
    rank = len(first.shape)
    starts, ends = call.need(1).values, call.need(2).values
    given = [call.get(i) for i in (3, 4)]
    axes = tuple(range(len(starts or ()))) if given[0] is None else call.constants(3, "axes")
    steps = (1,) * len(axes) if given[1] is None else call.constants(4, "steps")
    if starts is None or ends is None:
        shape = tuple(call.at_most(size) for size in first.shape)
        return [Known(first.data_type, shape)]
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise call.refuse("starts, ends, axes and steps of different lengths", "equal ones")
    shape_list = list(first.shape)
    values = first.values if rank == 1 else None
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = call.axis(axis, rank)
        low, high = start.constant, end.constant
        if values is not None:
            values = values[low:high:step] if low is not None and high is not None and step else None
        shape_list[at] = _cut(call, shape_list[at], start, end, step)
    if values is not None and shape_list[0].constant != len(values):
        values = None
    return [Known(first.data_type, tuple(shape_list), values)]


def _cut(call: Call, size: Size, start: Size, end: Size, step: int) -> Size:
    """Elements of an axis between two places."""
    whole, low, high = size.constant, start.constant, end.constant
    if step == 0:
        raise call.refuse("a step of 0", "another one")
    if whole is not None and low is not None and high is not None:
        return Size.of(len(range(whole)[low:high:step]))
    if step != 1 or low is None:
        return call.at_most(size)
    if high is None:  # an end that depends on the batch
        within = low >= 0 and call.axes.smallest(size - end) >= 0 and call.axes.smallest(end - start) >= 0
        return end - start if within else call.at_most(size)
    last = size if high >= END else size + end if high < 0 else end
    first = start if low >= 0 else size + start
    # Places outside the axis are moved to its ends; then only a bound is known.
    within = all(call.axes.smallest(gap) >= 0 for gap in (first, last - first, size - last))
    if within:
        return last - first
    return call.at_most(size) if (low < 0) != (high < 0) or high >= END else call.axes.up_to(max(high - low, 0))


def gathered(call: Call) -> list[Known]:
    """``Gather``: rows of the first input, as many as there are indices."""
    first, index = call.need(0), call.need(1)
    axis = call.axis(call.integer("axis", 0), len(first.shape))
    shape = (*first.shape[:axis], *index.shape, *first.shape[axis + 1 :])
    if len(shape) > MAX_RANK:
        raise call.refuse(f"a tensor of {len(shape)} axes", f"at most {MAX_RANK}")
    values = None
    if first.values is not None and len(first.shape) == 1 and index.values is not None and len(index.shape) <= 1:
        places = [value.constant for value in index.values]
        count = len(first.values)
        if all(place is not None and -count <= place < count for place in places):
            values = tuple(first.values[place] for place in places if place is not None)
    return [Known(first.data_type, shape, values)]


def gathered_elements(call: Call) -> list[Known]:
    """``GatherElements``: as large as the indices."""
    return [Known(call.need(0).data_type, call.need(1).shape)]


def gathered_rows(call: Call) -> list[Known]:
    """``GatherND``: what is left of the first input below the indexed axes, for each index."""
    first, index = call.need(0), call.need(1)
    batch = call.integer("batch_dims", 0)
    depth = index.shape[-1].constant if index.shape else None
    if depth is None or not 0 <= batch <= len(index.shape) - 1 or not 0 < depth <= len(first.shape) - batch:
        raise call.refuse("indices of an unknown depth", "a constant one")
    shape = (*index.shape[:-1], *first.shape[batch + depth :])
    if len(shape) > MAX_RANK:
        raise call.refuse(f"a tensor of {len(shape)} axes", f"at most {MAX_RANK}")
    return [Known(first.data_type, shape)]


def expanded(call: Call) -> list[Known]:
    """``Expand``: broadcast to the values of the second input."""
    first = call.need(0)
    return [Known(first.data_type, call.broadcast(first.shape, call.counts(1, "a shape")))]


def tiled(call: Call) -> list[Known]:
    """``Tile``: each axis so many times."""
    first, repeats = call.need(0), call.counts(1, "a number of repeats")
    if len(repeats) != len(first.shape):
        raise call.refuse(f"{len(repeats)} repeats for {len(first.shape)} axes", "one for each")
    shape = tuple(call.axes.bounded(size * times) for size, times in zip(first.shape, repeats, strict=True))
    return [Known(first.data_type, shape)]


def padded(call: Call) -> list[Known]:
    """``Pad``: with so many cells before and after."""
    first, rank = call.need(0), len(call.need(0).shape)
    pads = call.values(1, "a padding")
    axes = tuple(range(rank)) if call.get(3) is None else call.constants(3, "axes")
    if len(pads) != 2 * len(axes):
        raise call.refuse(f"{len(pads)} paddings for {len(axes)} axes", "two for each")
    shape = list(first.shape)
    for i, axis in enumerate(axes):
        at = call.axis(axis, rank)
        shape[at] = call.if_positive(shape[at] + pads[i] + pads[len(axes) + i])
    return [Known(first.data_type, tuple(shape))]


def one_hot(call: Call) -> list[Known]:
    """``OneHot``: an axis more, as long as the second input says."""
    first, depth = call.need(0), call.counts(1, "a number of classes")
    if len(depth) != 1:
        raise call.refuse(f"{len(depth)} numbers of classes", "one")
    rank = len(first.shape) + 1
    if rank > MAX_RANK:
        raise call.refuse(f"a tensor of {rank} axes", f"at most {MAX_RANK}")
    at = call.axis(call.integer("axis", -1), rank)
    return [Known(call.need(2).data_type, (*first.shape[:at], depth[0], *first.shape[at:]))]


def eye(call: Call) -> list[Known]:
    """``EyeLike``: as large as the first input."""
    first = call.need(0)
    return [Known(call.integer("dtype", first.data_type), first.shape)]


def found(call: Call) -> list[Known]:
    """``NonZero``: a place for each element at most."""
    first = call.need(0)
    return [Known(INT64, (Size.of(len(first.shape)), call.at_most(first.elements)))]


def compressed(call: Call) -> list[Known]:
    """``Compress``: no more than the input."""
    first = call.need(0)
    if "axis" not in call.node.attributes:
        return [Known(first.data_type, (call.at_most(first.elements),))]
    axis = call.axis(call.integer("axis", 0), len(first.shape))
    shape = (*first.shape[:axis], call.at_most(first.shape[axis]), *first.shape[axis + 1 :])
    return [Known(first.data_type, shape)]
