"""Memory and work that a graph takes are bounded before a session is made: what asks for gigabytes is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
import onnxruntime
import pytest
from data.onnx_models import around, floats, integers
from onnx import NodeProto, TensorProto, helper, load_model_from_string, numpy_helper, printer

from xaimoe_runtime import BundleError, ConfigError
from xaimoe_runtime.onnx_safety import OPERATORS, register_operator
from xaimoe_runtime.onnx_safety.bounds import infer
from xaimoe_runtime.onnx_safety.graph import UnsafeGraphError, graph_of
from xaimoe_runtime.onnx_safety.onnx_schema import SCHEMA
from xaimoe_runtime.onnx_safety.operators import ADDED
from xaimoe_runtime.onnx_safety.sizes import Axes, Size
from xaimoe_runtime.onnx_safety.wire import decode
from xaimoe_runtime.onnxfile import check

SEED = int(os.environ.get("XAIMOE_FUZZ_SEED", "5"))
PROGRAMS = max(int(os.environ.get("XAIMOE_FUZZ_CASES", "10000")) // 25, 100)
"""Graphs that compute shapes; see docs/security.md."""
N = helper.make_node
SIDE = 28_000
"""Its square times four bytes is 3.1 GB."""
DEPTH = numpy_helper.from_array(np.array(SIDE, np.int32), "d")
DOUBLED = [N("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(29)]


def refusal(content: bytes) -> str:
    with pytest.raises(BundleError) as caught:
        check("it.onnx", content)
    return str(caught.value)


BOMBS: dict[str, tuple[Sequence[NodeProto], Sequence[TensorProto]]] = {
    "ConstantOfShape": ([N("ConstantOfShape", ["s"], ["z"])], [integers("s", [SIDE, SIDE])]),
    "Constant": ([N("Constant", [], ["s"], value_ints=[SIDE, SIDE]), N("ConstantOfShape", ["s"], ["z"])], []),
    "Identity": ([N("Identity", ["i"], ["s"]), N("ConstantOfShape", ["s"], ["z"])], [integers("i", [SIDE, SIDE])]),
    "Mul": (
        [N("Mul", ["a", "b"], ["s"]), N("ConstantOfShape", ["s"], ["z"])],
        [integers("a", [SIDE, 1]), integers("b", [1, SIDE])],
    ),
    "Expand": (
        [N("Concat", ["a", "a"], ["s"], axis=0), N("Expand", ["o", "s"], ["z"])],
        [integers("a", [SIDE]), floats("o", [1])],
    ),
    "Range": ([N("Range", ["a", "b", "c"], ["z"])], [floats("a", 0), floats("b", 8e8), floats("c", 1)]),
    "Range down": (
        [N("Range", ["a", "b", "c"], ["z"])],
        [integers("a", 8 * 10**8), integers("b", 0), integers("c", -1)],
    ),
    "Pad": ([N("Pad", ["o", "p"], ["z"])], [floats("o", [1]), integers("p", [0, 8 * 10**8])]),
    "Tile": (
        [N("Tile", ["o", "t"], ["q"]), N("Tile", ["q", "t"], ["z"])],
        [floats("o", [1]), integers("t", [SIDE])],
    ),
    "MatMul": ([N("MatMul", ["a", "b"], ["z"])], [floats("a", np.ones((SIDE, 1))), floats("b", np.ones((1, SIDE)))]),
    "Gemm": ([N("Gemm", ["a", "a"], ["z"], transB=1)], [floats("a", np.ones((SIDE, 1)))]),
    "Einsum": ([N("Einsum", ["a", "a"], ["z"], equation="ij,kj->ik")], [floats("a", np.ones((SIDE, 1)))]),
    "broadcast": ([N("Add", ["a", "b"], ["z"])], [floats("a", np.ones((SIDE, 1))), floats("b", np.ones((1, SIDE)))]),
    "doubled": ([*DOUBLED, N("Identity", ["v29"], ["z"])], [floats("v0", [1])]),
    "Resize": (
        [N("Resize", ["o", "", "s"], ["z"], mode="nearest")],
        [floats("o", np.ones((1, 1, 2, 2))), floats("s", [1, 1, SIDE / 2, SIDE / 2])],
    ),
    "Resize to sizes": (
        [N("Resize", ["o", "", "", "s"], ["z"], mode="nearest")],
        [floats("o", np.ones((1, 1, 2, 2))), integers("s", [1, 1, SIDE, SIDE])],
    ),
    "OneHot": ([N("OneHot", ["i", "d", "v"], ["z"])], [integers("i", np.zeros(SIDE)), DEPTH, floats("v", [0, 1])]),
    "Gather": (
        [N("Gather", ["a", "i"], ["z"], axis=0)],
        [floats("a", np.ones((1, SIDE))), integers("i", np.zeros(SIDE))],
    ),
    "Conv": (
        [N("Conv", ["o", "w"], ["z"], pads=[SIDE // 2] * 4)],
        [floats("o", np.ones((1, 1, 1, 1))), floats("w", np.ones((1, 1, 1, 1)))],
    ),
    "ConvTranspose": (
        [N("ConvTranspose", ["o", "w"], ["z"], strides=[SIDE, SIDE])],
        [floats("o", np.ones((1, 1, 2, 2))), floats("w", np.ones((1, 1, 1, 1)))],
    ),
    "EyeLike": ([N("ConstantOfShape", ["s"], ["q"]), N("EyeLike", ["q"], ["z"])], [integers("s", [SIDE, SIDE])]),
    "shapes of the batch": (
        [N("Shape", ["x"], ["h"]), N("Mul", ["h", "k"], ["s"]), N("ConstantOfShape", ["s"], ["z"])],
        [integers("k", [SIDE, 20_000])],
    ),
    "smaller batches, larger tensors": (
        [
            N("Shape", ["x"], ["h"], end=1),
            N("Sub", ["k", "h"], ["l"]),
            N("Mul", ["l", "f"], ["s"]),
            N("ConstantOfShape", ["s"], ["z"]),
        ],
        [integers("k", [128]), integers("f", [10**8])],
    ),
    "a cut that is shorter than it looks": (
        [
            N("Slice", ["x", "a", "b"], ["c"]),
            N("Shape", ["c"], ["h"], end=1),
            N("Sub", ["k", "h"], ["l"]),
            N("ConstantOfShape", ["l"], ["z"]),
        ],
        [integers("a", [0]), integers("b", [10**9]), integers("k", [10**9])],
    ),
    "a size that turns out 0": (
        [
            N("Shape", ["x"], ["h"], end=1),
            N("Sub", ["h", "e"], ["l"]),
            N("Concat", ["l", "e"], ["s"], axis=0),
            N("Reshape", ["w", "s"], ["c"]),
            N("Transpose", ["c"], ["t"]),
            N("MatMul", ["c", "t"], ["z"]),
        ],
        [integers("e", [1]), floats("w", np.ones((SIDE, 1)))],
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_graph_that_makes_gigabytes_is_refused(name: str) -> None:
    nodes, weights = BOMBS[name]
    message = refusal(around(*nodes, weights=weights))
    assert "it.onnx: found " in message and ", expected " in message
    assert "bytes" in message or "elements along an axis" in message


def test_a_file_of_few_bytes_that_takes_long_is_refused() -> None:
    cube = floats("a", np.ones((1_000, 1_000)))
    message = refusal(around(N("MatMul", ["a", "a"], ["z"]), weights=[cube]))
    assert "1000000000 multiply-accumulates of weights alone up to node (unnamed) (MatMul)" in message
    squared = around(N("MatMul", ["x", "x"], ["z"]), given=(4_000, 4_000))
    assert "64000000000 multiply-accumulates for a batch of one" in refusal(squared)


def test_what_an_operator_holds_while_it_runs_counts() -> None:
    """A convolution's kernel sees each cell 40,000 times."""
    wide = floats("w", np.ones((1, 1, 200, 200)))
    message = refusal(around(N("Conv", ["x", "w"], ["z"], pads=[100] * 4), weights=[wide], given=(1, 1, 400, 400)))
    assert "found a tensor made by node (unnamed) (Conv) of 25728160000 bytes" in message


@pytest.mark.parametrize(
    ("nodes", "weights", "expected"),
    [
        ([N("STFT", ["x", "s"], ["z"])], [integers("s", 2)], "found the operator STFT in node (unnamed) (STFT)"),
        ([N("RandomNormal", [], ["z"], shape=[2])], [], "found the operator RandomNormal"),
        (
            [N("Cast", ["x"], ["s"], to=7), N("ConstantOfShape", ["s"], ["z"])],
            [],
            "found a shape that only a run would show",
        ),
        ([N("Cast", ["x"], ["s"], to=7), N("Reshape", ["x", "s"], ["z"])], [], "a shape that only a run would show"),
        ([N("Cast", ["x"], ["i"], to=7), N("Div", ["i", "o"], ["z"])], [integers("o", 0)], "by what may be 0"),
        ([N("ConstantOfShape", ["s"], ["z"])], [integers("s", [1] * 9)], "found a tensor of 9 axes"),
        ([N("ConstantOfShape", ["s"], ["z"])], [integers("s", [2, -3])], "found a shape that may be negative"),
        ([N("Add", ["x", "later"], ["z"]), N("Neg", ["z"], ["later"])], [], "which nothing before it makes"),
        ([N("Neg", ["x"], ["z"]), N("Abs", ["x"], ["z"])], [], "found the tensor z made twice"),
        ([N("Neg", ["x"], ["z"], alpha=[1.0, 2.0]), N("Flatten", ["z"], ["f"], axis=9)], [], "found the axis 9"),
        ([N("Transpose", ["x"], ["z"], perm=[0, 0])], [], "found the order [0, 0]"),
        ([N("Flatten", ["x"], ["z"], axis="one")], [], "found the attribute axis of another type"),
        ([N("Split", ["x"], ["z", "o"], num_outputs=2), N("Relu", [], ["q"])], [], "found no input 0"),
        ([N("MaxPool", ["x"], ["z"], kernel_shape=[1])], [], "found an input of 2 axes"),
    ],
)
def test_what_has_no_bound_or_no_sense_is_refused_in_words(
    nodes: Sequence[NodeProto], weights: Sequence[TensorProto], expected: str
) -> None:
    assert expected in refusal(around(*nodes, weights=weights))


def test_declared_shapes_are_those_that_follow() -> None:
    graph = helper.make_graph(
        [N("Neg", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    assert "found the tensor y declared as float32 ['B', 4], expected float32 ['any', 3]" in refusal(content)


# Bounds against what ONNX Runtime makes -----------------------------------------------------------------------------


def chains() -> Iterator[tuple[str, list[NodeProto], list[TensorProto], tuple[int | str, ...]]]:
    """Graphs whose tensors depend on the batch in several ways."""
    shape = [N("Shape", ["x"], ["h"]), N("Gather", ["h", "0"], ["b"]), N("Unsqueeze", ["b", "0"], ["bs"])]
    zero = [integers("0", [0])]
    one = integers("one", 0)
    yield "flatten", [N("Flatten", ["x"], ["z"])], [], ("B", 3, 4)
    yield "rest", [N("Reshape", ["x", "s"], ["z"])], [integers("s", [-1, 6])], ("B", 3, 4)
    yield "zero", [N("Reshape", ["x", "s"], ["z"])], [integers("s", [0, -1, 2])], ("B", 3, 4)
    yield "nonzero", [N("NonZero", ["x"], ["n"]), N("Cast", ["n"], ["z"], to=1)], [], ("B", 3)
    yield "expand", [*shape[:1], N("Expand", ["w", "h"], ["z"])], [floats("w", [[1, 2, 3]])], ("B", 3)
    yield (
        "range",
        [
            shape[0],
            N("Gather", ["h", "one"], ["b"]),
            N("Range", ["one", "b", "by"], ["r"]),
            N("Cast", ["r"], ["z"], to=1),
        ],
        [one, integers("by", 2)],
        ("B", 3),
    )
    yield "slice", [N("Slice", ["x", "a", "e"], ["z"])], [integers("a", [1]), integers("e", [-1])], ("B", 3)
    yield "steps", [N("Slice", ["x", "a", "e", "0", "t"], ["z"])], [
        *zero, integers("a", [5]), integers("e", [-99]), integers("t", [-2])
    ], ("B", 3)  # fmt: skip
    yield "split", [N("Split", ["x"], ["z", "q"], axis=1, num_outputs=2)], [], ("B", 5)
    yield "pool", [N("AveragePool", ["x"], ["z"], kernel_shape=[3], strides=[2], ceil_mode=1)], [], (2, 1, "T")
    yield (
        "conv",
        [N("Conv", ["x", "w"], ["z"], strides=[3], dilations=[2], pads=[1, 2])],
        [floats("w", np.ones((4, 1, 3)))],
        (2, 1, "T"),
    )
    yield (
        "transposed",
        [N("ConvTranspose", ["x", "w"], ["z"], strides=[3], output_padding=[1])],
        [floats("w", np.ones((1, 4, 3)))],
        (2, 1, "T"),
    )
    yield "pad", [N("Pad", ["x", "p"], ["z"])], [integers("p", [1, 0, 0, 2])], ("B", 3)
    yield "tile", [N("Tile", ["x", "r"], ["z"])], [integers("r", [2, 3])], ("B", 3)
    yield "outer", [N("Transpose", ["x"], ["t"]), N("MatMul", ["x", "t"], ["z"])], [], ("B", 3)
    yield "joined", [N("Concat", ["x", "x", "w"], ["z"], axis=0)], [floats("w", [[1, 2, 3]])], ("B", 3)
    yield "top", [N("TopK", ["x", "k"], ["z", "i"])], [integers("k", [2])], ("B", 3)
    yield "resize", [N("Resize", ["x", "", "s"], ["z"])], [floats("s", [1, 1, 1.7])], ("B", 2, 5)
    yield "reduce", [N("ReduceMean", ["x", "a"], ["z"], keepdims=0)], [integers("a", [1])], ("B", 3, 2)
    yield "einsum", [N("Einsum", ["x", "x"], ["z"], equation="bi,ci->bc")], [], ("B", 3)


@pytest.mark.parametrize("case", list(chains()), ids=lambda case: case[0])
def test_no_tensor_is_larger_than_its_bound(
    case: tuple[str, list[NodeProto], list[TensorProto], tuple[int | str, ...]],
) -> None:
    _, nodes, weights, given = case
    content = around(*nodes, weights=weights, given=given)
    known, axes, _ = infer(graph_of(decode(content, "ModelProto", SCHEMA)))
    proto = load_model_from_string(content)
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = 0
    for batch in (5, 8, 17, 128) if "T" in given else (1, 2, 5, 17, 128):
        x = np.ones([batch if isinstance(size, str) else size for size in given], np.float32)
        largest = max(largest, session.run(["z"], {"x": x})[0].size)
    assert largest <= axes.elements(known["z"].shape)[0]


def shape_program(draw: Random) -> bytes:
    """A tensor whose size is computed from the sizes of others: by sums, differences, products and quotients."""
    numbers = [integers(f"c{i}", [value]) for i, value in enumerate((0, 1, 2, 3, 5, 7, 11, -2, 40))]
    nodes = [
        N("Shape", ["x"], ["n0"], end=1),
        N("Shape", ["x"], ["n1"], start=1),
        N("Slice", ["x", f"c{draw.randrange(9)}", f"c{draw.randrange(9)}", f"c{draw.randrange(2)}"], ["cut"]),
        N("Shape", ["cut"], ["n2"], end=1),
        N("Shape", ["cut"], ["n3"], start=1),
        N("NonZero", ["x"], ["places"]),
        N("Shape", ["places"], ["n4"], start=1),
        N("Reshape", ["x", f"c{draw.choice((0, 7))}" if draw.random() < 0.2 else "flat"], ["all"]),
        N("Shape", ["all"], ["n5"]),
        N("Split", ["x"], ["half", "rest"], axis=0, num_outputs=2),
        N("Shape", ["rest"], ["n6"], end=1),
    ]
    names = [f"n{i}" for i in range(7)]
    for i in range(draw.randint(2, 7)):
        operator = draw.choice(("Add", "Sub", "Mul", "Div", "Mod", "Add", "Sub"))
        other = draw.choice([*names, *(f"c{i}" for i in range(9))])
        nodes.append(N(operator, [draw.choice(names), other], [f"v{i}"]))
        names.append(f"v{i}")
    kind = draw.randrange(4)
    if kind == 0:
        nodes.append(N("ConstantOfShape", [names[-1]], ["z"]))
    elif kind == 1:
        nodes += [N("Concat", [names[-1], "c1"], ["s"], axis=0), N("Expand", ["x1", "s"], ["z"])]
    elif kind == 2:
        nodes += [N("Concat", [names[-1], draw.choice(names)], ["s"], axis=0), N("Reshape", ["x", "s"], ["z"])]
    else:
        nodes += [N("Concat", ["c0", "c0", names[-1], draw.choice(("c0", names[-2]))], ["s"], axis=0)]
        nodes += [N("Pad", ["x", "s"], ["z"])]
    weights = [*numbers, integers("flat", [-1]), floats("x1", [[1.0]])]
    return around(*nodes, weights=weights)


def test_no_program_of_shapes_gets_past_its_bound() -> None:
    """What is passed never makes more than the bound says, for any batch; what is refused is not run."""
    draw = Random(SEED)
    ran = 0
    for _ in range(PROGRAMS):
        content = shape_program(draw)
        try:
            known, axes, _ = infer(graph_of(decode(content, "ModelProto", SCHEMA)))
        except UnsafeGraphError:
            continue
        most = axes.elements(known["z"].shape)[0]
        proto = load_model_from_string(content)
        proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception:  # noqa: BLE001 a graph that ONNX Runtime refuses
            continue
        for batch in (1, 2, 3, 8, 31, 128):
            x = (np.arange(batch * 3) % 3 > 0).reshape(batch, 3).astype(np.float32)
            try:
                (z,) = session.run(["z"], {"x": x})
            except Exception:  # noqa: BLE001 sizes that do not fit each other
                continue
            assert z.size <= most, onnx_text(content)
            ran += 1
    assert ran > PROGRAMS // 2


def onnx_text(content: bytes) -> str:
    return printer.to_text(load_model_from_string(content))


def test_sizes_stay_exact_and_bounds_are_bounds() -> None:
    """Random sums, products and quotients of sizes lie between their bounds for each batch."""
    draw = Random(3)
    axes = Axes()
    b, m = axes.add("B", 1, 32, 1), axes.add("M", 0, 128, 8)
    for _ in range(300):
        values = {"B": draw.randint(1, 32), "M": draw.randint(0, 128)}
        pairs = [(b, values["B"]), (m, values["M"]), (Size.of(draw.randint(-5, 9)), None)]
        size, actual = pairs[draw.randrange(2)]
        for _ in range(4):
            other, number = pairs[draw.randrange(3)]
            number = other.constant if number is None else number
            assert number is not None and actual is not None
            if draw.random() < 0.4:
                size, actual = size + other, actual + number
            elif draw.random() < 0.5:
                size, actual = size - other, actual - number
            else:
                size, actual = size * other, actual * number
        assert axes.smallest(size) <= actual <= axes.largest(size)
        whole = (size * b).divided(b)
        assert whole == size, "an exact quotient"


# One row more ---------------------------------------------------------------------------------------------------------


def test_one_row_adds_an_operator() -> None:
    content = around(N("Det", ["x"], ["z"], name="det"), given=(3, 3))
    assert (
        "found the operator Det in node det (Det), of which no bound on memory is known, expected operators of "
        "xaimoe_runtime.onnx_safety.operators.OPERATORS (one row adds one: register_operator)"
    ) in refusal(content)
    try:
        register_operator("Det", "ReduceSum")
        assert check("it.onnx", content).bounds.largest_bytes == 4
        with pytest.raises(ConfigError, match="operator 'Det' is in the table already"):
            register_operator("Det", "ReduceSum")
        with pytest.raises(ConfigError, match="found no rule of 'Nothing'"):
            register_operator("Swish", "Nothing")
    finally:
        del OPERATORS["Det"], ADDED["Det"]
