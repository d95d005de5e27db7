"""A bundle in the making holds only what a device takes."""

from __future__ import annotations

import hashlib

import pytest
from data.hand import FEATURES, LABELS, description
from onnx import ModelProto, TensorProto, helper

from xaimoe_export.draft import Draft
from xaimoe_export.graphs import OPSET
from xaimoe_runtime import BundleError


def head_of(operator: str) -> ModelProto:
    """A head that answers with one operator on the prior."""
    sizes = {"mixture": FEATURES, "mass": 1, "prior_logits": len(LABELS), "scores": len(LABELS)}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", size]) for name, size in sizes.items()]
    node = helper.make_node(operator, ["prior_logits"], ["scores"], name="n")
    graph = helper.make_graph([node], "head", ends[:3], ends[3:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def test_what_a_device_would_refuse_is_refused_at_export() -> None:
    draft = Draft(description(), "0" * 64, ("fp32",))
    with pytest.raises(BundleError) as caught:
        draft.add("head", None, "fp32", head_of("Bernoulli"))
    assert str(caught.value) == (
        "head.onnx: found the operator Bernoulli in node n (Bernoulli), of which no bound on memory is known, expected "
        "operators of xaimoe_runtime.onnx_safety.operators.OPERATORS (one row adds one: register_operator); a device "
        "would refuse the graph: write the module with other operators, or add a row for it "
        "(xaimoe_runtime.onnx_safety.register_operator) here and on the device"
    )


def test_what_is_written_is_what_is_run() -> None:
    draft = Draft(description(), "0" * 64, ("fp32",))
    spec = draft.add("head", None, "fp32", head_of("Softmax"))
    assert hashlib.sha256(draft.files[spec.file]).hexdigest() == spec.sha256
