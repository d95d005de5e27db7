"""Writing a bundle: any five roles will do, what differs from PyTorch is refused, nothing half is left behind."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from data import noise
from data.hand import CLIP, FEATURES, GRID, LABELS, RATE, HandHead, Rich, description, hand_made, recordings
from torch import Tensor

from xaimoe_export import ExportOptions, ExportReport, PrecisionPlan, check_possible, export_bundle
from xaimoe_export.compare import compare
from xaimoe_export.folder import new_folder
from xaimoe_export.graphs import to_onnx
from xaimoe_export.reference import Reference
from xaimoe_export.report import describe
from xaimoe_runtime import BundleError, ConfigError, Runtime, temporary
from xaimoe_runtime.schema import ROUTINGS, EventSettings, PatchSpec, Routing
from xaimoe_runtime.verify import verify


class TwoFacedHead(HandHead):
    """Answers otherwise while it is exported."""

    def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        scores = super().forward(mixture, mass, prior_logits)
        return 1 - scores if torch.compiler.is_exporting() else scores


class UndecidedHead(HandHead):
    """Two scores that are nearly equal; while it is exported, the other one is larger."""

    def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        larger = 1e-6 if torch.compiler.is_exporting() else -1e-6
        return 0.5 + 0 * super().forward(mixture, mass, prior_logits) + torch.tensor([larger, -larger])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_hand_made_model_answers_as_its_modules_do(plain: tuple[Path, ExportReport], routing: Routing) -> None:
    runtime = Runtime.load(plain[0], provider="cpu")
    waveform = np.stack([noise(CLIP, seed, level) for seed, level in enumerate((0.0, 0.01, 0.1, 1.0))])
    source = np.array([[RATE, 0.0]] * 4, np.float32)
    reference = Reference(hand_made(), PatchSpec(source="spectrogram", grid=GRID))
    wanted = reference.answers(torch.from_numpy(waveform), torch.from_numpy(source))[f"scores/{routing}"]
    found = runtime.run(waveform, source, routing)
    np.testing.assert_allclose(found.scores, wanted.numpy(), atol=1e-5)
    assert (found.pairs > 0).any() == (routing != "glance")
    assert runtime.infer(waveform[3], routing=routing).labels[0] in LABELS


def test_the_report_is_what_was_measured(plain: tuple[Path, ExportReport]) -> None:
    out, report = plain
    line, graphs = report.precisions["fp32"], report.graphs["fp32"]
    assert set(line.scores) == set(ROUTINGS)
    assert max(line.scores.values()) < 1e-4
    assert line.same_predictions
    assert line.accuracy == 1.0, "the prior alone knows calm from loud"
    assert (report.recordings, report.real_clips, report.clips) == (6, 0, 8)
    experts, exchange = {"expert Bright one", "expert dull"}, {"gather", "scatter"}
    assert set(graphs) == {"frontend", "saliency", "router", "head"} | experts | exchange
    dull = graphs["expert dull"]
    assert dull.parameters == (4 * 4 + 2) * FEATURES + FEATURES
    assert dull.macs == (4 * 4 + 2) * FEATURES
    assert dull.operators["Tanh"] == 1
    assert dull.bytes == (out / "experts/dull.onnx").stat().st_size
    assert all(0 <= graph.error < 1e-4 and graph.ms > 0 for graph in graphs.values())
    assert report.bytes == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert report.bundle_id == json.loads((out / "manifest.json").read_text())["bundle_id"]
    beside = out.with_name("bundle.export.json")
    assert msgspec.json.decode(beside.read_bytes(), type=ExportReport) == report
    assert "no nodes" in describe(report)


def test_the_bundle_proves_itself(plain: tuple[Path, ExportReport]) -> None:
    found = verify(Runtime.load(plain[0], provider="cpu"))
    assert len(found) > len(ROUTINGS)
    assert all(deviation.passed for deviation in found)


def test_the_manifest_names_every_file_with_its_hash(plain: tuple[Path, ExportReport]) -> None:
    out, _ = plain
    manifest = json.loads((out / "manifest.json").read_text())
    listed = {entry["file"]: entry for entry in (*manifest["graphs"], manifest["golden"], *manifest["documents"])}
    on_disk = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert on_disk == set(listed) | {"manifest.json"}
    for file, entry in listed.items():
        content = (out / file).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_expert_names_become_plain_file_names(plain: tuple[Path, ExportReport]) -> None:
    assert {path.name for path in (plain[0] / "experts").iterdir()} == {"Bright_one.onnx", "dull.onnx"}


def test_experts_may_be_given_any_number_of_patches(plain: tuple[Path, ExportReport]) -> None:
    expert = Runtime.load(plain[0], provider="cpu").dispatcher.experts[0]
    for count in (0, 1, 2, 7):
        patches = np.zeros((count, 1, *GRID.tile), np.float32)
        features = expert(patches=patches, position=np.zeros((count, 2), np.float32))["features"]
        assert features.shape == (count, FEATURES)


def test_graphs_that_answer_otherwise_than_pytorch_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"scores of the exported graphs differ .* differences by graph: .*head [1-9]"
    ):
        export_bundle(hand_made(TwoFacedHead()), description(), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Broken(HandHead):
        def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
            raise RuntimeError("no answer")

    with pytest.raises(RuntimeError, match="no answer"):
        export_bundle(hand_made(Broken()), description(), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    class NotANumber(HandHead):
        def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
            return super().forward(mixture, mass, prior_logits) * float("nan")

    with pytest.raises(BundleError):
        export_bundle(hand_made(NotANumber()), description(), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("keep me")
    (tmp_path / "bundle" / "manifest.json").write_text('{"manifest_version": 3}')
    for force, why in (
        (False, "exists already; remove it, export to"),
        (True, "found what no export wrote, so it is"),
    ):
        with pytest.raises(ConfigError, match=f"bundle: {why}"):
            export_bundle(hand_made(), description(), tmp_path / "bundle", ExportOptions(force=force))
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "keep me"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_earlier_bundle_is_replaced_when_asked_and_kept_when_the_new_one_fails(
    plain: tuple[Path, ExportReport], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(plain[0], tmp_path / "bundle"))
    (out / "left.over").touch()
    before = content_of(out)
    with pytest.raises(BundleError):
        export_bundle(hand_made(TwoFacedHead()), description(), out, ExportOptions(force=True))
    assert content_of(out) == before
    export_bundle(hand_made(), description(), out, ExportOptions(force=True))
    assert not (out / "left.over").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "bundle.export.json"]


@pytest.mark.parametrize("name", [".", "..", "some/.."])
def test_a_place_without_a_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="found no name of a folder to write"):
        export_bundle(hand_made(), description(), Path(name), ExportOptions(force=True))


def test_a_folder_where_the_report_goes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bundle.export.json").mkdir()
    with pytest.raises(ConfigError, match=r"bundle\.export\.json: found a folder where the report goes"):
        check_possible(hand_made(), description(), ExportOptions(), tmp_path / "bundle", calibrated=False)


def test_a_read_only_place_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(ConfigError, match=r"new/bundle: cannot be written \(.+ is read-only\)"):
        check_possible(hand_made(), description(), ExportOptions(), tmp_path / "new" / "bundle", calibrated=False)


def test_a_repository_that_appears_during_the_export_keeps_the_bundle_away(tmp_path: Path) -> None:
    def appear() -> None:
        (tmp_path / "triton" / "xaimoe").mkdir(parents=True, exist_ok=True)

    options = ExportOptions(triton=tmp_path / "triton")
    with pytest.raises(ConfigError, match="triton/xaimoe: exists already"):
        export_bundle(hand_made(), description(), tmp_path / "bundle", options, advance=appear)
    assert [path.name for path in tmp_path.rglob("*")] == ["triton", "xaimoe"]


def test_other_models_of_a_repository_stay(rich: Rich, tmp_path: Path) -> None:
    models = Path(shutil.copytree(rich.triton, tmp_path / "models"))
    (models / "resnet").mkdir()
    (models / "xaimoe" / "old").touch()
    options = ExportOptions(triton=models, force=True)
    export_bundle(hand_made(), description(), tmp_path / "bundle", options)
    assert {path.name for path in models.iterdir()} == {"resnet", "xaimoe"}
    assert {path.name for path in (models / "xaimoe").iterdir()} == {"1", "config.pbtxt", "labels.txt"}


def test_what_appears_during_the_export_is_not_replaced(tmp_path: Path) -> None:
    def appear() -> None:
        (tmp_path / "bundle").mkdir(exist_ok=True)
        (tmp_path / "bundle" / "mine.txt").write_text("keep me")

    with pytest.raises(ConfigError, match="bundle: appeared during the export, so it is not replaced"):
        export_bundle(
            hand_made(), description(), tmp_path / "bundle", ExportOptions(triton=tmp_path / "triton"), advance=appear
        )
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["mine.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"], "no report, no repository"


@pytest.mark.parametrize("triton", ["bundle", "bundle/triton", "."])
def test_a_repository_and_a_bundle_in_each_other_are_refused(tmp_path: Path, triton: str) -> None:
    options = ExportOptions(triton=tmp_path / triton)
    with pytest.raises(ConfigError, match="in each other, expected two places"):
        export_bundle(hand_made(), description(), tmp_path / "bundle", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (ExportOptions(sign=Path("none.pem")), r"none\.pem: cannot be read"),
        (ExportOptions(precisions=("int8",)), "precision int8: found no recordings"),
        (ExportOptions(precisions=("fp16",), plan=PrecisionPlan({})), "precision plan: found none for fp16"),
        (ExportOptions(triton=Path("there")), "there/xaimoe: exists already"),
        (ExportOptions(triton=Path("there"), force=True), "there/xaimoe: found what no export wrote"),
    ],
)
def test_what_is_not_possible_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: ExportOptions, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there" / "xaimoe").mkdir(parents=True)
    (tmp_path / "there" / "xaimoe" / "config.pbtxt").write_text('name: "xaimoe"')
    with pytest.raises(ConfigError, match=why):
        check_possible(hand_made(), description(), options, tmp_path / "bundle", calibrated=False)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("label", ["two\nlines", "one\u2028other", "blank "])
def test_labels_that_a_repository_cannot_hold_are_refused(tmp_path: Path, label: str) -> None:
    told = description()
    told = replace(told, task=msgspec.structs.replace(told.task, labels=(label, "loud")))
    with pytest.raises(ConfigError, match=r"triton: found labels .*, expected none with a line break"):
        check_possible(hand_made(), told, ExportOptions(triton=tmp_path / "t"), tmp_path / "bundle", calibrated=False)
    check_possible(hand_made(), told, ExportOptions(), tmp_path / "bundle", calibrated=False)


def test_the_identity_hangs_on_all_that_is_in_the_bundle(plain: tuple[Path, ExportReport], tmp_path: Path) -> None:
    def name(**changed: Any) -> str:
        given = {"description": description(), "options": ExportOptions(), "validation": recordings(6)} | changed
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        return export_bundle(
            hand_made(), given["description"], out, given["options"], None, given["validation"]
        ).bundle_id

    known = plain[1].bundle_id
    assert name(options=ExportOptions(score_tolerance=1e-3)) == known, "which changes no byte"
    assert name(description=replace(description(), events=EventSettings(smooth=3))) != known
    assert name(validation=recordings(5)) != known, "the card has another accuracy"
    assert name(options=ExportOptions(licence="MIT")) != known


def test_experts_whose_files_would_have_one_name_are_refused(tmp_path: Path) -> None:
    graphs = [replace(graph, expert=name) for graph, name in zip(hand_made()[3:5], ("a b", "A_b"), strict=True)]
    with pytest.raises(ConfigError, match="experts: found expert A_b, expert a b, whose files would have one name"):
        export_bundle((*hand_made()[:3], *graphs, hand_made()[5]), description(), tmp_path / "bundle")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match=r"bundle: cannot be written \(No space left on device\)"):
        export_bundle(hand_made(), description(), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_when_the_report_is_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[io.RawIOBase]:
        yield open("/dev/full", "wb", buffering=0)  # noqa: PTH123, SIM115

    monkeypatch.setattr("xaimoe_export.bundle.replacing", full)
    with pytest.raises(ConfigError, match=r"bundle: cannot be written \(No space left on device\)"):
        export_bundle(hand_made(), description(), tmp_path / "bundle", ExportOptions(triton=tmp_path / "triton"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/bundle: cannot be written \(.+/file is not a folder\)"):
        export_bundle(hand_made(), description(), tmp_path / "file" / "bundle")


def test_other_labels_than_pytorchs_are_refused_however_near_the_scores(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the exported graphs answer a clip otherwise than PyTorch"):
        export_bundle(hand_made(UndecidedHead()), description(), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("apart", [1e-3, float("nan")])
def test_a_fused_graph_that_differs_from_its_parts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: float
) -> None:
    def differing(*arguments: Any) -> Any:
        return replace(compare(*arguments), fused_apart=apart)

    monkeypatch.setattr("xaimoe_export.make.compare", differing)
    with pytest.raises(BundleError, match=r"scores of the fused graph in fp32 differ by .*export without --fused"):
        export_bundle(hand_made(), description(), tmp_path / "bundle", ExportOptions(fused=True))
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from xaimoe_export import folder
from xaimoe_export.folder import new_folder

count = 0
def kill(self, target):
    global count
    count += 1
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    os.rename(self, target)

Path.rename = kill
with new_folder(Path(sys.argv[1]), lambda folder: True, True) as part:
    (part / "manifest.json").write_text("new", encoding="utf-8")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("moment", [1, 2])
def test_a_kill_while_a_folder_is_replaced_loses_nothing(tmp_path: Path, moment: int) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    (out / "manifest.json").write_text("old", encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(out), str(moment)]
    ran = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert len(list(tmp_path.iterdir())) == 2, "what was new, and what was old"
    temporary._cleaned.discard(str(tmp_path))
    with pytest.raises(ConfigError, match="exists already"), new_folder(out, lambda folder: True):
        pass
    assert (out / "manifest.json").read_text(encoding="utf-8") == "old"
    with new_folder(out, lambda folder: True, force=True) as part:
        (part / "manifest.json").write_text("next", encoding="utf-8")
    assert (out / "manifest.json").read_text(encoding="utf-8") == "next"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such modes")
def test_a_folder_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    earlier = os.umask(0o027)
    try:
        with new_folder(tmp_path / "bundle", lambda folder: True) as part:
            (part / "a").touch()
    finally:
        os.umask(earlier)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "bundle" / "a").stat().st_mode & 0o777 == 0o640


def content_of(bundle: Path) -> dict[str, str]:
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in bundle.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("other_place", ["again", "some/where else"])
def test_the_same_options_give_the_same_bytes_in_every_precision(
    rich: Rich, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_place: str
) -> None:
    monkeypatch.setattr("xaimoe_export.make.to_onnx", to_onnx)  # each module anew
    out = tmp_path / other_place
    options = ExportOptions(
        precisions=("fp32", "int8", "fp16"),
        fused=True,
        sign=rich.private_key,
        triton=tmp_path / "triton",
        licence="CC-BY-4.0",
    )
    export_bundle(hand_made(), description(), out, options, recordings(8), recordings(8, seed=100))
    assert content_of(out) == content_of(rich.bundle)
    assert content_of(tmp_path / "triton") == content_of(rich.triton)


def test_the_same_checkpoint_gives_the_same_bundle_byte_for_byte(
    checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xaimoe_audio import MoEAudioClassifier

    monkeypatch.setattr("xaimoe_export.make.to_onnx", to_onnx)  # each module anew
    report = MoEAudioClassifier.load(checkpoint, device="cpu").export(tmp_path / "again")
    assert max(report["precisions"]["fp32"]["scores"].values()) <= 1e-4
    assert report["precisions"]["fp32"]["same_predictions"]
    assert report["real_clips"] == 32
    assert content_of(tmp_path / "again") == content_of(bundle)
