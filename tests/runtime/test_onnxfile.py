"""What an ONNX file holds is known before ONNX Runtime is asked: what a bundle must not hold is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from xaimoe_runtime import BundleError
from xaimoe_runtime.onnxfile import check, operators


def model(*nodes: NodeProto, weights: tuple[TensorProto, ...] = ()) -> ModelProto:
    """A small model around some nodes."""
    last = helper.make_node("Identity", ["x"], ["y"], name="last")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 3]) for name in ("x", "y")]
    graph = helper.make_graph([*nodes, last], "g", ends[:1], ends[1:], initializer=list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_its_operators_are_named() -> None:
    found = model(helper.make_node("Conv", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["r"]))
    assert operators(found.SerializeToString()) == {"Conv", "Relu", "Identity"}


def refusal(content: ModelProto | bytes) -> str:
    with pytest.raises(BundleError) as caught:
        check("it.onnx", content if isinstance(content, bytes) else content.SerializeToString())
    return str(caught.value)


@pytest.mark.parametrize(
    "kind", [np.float32, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_, np.float64], ids=str
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_weights_of_any_type_pass(kind: type, shape: tuple[int, ...]) -> None:
    raw = numpy_helper.from_array(np.zeros(shape, kind), "w")
    check("it.onnx", model(weights=(raw,)).SerializeToString())


def test_weights_in_typed_fields_pass() -> None:
    floats = helper.make_tensor("f", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0])
    ints = helper.make_tensor("i", TensorProto.INT64, [3], [1, 2, 3])
    check("it.onnx", model(weights=(floats, ints)).SerializeToString())


def test_another_domain_is_refused_in_a_node_and_in_the_operator_sets() -> None:
    custom = helper.make_node("Run", ["x"], ["z"], name="evil", domain="com.example")
    assert "found the operator domain 'com.example' in node evil (Run)" in refusal(model(custom))
    imported = model()
    imported.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "found the operator domain 'com.microsoft' in the operator set" in refusal(imported)


def test_weights_in_another_file_are_refused() -> None:
    weights = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    assert "it.onnx: found the weights w in another file, expected weights inside the graph" in refusal(
        model(weights=(weights,))
    )
    hidden = model(weights=(weights,))
    hidden.graph.initializer[0].data_location = TensorProto.DEFAULT
    assert "found the weights w in another file" in refusal(hidden)
    constant = helper.make_node("Constant", [], ["c"], name="c", value=weights)
    assert "found a tensor of node c (Constant) in another file" in refusal(model(constant))


def test_a_tensor_of_ten_gigabytes_is_refused_wherever_it_is_declared() -> None:
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[50_000, 50_000])
    assert "found the weights w of 10000000000 bytes, expected at most" in refusal(model(weights=(huge,)))
    value = model()
    value.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [50_000, 50_000]))
    assert "found the tensor y of 10000000000 bytes" in refusal(value)
    overflow = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**62, 4])
    assert "found the weights w of" in refusal(model(weights=(overflow,)))
    negative = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[-1])
    assert "of a negative size" in refusal(model(weights=(negative,)))


def test_a_tensor_that_declares_more_than_it_holds_is_refused() -> None:
    short = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1000], raw_data=b"1234")
    assert "found the weights w with 4 bytes, expected the 4000 that its shape declares" in refusal(
        model(weights=(short,))
    )
    none = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1000], float_data=[1.0])
    assert "with fewer values than its shape declares" in refusal(model(weights=(none,)))


def test_subgraphs_functions_and_sparse_weights_are_refused() -> None:
    branch = helper.make_graph([], "b", [], [])
    choice = helper.make_node("If", ["x"], ["z"], name="if", then_branch=branch, else_branch=branch)
    assert "found a subgraph in node if (If)" in refusal(model(choice))
    with_function = model()
    with_function.functions.append(helper.make_function("", "F", ["a"], ["b"], [], with_function.opset_import))
    assert "found functions of its own" in refusal(with_function)
    sparse = model()
    sparse.graph.sparse_initializer.add()
    assert "found sparse weights" in refusal(sparse)


def test_what_is_cut_short_is_refused_at_every_byte() -> None:
    weights = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    whole = model(helper.make_node("MatMul", ["x", "w"], ["z"], name="m"), weights=(weights,))
    whole.graph.initializer[0].dims[:] = [3, 2]
    content = whole.SerializeToString()
    check("it.onnx", content)
    for end in range(len(content)):
        assert refusal(content[:end]).startswith("it.onnx: ")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_words(content: bytes) -> None:
    try:
        check("it.onnx", content)
    except BundleError as error:
        assert str(error).startswith("it.onnx: ")
