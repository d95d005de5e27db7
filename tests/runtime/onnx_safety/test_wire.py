"""What protobuf parsers could read in two ways is refused; what is read is written anew and means the same."""

from __future__ import annotations

import os
import struct
from random import Random

import numpy as np
import pytest
from data.onnx_models import around, field, floats, mutated, varied, varint
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, TensorProto, helper, load_model_from_string

from xaimoe_runtime import BundleError
from xaimoe_runtime.onnx_safety.onnx_schema import SCHEMA
from xaimoe_runtime.onnx_safety.wire import WireError, decode, encode
from xaimoe_runtime.onnxfile import check

MUTATIONS = int(os.environ.get("XAIMOE_FUZZ_CASES", "10000"))
"""Set it to 1000000 to look for longer; see docs/security.md."""
SEED = int(os.environ.get("XAIMOE_FUZZ_SEED", "0"))


def anew(content: bytes) -> bytes:
    return encode(decode(content, "ModelProto", SCHEMA), "ModelProto", SCHEMA)


def problem(content: bytes) -> str:
    with pytest.raises(WireError) as caught:
        decode(content, "ModelProto", SCHEMA)
    return str(caught.value)


@pytest.mark.parametrize("content", varied())
def test_a_model_written_anew_means_the_same_and_stays_as_it_is(content: bytes) -> None:
    once = anew(content)
    assert load_model_from_string(once) == load_model_from_string(content)
    assert anew(once) == once
    assert once == ModelProto.FromString(content).SerializeToString(deterministic=True)


def test_fields_in_any_order_are_written_in_one_order() -> None:
    assert anew(field(7, b"") + field(1, varint(9), 0)) == field(1, varint(9), 0) + field(7, b"")


def test_a_repeated_number_is_read_packed_or_not_and_written_as_onnx_does() -> None:
    unpacked = TensorProto(name="w", data_type=TensorProto.INT64, dims=[2], int64_data=[5, -1])
    content = around(helper.make_node("Add", ["x", "v"], ["z"]), weights=(floats("v", [1, 2, 3]), unpacked))
    packed_dims = field(1, varint(2) + varint(1))  # dims is not packed in onnx.proto; parsers take it all the same
    tensor = packed_dims + field(2, varint(7), 0) + field(7, varint(5), 0) + field(7, varint(6), 0) + field(8, b"p")
    graph = ModelProto.FromString(content).graph.SerializeToString() + field(5, tensor)
    given = field(1, varint(9), 0) + field(7, graph) + field(8, field(2, varint(18), 0))
    assert load_model_from_string(anew(given)) == load_model_from_string(given)
    assert list(load_model_from_string(anew(given)).graph.initializer[-1].dims) == [2, 1]


TOO_LONG = b"\x88\x00\x09"
"""Field 1, its tag in two bytes where one does."""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (TOO_LONG, "found a number in more bytes than it needs"),
        (b"\x08\x89\x00", "found a number in more bytes than it needs"),
        (varint(1 << 3 | 1 << 32) + b"\x09", "found the field tag 4294967304, expected one of 32 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "found a number that overflows 64 bits"),
        (b"\x08" + b"\xff" * 12 + b"\x01", "found a number that overflows 64 bits"),
        (b"\x08" + b"\xff" * 3, "cut short"),
        (field(1, varint(9), 0) * 2, "found ir_version twice, expected it once"),
        (field(7, b"") * 2, "found graph twice, expected it once"),
        (field(1, b""), "found wire type 2 for ir_version, expected 0"),
        (field(7, varint(0), 0), "found wire type 0 for graph, expected 2"),
        (field(99, b""), "found field 99 in ModelProto, expected a field of ONNX"),
        (b"\x00\x00", "found field 0 in ModelProto, expected a field of ONNX"),
        (b"\x0b\x0c", "found wire type 3 for ir_version, expected 0"),
        (b"\x3b\x3c", "found wire type 3 for graph, expected 2"),
        (field(2, b"\xff"), "found no UTF-8 in producer_name, expected text"),
        (field(2, b"\xed\xa0\x80"), "found no UTF-8 in producer_name, expected text"),
        (b"\x12\x05abc", "cut short; found a length of 5, expected at most 3"),
        (field(7, field(5, field(2, varint(1 << 32), 0))), "found the number 4294967296, expected one of 32 bits"),
        (field(7, field(5, field(4, b"123"))), "found 3 bytes of packed numbers, expected a multiple of 4"),
        (field(7, field(5, field(7, b"\x80"))), "cut short"),
        (field(7, field(5, field(1, b"\x81\x00"))), "found a number in more bytes than it needs"),
    ],
)
def test_bytes_that_may_mean_two_things_are_refused(content: bytes, expected: str) -> None:
    assert expected in problem(content)


def test_two_values_of_one_choice_are_refused() -> None:
    both = field(1, varint(3), 0) + field(2, b"B")
    value = field(1, b"x") + field(2, field(1, field(1, varint(1), 0) + field(2, field(1, both))))
    assert "found dim_param and dim_value, expected one" in problem(field(7, field(11, value)))


def test_more_fields_than_any_graph_has_are_refused_soon() -> None:
    assert "found more than 100000 fields" in problem(field(7, field(5, field(1, b"\x01" * 300_000)) + field(2, b"")))
    assert "found more than 100000 fields" in problem(field(8, b"") * 300_000)


def forbidden(model: ModelProto) -> list[str]:
    """What a graph of a bundle must not have, in a model as ``onnx`` parses it."""
    found = ["functions"] * bool(model.functions) + ["training"] * bool(model.training_info)
    found += ["domain " + entry.domain for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    found += ["sparse"] * bool(model.graph.sparse_initializer)
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        found += [f"domain {node.domain}"] if node.domain not in ("", "ai.onnx") else []
        for attribute in node.attribute:
            has = [name for name in ("g", "sparse_tensor", "tp") if attribute.HasField(name)]
            has += [name for name in ("graphs", "sparse_tensors", "tensors", "type_protos") if getattr(attribute, name)]
            found += [*has, *(["reference"] if attribute.ref_attr_name else [])]
            tensors += [attribute.t] if attribute.type == AttributeProto.TENSOR else []
    for tensor in tensors:
        found += ["external"] if tensor.external_data or tensor.data_location != TensorProto.DEFAULT else []
    return found


def test_no_mutation_of_a_model_is_read_in_two_ways() -> None:
    """Whatever the check lets pass, ``onnx`` reads as the same model, and it holds nothing that is forbidden."""
    draw, models = Random(SEED), varied()
    passed = reached = 0
    for _ in range(MUTATIONS):
        content = mutated(draw.choice(models), draw)
        try:
            given = check("it.onnx", content).content
        except BundleError:
            continue
        passed += 1
        model = ModelProto.FromString(given)
        assert not forbidden(model), content.hex()
        assert anew(given) == given, content.hex()
        assert model.SerializeToString(deterministic=True) == given, content.hex()
        try:  # the file itself, where the other parser takes it, means the same: nothing was overlooked
            file = ModelProto.FromString(content)
        except DecodeError:
            pytest.fail(f"the check passes what protobuf does not read: {content.hex()}")
        assert file.SerializeToString(deterministic=True) == given, content.hex()
        reached += content not in models
    assert passed > MUTATIONS // 100 < reached, "mutations that pass are what this test is about"


def test_numbers_keep_every_bit() -> None:
    odd = struct.pack("<I", 0x7FA00001) + struct.pack("<f", -0.0)  # a signalling NaN
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    content = field(7, field(5, tensor.SerializeToString() + field(4, odd)))
    assert odd in anew(content)
    assert np.isnan(load_model_from_string(anew(content)).graph.initializer[0].float_data[0])
