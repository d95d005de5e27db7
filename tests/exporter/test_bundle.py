"""Writing a bundle: any five roles will do, what differs from PyTorch is refused, nothing half is left behind."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from data import noise
from torch import Tensor, nn

from xaimoe_export import BundleDescription, ExportReport, GraphModule, export_bundle
from xaimoe_export.reference import Reference
from xaimoe_runtime import BundleError, ConfigError, Runtime
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.schema import (
    ROUTINGS,
    AttributeSpec,
    AudioSpec,
    ExpertSpec,
    FrontendSpec,
    PatchSpec,
    Provenance,
    Routing,
    TaskSpec,
)
from xaimoe_runtime.verify import verify

RATE, HOP, BINS, FRAMES = 1_000, 32, 8, 12
CLIP = HOP * FRAMES
LABELS = ("calm", "loud")
EXPERTS = ("Bright one", "dull")
FEATURES = 3
GRID = PatchGrid(rows=BINS, columns=FRAMES, tile=(4, 4), stride=(4, 2))


class HandFrontend(nn.Module):
    """Power of short stretches, laid out as a picture; the level as the one attribute."""

    def forward(self, waveform: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        power = torch.square(waveform).reshape(-1, FRAMES, BINS, HOP // BINS).mean(3).transpose(1, 2)
        level = torch.log(torch.clamp(power.mean((1, 2)), min=1e-9))
        return torch.log(torch.clamp(power, min=1e-6))[:, None] / 10, torch.stack([level, source[:, 1]], dim=1)


class HandSaliency(nn.Module):
    """No feature map: patches come from the spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.prior = nn.Linear(BINS, len(LABELS))

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tiles = nn.functional.avg_pool2d(spectrogram, GRID.tile, GRID.stride).flatten(1)
        rows = spectrogram.mean((1, 3))
        return torch.softmax(tiles, dim=1), rows, self.prior(rows)


class HandRouter(nn.Module):
    """Salient patches go to one expert or to the other, by the context."""

    def forward(self, saliency: Tensor, context: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.sigmoid(context.mean(1) + 0.01 * attributes[:, 0])
        both = torch.stack([share, 1 - share], dim=1)
        dense = saliency[:, :, None] * both[:, None]
        return torch.relu(dense - 0.06), dense


class HandExpert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(GRID.tile[0] * GRID.tile[1] + 2, FEATURES)

    def forward(self, patches: Tensor, position: Tensor) -> Tensor:
        return torch.tanh(self.answer(torch.cat([patches.flatten(1), position], dim=1)))


class HandHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(FEATURES, len(LABELS))

    def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        return torch.softmax(prior_logits + self.answer(mixture) * mass, dim=1)


class TwoFacedHead(HandHead):
    """Answers otherwise while it is exported."""

    def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        scores = super().forward(mixture, mass, prior_logits)
        return 1 - scores if torch.compiler.is_exporting() else scores


def hand_made(head: nn.Module | None = None) -> tuple[GraphModule, ...]:
    torch.manual_seed(0)
    experts = [GraphModule("expert", HandExpert().eval(), name) for name in EXPERTS]
    return (
        GraphModule("frontend", HandFrontend().eval()),
        GraphModule("saliency", HandSaliency().eval()),
        GraphModule("router", HandRouter().eval()),
        *experts,
        GraphModule("head", (head or HandHead()).eval()),
    )


def description(routing: Routing = "routed") -> BundleDescription:
    return BundleDescription(
        task=TaskSpec(kind="single_label", labels=LABELS, thresholds=(0.5, 0.5), temperatures=(1.0, 1.0)),
        audio=AudioSpec(sample_rate=RATE, clip_samples=CLIP, frame_hop=HOP, window_hop=CLIP),
        frontend=FrontendSpec(
            backend="by hand",
            streamable=False,
            n_fft=HOP,
            win_length=HOP,
            bins=BINS,
            frames=FRAMES,
            fmin=0.0,
            fmax=RATE / 2,
            context_samples=0,
        ),
        patches=PatchSpec(source="spectrogram", grid=GRID),
        attributes=tuple(AttributeSpec(name=name, unit="1", q05=0, q50=0, q95=1) for name in ("level", "clipping")),
        experts=tuple(
            ExpertSpec(name=name, family="hand", purpose="a test", band=(0, 1), parameters=57, macs=54)
            for name in EXPERTS
        ),
        features=FEATURES,
        provenance=Provenance(
            exporter_version="0",
            checkpoint_sha256=hashlib.sha256(b"hand").hexdigest(),
            dataset_sha256=hashlib.sha256(b"none").hexdigest(),
            seed=0,
            versions={},
            metrics={},
        ),
        routing=routing,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    out = tmp_path_factory.mktemp("hand") / "deep" / "bundle"
    steps: list[None] = []
    report = export_bundle(hand_made(), description(), out, lambda: steps.append(None))
    assert len(steps) == 6, "progress advances once a graph"
    return out, report


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_hand_made_model_answers_as_its_modules_do(exported: tuple[Path, ExportReport], routing: Routing) -> None:
    runtime = Runtime.load(exported[0], provider="cpu")
    waveform = np.stack([noise(CLIP, seed, level) for seed, level in enumerate((0.0, 0.01, 0.1, 1.0))])
    source = np.array([[RATE, 0.0]] * 4, np.float32)
    reference = Reference(hand_made(), PatchSpec(source="spectrogram", grid=GRID))
    wanted = reference.answers(torch.from_numpy(waveform), torch.from_numpy(source))[f"line/{routing}"]
    found = runtime.run(waveform, source, routing)
    np.testing.assert_allclose(found.scores, wanted.numpy(), atol=1e-5)
    assert (found.pairs > 0).any() == (routing != "glance")
    assert runtime.infer(waveform[3], routing=routing).labels[0] in LABELS


def test_the_report_is_what_was_measured(exported: tuple[Path, ExportReport]) -> None:
    out, report = exported
    assert set(report.scores) == set(ROUTINGS)
    assert max(report.scores.values()) < 1e-4
    assert set(report.graphs) == {"frontend", "saliency", "router", "head", "expert Bright one", "expert dull"}
    assert report.bytes == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert report.bundle_id == json.loads((out / "manifest.json").read_text())["bundle_id"]


def test_the_bundle_proves_itself(exported: tuple[Path, ExportReport]) -> None:
    found = verify(Runtime.load(exported[0], provider="cpu"))
    assert len(found) > len(ROUTINGS)
    assert all(deviation.passed for deviation in found)


def test_the_manifest_names_every_file_with_its_hash(exported: tuple[Path, ExportReport]) -> None:
    out, _ = exported
    manifest = json.loads((out / "manifest.json").read_text())
    listed = {entry["file"]: entry for entry in (*manifest["graphs"], manifest["golden"])}
    on_disk = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert on_disk == set(listed) | {"manifest.json"}
    for file, entry in listed.items():
        content = (out / file).read_bytes()
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())


def test_expert_names_become_plain_file_names(exported: tuple[Path, ExportReport]) -> None:
    assert {path.name for path in (exported[0] / "experts").iterdir()} == {"Bright_one.onnx", "dull.onnx"}


def test_experts_may_be_given_any_number_of_patches(exported: tuple[Path, ExportReport]) -> None:
    expert = Runtime.load(exported[0], provider="cpu").dispatcher.experts[0]
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
    with pytest.raises(ConfigError, match="bundle: exists already; remove it or export to another folder"):
        export_bundle(hand_made(), description(), tmp_path / "bundle")
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "keep me"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/bundle: cannot be written \(.+\); choose another place"):
        export_bundle(hand_made(), description(), tmp_path / "file" / "bundle")


def content_of(bundle: Path) -> dict[str, str]:
    return {
        path.relative_to(bundle).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in bundle.rglob("*")
        if path.is_file()
    }


def test_the_same_checkpoint_gives_the_same_bundle_byte_for_byte(
    checkpoint: Path, bundle: Path, tmp_path: Path
) -> None:
    from xaimoe_audio import MoEAudioClassifier

    report = MoEAudioClassifier.load(checkpoint, device="cpu").export(tmp_path / "again")
    assert max(report["scores"].values()) <= 1e-4
    assert content_of(tmp_path / "again") == content_of(bundle)
