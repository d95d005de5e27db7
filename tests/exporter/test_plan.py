"""The plan of precisions: what it chooses and why, and how one that is given back is obeyed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from data.hand import GRID, WIDE_ONE, HandConvolutions, HandHead, Rich, description, hand_made, recordings
from numpy.typing import NDArray
from onnx import numpy_helper

from xaimoe_export import (
    ExportOptions,
    PrecisionPlan,
    Recordings,
    export_bundle,
    half,
    plan,
    quantise,
)
from xaimoe_export.reference import Reference
from xaimoe_export.report import describe
from xaimoe_runtime import BundleError, ConfigError, Runtime
from xaimoe_runtime.schema import PatchSpec, Precision

Floats = NDArray[np.float32]


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


def test_a_given_plan_that_loses_too_much_fails_and_leaves_nothing(
    rich: Rich, spoilt: Recordings, tmp_path: Path
) -> None:
    options = ExportOptions(precisions=("int8",), plan=PrecisionPlan({"int8": plan_of(rich.bundle).precisions["int8"]}))
    with pytest.raises(BundleError, match=r"falls from 1\.0000 to 0\..* in int8, expected to lose at most 0\.005"):
        export_bundle(hand_made(Listening()), description(), tmp_path / "bundle", options, spoilt, spoilt)
    assert list(tmp_path.iterdir()) == []
