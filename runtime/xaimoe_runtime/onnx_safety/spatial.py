"""Sizes of convolutions, pooling and resampling."""

from __future__ import annotations

from xaimoe_runtime.onnx_safety.call import ONE, Call, Known, product
from xaimoe_runtime.onnx_safety.onnx_schema import INT32, INT64
from xaimoe_runtime.onnx_safety.sizes import Size

MAX_STEP = 1 << 20
"""A stride, dilation, padding or kernel of more is refused."""


def _settings(call: Call, axes: int, kernel: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Kernel as far as it reaches, stride, padding before and padding after, by axis."""
    strides = call.integers("strides") or (1,) * axes
    dilations = call.integers("dilations") or (1,) * axes
    pads = call.integers("pads") or (0,) * (2 * axes)
    if (len(kernel), len(strides), len(dilations), len(pads)) != (axes, axes, axes, 2 * axes):
        raise call.refuse("settings of another number of axes", f"{axes} axes")
    if any(not 1 <= value <= MAX_STEP for value in (*kernel, *strides, *dilations)) or any(
        not 0 <= value <= MAX_STEP for value in pads
    ):
        raise call.refuse("a kernel, stride, dilation or padding out of range", f"up to {MAX_STEP}")
    return [(dilations[i] * (kernel[i] - 1) + 1, strides[i], pads[i], pads[axes + i]) for i in range(axes)]


def _slid(call: Call, size: Size, reach: int, stride: int, before: int, after: int) -> Size:
    """Places of a kernel along an axis."""
    padding = call.text("auto_pad", "NOTSET")
    constant = size.constant
    if padding in ("SAME_UPPER", "SAME_LOWER"):
        return call.divided(size + Size.of(stride - 1), stride)
    room = size + Size.of((0 if padding == "VALID" else before + after) - reach + stride)
    if constant is not None and (room.constant or 0) < 0:
        raise call.refuse(f"a kernel of {reach} over {constant} cells", "a smaller one")
    if call.integer("ceil_mode", 0):  # the last place may be left out
        return call.at_most(call.divided(room + Size.of(stride - 1), stride))
    return call.divided(room, stride)


def _images(call: Call) -> tuple[Size, Size, tuple[Size, ...]]:
    """Batch, channels and the sizes of the other axes of the first input."""
    shape = call.need(0).shape
    if not 3 <= len(shape) <= 5:
        raise call.refuse(f"an input of {len(shape)} axes", "3 to 5")
    return shape[0], shape[1], shape[2:]


def _weights(call: Call, index: int) -> tuple[int, ...]:
    """The shape of the weights, which are constant."""
    sizes = [size.constant for size in call.need(index).shape]
    found = tuple(size for size in sizes if size is not None)
    if len(found) < len(sizes) or len(found) != len(call.need(0).shape):
        raise call.refuse(f"weights of {len(sizes)} axes or of a size that depends on the batch", "constant sizes")
    return found


def convolution(call: Call) -> list[Known]:
    """``Conv``, ``ConvInteger``: weights [out, in / groups, kernel...]."""
    batch, _, cells = _images(call)
    weights = _weights(call, 1)
    settings = _settings(call, len(cells), weights[2:])
    out = tuple(_slid(call, size, *of) for size, of in zip(cells, settings, strict=True))
    shape = (batch, Size.of(weights[0]), *out)
    rows = [Size.of(size) for size in weights[1:]]
    call.work = product(shape) * product(rows)
    call.scratch = Known(
        call.need(0).data_type, (product(rows), product(out))
    )  # an image's cells, by place of the kernel
    return [Known(INT32 if call.node.operator == "ConvInteger" else call.need(0).data_type, shape)]


def transposed_convolution(call: Call) -> list[Known]:
    """``ConvTranspose``: weights [in, out / groups, kernel...]."""
    batch, channels, cells = _images(call)
    weights = _weights(call, 1)
    groups = call.integer("group", 1)
    if not 1 <= groups <= MAX_STEP:
        raise call.refuse(f"{groups} groups", f"1 to {MAX_STEP}")
    settings = _settings(call, len(cells), weights[2:])
    more = call.integers("output_padding") or (0,) * len(cells)
    given = call.integers("output_shape")
    if given is not None or call.text("auto_pad", "NOTSET") != "NOTSET" or len(more) != len(cells):
        raise call.refuse("output_shape or auto_pad", "pads")
    if any(not 0 <= value <= MAX_STEP for value in more):
        raise call.refuse("an output_padding out of range", f"0 to {MAX_STEP}")
    out = tuple(
        call.if_positive((size - ONE) * Size.of(stride) + Size.of(reach + extra - before - after))
        for size, (reach, stride, before, after), extra in zip(cells, settings, more, strict=True)
    )
    shape = (batch, Size.of(weights[1] * groups), *out)
    columns = product([Size.of(size) for size in weights[1:]])
    call.work = product((batch, channels, *cells)) * columns
    call.scratch = Known(call.need(0).data_type, (columns * Size.of(groups), product(cells)))
    return [Known(call.need(0).data_type, shape)]


def pooled(call: Call) -> list[Known]:
    """``AveragePool``, ``MaxPool``, ``LpPool``."""
    batch, channels, cells = _images(call)
    kernel = call.integers("kernel_shape")
    if kernel is None:
        raise call.refuse("no kernel_shape", "one")
    settings = _settings(call, len(cells), kernel)
    out = tuple(_slid(call, size, *of) for size, of in zip(cells, settings, strict=True))
    shape = (batch, channels, *out)
    call.work = product(shape) * product([Size.of(size) for size in kernel])
    return [Known(call.need(0).data_type, shape), Known(INT64, shape)][: len(call.node.outputs)]


def globally_pooled(call: Call) -> list[Known]:
    """``GlobalAveragePool``, ``GlobalMaxPool``: one cell of each channel."""
    batch, channels, cells = _images(call)
    return [Known(call.need(0).data_type, (batch, channels, *(ONE for _ in cells)))]


def resized(call: Call) -> list[Known]:
    """``Resize`` by constant scales, or to sizes that follow from shapes."""
    first = call.need(0)
    rank = len(first.shape)
    named = call.integers("axes")
    axes = tuple(range(rank)) if named is None else tuple(call.axis(axis, rank) for axis in named)
    shape = list(first.shape)
    if call.get(3) is not None:
        given = call.counts(3, "a size")
        if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise call.refuse("a kept aspect ratio", "keep_aspect_ratio_policy stretch")
    else:
        scales = call.need(2).floats
        if scales is None or len(scales) != len(axes):
            raise call.refuse("scales that only a run would show", "a constant one for each axis")
        if any(not 0 < scale <= MAX_STEP for scale in scales):
            raise call.refuse("a scale out of range", f"up to {MAX_STEP}")
        given = tuple(_scaled(call, shape[axis], scale) for axis, scale in zip(axes, scales, strict=True))
    if len(given) != len(axes):
        raise call.refuse(f"{len(given)} sizes", f"{len(axes)}")
    for axis, size in zip(axes, given, strict=True):
        shape[axis] = size
    return [Known(first.data_type, tuple(shape))]


def _scaled(call: Call, size: Size, scale: float) -> Size:
    if scale == int(scale):
        return size * Size.of(int(scale))
    largest = [int(call.axes.largest(size, single) * scale) + 1 for single in (False, True)]
    return call.axes.up_to(*largest)


def depth_to_space(call: Call) -> list[Known]:
    """``DepthToSpace``: channels become cells."""
    batch, channels, cells = _images(call)
    block = call.integer("blocksize", 1)
    if len(cells) != 2 or not 1 <= block <= MAX_STEP:
        raise call.refuse("blocks of another shape", "2 axes of cells")
    out = tuple(size * Size.of(block) for size in cells)
    return [Known(call.need(0).data_type, (batch, call.divided(channels, block * block), *out))]


def space_to_depth(call: Call) -> list[Known]:
    """``SpaceToDepth``: cells become channels."""
    batch, channels, cells = _images(call)
    block = call.integer("blocksize", 1)
    if len(cells) != 2 or not 1 <= block <= MAX_STEP:
        raise call.refuse("blocks of another shape", "2 axes of cells")
    out = tuple(call.divided(size, block) for size in cells)
    return [Known(call.need(0).data_type, (batch, channels * Size.of(block * block), *out))]
