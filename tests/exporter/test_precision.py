"""Other precisions: which graphs may leave FP32, what they answer, and the bundle that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from data.hand import GRID, WIDE_ONE, HandConvolutions, HandExpert, Rich, description, hand_made, recordings
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from xaimoe_export import (
    ExportOptions,
    ExportReport,
    GraphModule,
    export_bundle,
    make,
)
from xaimoe_export.cost import cost
from xaimoe_export.fuse import fuse
from xaimoe_export.graphs import to_onnx
from xaimoe_export.half import to_fp16
from xaimoe_export.half import why_not as why_not_half
from xaimoe_export.quantise import to_int8, why_not
from xaimoe_export.report import describe
from xaimoe_runtime import BundleError, ConfigError, Runtime
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.schema import Precision
from xaimoe_runtime.verify import verify

Floats = NDArray[np.float32]


def expert_model(module: nn.Module) -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(GraphModule("expert", module.eval(), "it"), (torch.randn(3, 1, *GRID.tile), torch.rand(3, 2)))


@pytest.fixture(scope="module")
def wide() -> onnx.ModelProto:
    return expert_model(HandConvolutions())


def answers(model: onnx.ModelProto, given: dict[str, Floats] | None = None) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, given or rows())[0])


def rows(count: int = 32) -> dict[str, Floats]:
    draw = np.random.default_rng(0)
    return {
        "patches": draw.standard_normal((count, 1, *GRID.tile)).astype(np.float32),
        "position": draw.random((count, 2)).astype(np.float32),
    }


# Which graphs ---------------------------------------------------------------------------------------------------------


def test_int8_is_for_graphs_whose_convolutions_are_wide(wide: onnx.ModelProto) -> None:
    assert why_not(wide) is None
    assert "no convolution is over 12 channels" in str(why_not(expert_model(HandExpert())))
    narrow = HandConvolutions()
    narrow.body = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 3, 1))
    assert "its convolutions add up 16 products on average, time is gained from 72" in str(
        why_not(expert_model(narrow))
    )
    shallow = HandConvolutions()
    shallow.body = nn.Sequential(nn.Conv2d(1, 96, (4, 4), padding=2), nn.ReLU(), nn.Conv2d(96, 3, 4, 4))
    assert "of its multiply-accumulates would be quantised" in str(why_not(expert_model(shallow)))


def test_fp16_is_for_graphs_with_convolutions(wide: onnx.ModelProto) -> None:
    assert why_not_half(wide) is None
    assert "no convolution" in str(why_not_half(expert_model(HandExpert())))


# What they answer -----------------------------------------------------------------------------------------------------


def test_int8_answers_nearly_the_same_from_a_third_of_the_bytes(wide: onnx.ModelProto) -> None:
    quantised = to_int8(wide, rows())
    assert cost(quantised).initialiser_bytes <= 0.35 * cost(wide).initialiser_bytes
    assert cost(quantised).parameters == cost(wide).parameters, "which are stored otherwise"
    difference = np.abs(answers(quantised) - answers(wide)).max()
    assert 0 < difference < 0.05
    assert {"QuantizeLinear", "DequantizeLinear"} < set(cost(quantised).operators)


def test_fp16_answers_nearly_the_same_from_half_of_the_bytes(wide: onnx.ModelProto) -> None:
    half = to_fp16(wide)
    assert cost(half).initialiser_bytes <= 0.55 * cost(wide).initialiser_bytes
    assert 0 < np.abs(answers(half) - answers(wide)).max() < 0.01
    borders = (*half.graph.input, *half.graph.output)
    assert {value.type.tensor_type.elem_type for value in borders} == {onnx.TensorProto.FLOAT}


def test_fp16_keeps_its_digits_where_the_range_is_wide() -> None:
    """What is made of the convolutions' answers may be far beyond 65504 and far below 6e-8."""

    class Powers(HandConvolutions):
        def forward(self, patches: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
            largest = self.body(patches).abs().amax((2, 3))
            return torch.cat([(1 + largest) ** 80, largest**12 * 1e-9], dim=1) + 0 * position[:, :1]

    model = expert_model(Powers())
    wanted, found = answers(model), answers(to_fp16(model))
    assert wanted.max() > 65_504
    assert wanted.min() < 6e-8
    np.testing.assert_allclose(found, wanted, rtol=0.1)


def test_fp16_takes_no_weight_for_zero_or_infinity() -> None:
    class Scaled(HandConvolutions):
        def forward(self, patches: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
            steadied = patches / patches.abs().clamp(min=1e-9)  # 0 / 0 if that became 0
            return self.body(steadied.clamp(max=1e9)).mean((2, 3)) + 0 * position[:, :1]

    half = to_fp16(expert_model(Scaled()))
    weights = [numpy_helper.to_array(w) for w in half.graph.initializer if w.data_type == onnx.TensorProto.FLOAT16]
    assert min(float(np.abs(values).min()) for values in weights if values.size == 1) > 0
    assert all(np.isfinite(values).all() for values in weights)
    silent = {name: 0 * value for name, value in rows().items()}
    assert np.isfinite(answers(half, silent)).all()


def test_fp16_leaves_operators_of_a_type_of_their_own_alone() -> None:
    class Resized(HandConvolutions):
        def forward(self, patches: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
            larger = torch.nn.functional.interpolate(patches, scale_factor=2.0, mode="nearest")
            steps = (larger > 0).to(torch.float32)  # a Cast
            return self.body(larger * steps).mean((2, 3)) + 0 * position[:, :1]

    model = expert_model(Resized())
    assert {"Resize", "Cast"} < set(cost(model).operators)
    np.testing.assert_allclose(answers(to_fp16(model)), answers(model), atol=0.01)


def test_int8_with_no_room_for_temporary_files_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: onnx.ModelProto
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"gone.*: cannot be written \(No such file or directory\)"):
        to_int8(wide, rows())


# The bundle -----------------------------------------------------------------------------------------------------------


def test_a_bundle_holds_several_precisions_each_for_its_providers(rich: Rich) -> None:
    manifest = Bundle.open(rich.bundle).manifest
    assert manifest.precisions == ("fp32", "int8", "fp16")
    assert manifest.graph("expert", "Bright one", "int8").file == "experts/Bright_one.int8.onnx"
    assert manifest.graph("expert", "Bright one", "int8").providers == ("cpu",)
    assert manifest.graph("expert", "Bright one", "fp16").providers == ("cuda", "tensorrt")
    assert manifest.graph("expert", "dull", "int8").precision == "fp32", "it has no other"
    assert manifest.precisions_for("cpu") == ("int8", "fp32")
    assert manifest.precisions_for("cuda") == ("fp16", "fp32")


def test_auto_takes_what_is_meant_for_the_provider(rich: Rich) -> None:
    assert Runtime.load(rich.bundle, "cpu").precision == "int8"
    assert Runtime.load(rich.bundle, "cpu", precision="fp32").precision == "fp32"


def test_a_precision_that_the_bundle_does_not_have_is_refused(plain: tuple[Path, ExportReport]) -> None:
    with pytest.raises(ConfigError, match="precision: found 'int8', the bundle has fp32; choose one of them or auto"):
        Runtime.load(plain[0], "cpu", precision="int8")


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_each_precision_proves_itself(rich: Rich, precision: str) -> None:
    found = verify(Runtime.load(rich.bundle, "cpu", precision=precision))
    assert all(deviation.passed for deviation in found)
    assert {"fused/scores", "line/routed", f"{WIDE_ONE}/features"} < {deviation.what for deviation in found}


def test_int8_is_proven_by_its_own_answers_not_by_those_of_fp32(rich: Rich) -> None:
    golden = Bundle.open(rich.bundle).golden
    own, of_fp32 = golden["int8/features/Bright one"], golden["features/Bright one"]
    assert 0 < np.abs(own - of_fp32).max() < 0.05
    assert "int8/features/dull" not in golden


def test_the_report_has_a_line_for_each_precision(rich: Rich) -> None:
    assert set(rich.report.precisions) == {"fp32", "int8", "fp16"}
    assert all(line.accuracy == 1.0 for line in rich.report.precisions.values())
    assert set(rich.report.graphs["int8"]) == {WIDE_ONE, "fused"}
    assert max(rich.report.precisions["fp32"].scores.values()) < 1e-4
    assert set(rich.report.precisions["fp32"].scores) == {"routed", "dense", "glance", "fused"}
    told = describe(rich.report)
    assert "1 graph in int8, the others in fp32" in told
    assert rich.report.graphs["int8"][WIDE_ONE].parameters == rich.report.graphs["fp32"][WIDE_ONE].parameters
    assert "int8 (1 of its graphs)" in (rich.bundle / "README.md").read_text()


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_bundle_may_hold_one_other_precision_alone(tmp_path: Path, precision: Precision) -> None:
    options = ExportOptions(precisions=(precision,), fused=True)
    report = export_bundle(hand_made(), description(), tmp_path / "bundle", options, recordings(8), recordings(8))
    kept = {path.name for path in (tmp_path / "bundle").rglob("*.onnx")}
    assert {f"Bright_one.{precision}.onnx", f"fused.{precision}.onnx", "dull.onnx", "head.onnx"} < kept
    assert not {"Bright_one.onnx", "fused.onnx"} & kept
    runtime = Runtime.load(tmp_path / "bundle", "cpu")
    assert runtime.precision == precision
    assert all(deviation.passed for deviation in verify(runtime))
    assert set(report.precisions) == {precision}
    assert report.accuracy_in_fp32 == 1.0, "what the other is compared with"
    assert "fp32   accuracy 1.0000, not in the bundle" in describe(report)
    assert "| accuracy in fp32, 8 recordings" in (tmp_path / "bundle" / "README.md").read_text()


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
def test_a_fused_graph_that_answers_otherwise_than_its_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    def fuse_badly(*given: Any) -> onnx.ModelProto:
        model = fuse(*given)
        last = next(node for node in model.graph.node if "scores" in node.output)
        last.output[0] = "nearly"
        factor = numpy_helper.from_array(np.array(0.95, np.float32), "factor")
        model.graph.initializer.append(factor)
        model.graph.node.append(onnx.helper.make_node("Mul", ["nearly", "factor"], ["scores"]))
        return model

    monkeypatch.setattr(make, "fuse", fuse_badly)
    options = ExportOptions(precisions=(precision,), fused=True)
    with pytest.raises(BundleError, match="fused"):
        export_bundle(hand_made(), description(), tmp_path / "bundle", options, recordings(8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asked", [(), ("fp32", "fp32"), ("int4",)])
def test_precisions_that_are_none_are_refused(asked: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"precision: found .*, expected some of fp32, int8, fp16, each once"):
        ExportOptions(precisions=asked)  # type: ignore[arg-type]
