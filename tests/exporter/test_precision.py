"""Other precisions: which graphs leave FP32 and why, what they answer, and the plan that says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from data.hand import GRID, HandConvolutions, HandExpert, HandHead, Rich, description, hand_made, recordings
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from xaimoe_export import (
    ExportOptions,
    ExportReport,
    GraphModule,
    PrecisionPlan,
    Recordings,
    export_bundle,
    half,
    make,
    plan,
    quantise,
)
from xaimoe_export.cost import cost
from xaimoe_export.fuse import fuse
from xaimoe_export.graphs import to_onnx
from xaimoe_export.half import to_fp16
from xaimoe_export.half import why_not as why_not_half
from xaimoe_export.quantise import to_int8, why_not
from xaimoe_export.reference import Reference
from xaimoe_export.report import describe
from xaimoe_runtime import BundleError, ConfigError, Runtime
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.schema import PatchSpec, Precision
from xaimoe_runtime.verify import verify

Floats = NDArray[np.float32]
WIDE_ONE = "expert Bright one"


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


# The plan -------------------------------------------------------------------------------------------------------------


def plan_of(bundle: Path) -> PrecisionPlan:
    return PrecisionPlan.read(bundle / "precision_plan.json")


def test_the_plan_says_of_every_graph_which_and_why(rich: Rich) -> None:
    chosen = plan_of(rich.bundle).precisions
    assert set(chosen) == {"int8", "fp16"}
    assert set(chosen["int8"]) == {"frontend", "saliency", "router", "head", WIDE_ONE, "expert dull"}
    assert [name for name, choice in chosen["int8"].items() if choice.used] == [WIDE_ONE]
    assert "scores move by 0.0" in chosen["int8"][WIDE_ONE].why
    assert "no convolution" in chosen["int8"]["frontend"].why


def test_a_plan_given_back_is_obeyed(rich: Rich, tmp_path: Path) -> None:
    before = plan_of(rich.bundle)
    stay = {name: msgspec.structs.replace(choice, used=False) for name, choice in before.precisions["fp16"].items()}
    given = PrecisionPlan({"int8": before.precisions["int8"], "fp16": stay})
    options = ExportOptions(precisions=("int8", "fp16"), plan=given)
    export_bundle(hand_made(), description(), tmp_path / "bundle", options, recordings(8))
    files = {path.name for path in (tmp_path / "bundle" / "experts").iterdir()}
    assert files == {"Bright_one.onnx", "Bright_one.int8.onnx", "dull.onnx"}
    assert plan_of(tmp_path / "bundle") == given
    runtime = Runtime.load(tmp_path / "bundle", "cpu")
    assert runtime.precision == "int8"
    assert runtime.manifest.precisions_for("cuda") == ("fp16",), "which is FP32 throughout"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"expert dull": True}, "precision plan: expert dull cannot run in int8: no convolution is over 12 channels"),
        ({"nobody": False}, "precision plan: found int8 choices for .*nobody.*; expected frontend"),
    ],
)
def test_a_plan_that_cannot_be_obeyed_is_refused(
    rich: Rich, tmp_path: Path, changed: dict[str, bool], why: str
) -> None:
    choices = dict(plan_of(rich.bundle).precisions["int8"])
    for name, used in changed.items():
        choices[name] = msgspec.structs.replace(choices["expert dull"], used=used)
    options = ExportOptions(precisions=("int8",), plan=PrecisionPlan({"int8": choices}))
    with pytest.raises(ConfigError, match=why):
        export_bundle(hand_made(), description(), tmp_path / "bundle", options, recordings(8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"precisions": {"int4": {}}}'])
def test_a_plan_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"plan\.json: not a precision plan"):
        PrecisionPlan.read(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match=r"none\.json: cannot be read"):
        PrecisionPlan.read(tmp_path / "none.json")


def test_int8_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision int8: found no recordings to take ranges from"):
        export_bundle(hand_made(), description(), tmp_path / "bundle", ExportOptions(precisions=("int8",)))
    assert list(tmp_path.iterdir()) == []


class Listening(HandHead):
    """A head whose answer hangs on the experts."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__()

    def forward(self, mixture: torch.Tensor, mass: torch.Tensor, prior_logits: torch.Tensor) -> torch.Tensor:
        return torch.softmax(0.02 * prior_logits + 40 * self.answer(mixture), dim=1)


def turned_round(model: onnx.ModelProto) -> onnx.ModelProto:
    """With its weights turned round."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for weights in other.graph.initializer:
        if weights.name.startswith("body."):
            weights.CopyFrom(numpy_helper.from_array(-5 * numpy_helper.to_array(weights), weights.name))
    return other


@pytest.fixture
def spoilt(monkeypatch: pytest.MonkeyPatch) -> Recordings:
    """INT8 that turns the experts' weights round; and recordings that FP32 recognises all."""

    monkeypatch.setattr(quantise, "to_int8", lambda model, rows: turned_round(model))
    monkeypatch.setattr(plan, "MOST_BYTES", 1.0)
    heard = recordings(8)
    reference = Reference(hand_made(Listening()), PatchSpec(source="spectrogram", grid=GRID))
    waveform, source = torch.from_numpy(heard.waveform), torch.from_numpy(heard.source)
    scores = reference.answers(waveform, source)["scores/routed"].numpy().reshape(8, 2, -1).mean(1)
    return replace(heard, targets=np.eye(2, dtype=np.float32)[scores.argmax(1)])


@pytest.mark.parametrize(
    ("most_moved", "why"),
    [(0.02, "on average, 0.02 is allowed"), (9.0, "with it and the others, accuracy is 0.*, 0.9950 is wanted")],
)
def test_a_graph_that_would_cost_too_much_stays_in_fp32(
    spoilt: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_moved: float, why: str
) -> None:
    monkeypatch.setattr(plan, "MOST_MOVED", most_moved)
    options = ExportOptions(precisions=("int8",))
    report = export_bundle(hand_made(Listening()), description(), tmp_path / "bundle", options, spoilt, spoilt)
    choice = plan_of(tmp_path / "bundle").precisions["int8"][WIDE_ONE]
    assert not choice.used
    assert re.search(why, choice.why)
    assert not list(tmp_path.rglob("*.int8.onnx"))
    assert report.precisions["int8"].accuracy == 1.0


@pytest.mark.parametrize(("precision", "spoil"), [("int8", "to_int8"), ("fp16", "to_fp16")])
def test_without_labelled_recordings_scores_may_move_little(
    rich: Rich, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, spoil: str
) -> None:
    module = quantise if precision == "int8" else half
    monkeypatch.setattr(module, spoil, lambda model, *rows: turned_round(model))
    monkeypatch.setattr(plan, "MOST_BYTES", 1.0)
    graphs, out = hand_made(Listening()), tmp_path / "bundle"
    export_bundle(graphs, description(), out, ExportOptions(precisions=(precision,)), recordings(8))
    choices = plan_of(out).precisions[precision]
    assert not choices[WIDE_ONE].used
    assert "on average, 0.02 is allowed" in choices[WIDE_ONE].why
    forced = choices | {WIDE_ONE: msgspec.structs.replace(choices[WIDE_ONE], used=True)}
    options = ExportOptions(precisions=(precision,), plan=PrecisionPlan({precision: forced}))
    with pytest.raises(BundleError, match=f"in {precision}, scores move by .* expected 0.02 at most"):
        export_bundle(graphs, description(), tmp_path / "forced", options, recordings(8))
    assert not (tmp_path / "forced").exists()


def test_graphs_that_move_the_scores_together_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two moves them by half of what is allowed, and a little."""

    def scores(chooser: plan.Chooser, models: dict[str, onnx.ModelProto]) -> Floats:
        return np.full((4, 2), 0.51 * plan.MOST_MOVED * len(models), np.float32)

    monkeypatch.setattr(plan.Chooser, "_scores", scores)
    two = [
        replace(graph, module=HandConvolutions().eval()) if graph.name == "expert dull" else graph
        for graph in hand_made()
    ]
    options = ExportOptions(precisions=("int8",))
    export_bundle(tuple(two), description(), tmp_path / "bundle", options, recordings(8))
    chosen = plan_of(tmp_path / "bundle").precisions["int8"]
    assert [name for name in (WIDE_ONE, "expert dull") if chosen[name].used] == ["expert dull"]
    assert chosen[WIDE_ONE].why == "with it and the others, scores move by 0.020 on average, 0.02 is allowed"


def test_a_graph_whose_bytes_hardly_shrink_stays_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "MOST_BYTES", 0.2)
    report = export_bundle(
        hand_made(), description(), tmp_path / "bundle", ExportOptions(precisions=("int8",)), recordings(8)
    )
    choice = plan_of(tmp_path / "bundle").precisions["int8"][WIDE_ONE]
    assert not choice.used
    assert re.search(r"would still have 0\.\d+ of their bytes, 0\.2 is allowed", choice.why)
    assert "no graph gains by int8: all are in fp32" in describe(report)
    assert "int8 (none of its graphs)" in (tmp_path / "bundle" / "README.md").read_text()


def test_int8_with_no_room_for_temporary_files_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: onnx.ModelProto
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ConfigError, match=r"gone.*: cannot be written \(No such file or directory\)"):
        to_int8(wide, rows())


def test_a_given_plan_that_loses_too_much_fails_and_leaves_nothing(
    rich: Rich, spoilt: Recordings, tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("int8",), plan=PrecisionPlan({"int8": plan_of(rich.bundle).precisions["int8"]}))
    with pytest.raises(BundleError, match=r"falls from 1\.0000 to 0\..* in int8, expected to lose at most 0\.005"):
        export_bundle(hand_made(Listening()), description(), tmp_path / "bundle", options, spoilt, spoilt)
    assert list(tmp_path.iterdir()) == []


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
