"""Learning from another classifier: its input as it wants it, its answers as the student is to say them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from data import noise, peer, real_data
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.data.dataset import load_dataset
from xaimoe_audio.training import distill
from xaimoe_audio.training.distill import OnnxTeacher, TeacherInput, as_targets, teacher_answers
from xaimoe_runtime.errors import BundleError, ConfigError

Floats = NDArray[np.float32]


def write_teacher(
    path: Path,
    shape: list[int | str],
    *,
    inputs: int = 1,
    kind: int = TensorProto.FLOAT,
    factor: float = 1.0,
    flat: int = 1,
) -> Path:
    """A model that answers with ``factor`` times the mean of its input, and with the mean's square, as [1, 2].

    It fails when it is run unless ``flat`` is 1.
    """
    names = [f"input_{i}" for i in range(inputs)]
    axes = helper.make_tensor("axes", TensorProto.INT64, [len(shape)], list(range(len(shape))))
    row = helper.make_tensor("flat", TensorProto.INT64, [2], [1, flat])
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [factor])
    nodes = [
        helper.make_node("Cast", [names[0]], ["single"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["single", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "flat"], ["first"]),
        helper.make_node("Mul", ["first", "first"], ["second"]),
        helper.make_node("Concat", ["first", "second"], ["answer"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 2])],
        [axes, row, scale],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("shape", [["n"], [1, "n"], [1, 8_000]])
def test_a_teacher_of_waveforms_is_given_the_samples(tmp_path: Path, shape: list[int | str]) -> None:
    teacher = OnnxTeacher(write_teacher(tmp_path / "teacher.onnx", shape))
    assert teacher.input.kind == "waveform"
    samples = noise(8_000) + np.float32(0.25)
    assert teacher(samples).tolist() == pytest.approx([samples.mean(), samples.mean() ** 2], abs=1e-6)


def test_a_teacher_of_so_many_samples_is_given_one_piece_after_the_other(tmp_path: Path) -> None:
    teacher = OnnxTeacher(write_teacher(tmp_path / "teacher.onnx", [1, 100]))
    assert teacher(np.arange(250, dtype=np.float32))[0] == pytest.approx((49.5 + 149.5) / 2)
    assert teacher(np.array([1, 2], np.float32))[0] == pytest.approx(1.5)


def test_a_teacher_of_spectrograms_is_given_overlapping_patches(tmp_path: Path) -> None:
    teacher = OnnxTeacher(write_teacher(tmp_path / "teacher.onnx", [1, 96, 64]))
    assert teacher.input == TeacherInput()
    assert teacher(np.zeros(100, np.float32))[0] == pytest.approx(np.log(1e-3), rel=1e-4)  # repeated to fill a patch
    loud = np.concatenate([np.zeros(16_000, np.float32), noise(16_000)])
    assert teacher(np.zeros(32_000, np.float32))[0] < teacher(loud)[0] < teacher(noise(32_000))[0]


@pytest.mark.parametrize(("shape", "largest"), [([1, 96, 64], 3), ([1, 4_000], 4_000), ([1, "n"], 8_000)])
def test_a_long_recording_is_given_piece_by_piece(
    tmp_path: Path, shape: list[int | str], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of any size the answer is that for the whole, and no more than a piece is in memory."""
    teacher = OnnxTeacher(write_teacher(tmp_path / "teacher.onnx", shape))
    samples = noise(40_000) + np.linspace(0, 1, 40_000, dtype=np.float32)
    whole = teacher(samples)
    patches = len(list(teacher._patches([samples], len(samples))))
    monkeypatch.setattr(distill, "PATCHES", 3)
    monkeypatch.setattr(distill, "MAX_INPUT_S", 0.5)
    if shape[-1] == "n":
        patches = 5
    blocks = np.split(samples, [1, 7_000, 7_000, 31_111])
    sizes, log_mel = list[int](), distill._log_mel

    def recorded(piece: Floats, spec: TeacherInput) -> Floats:
        sizes.append((len(piece) - spec.n_fft) // spec.hop // spec.patch_hop)
        return log_mel(piece, spec)

    monkeypatch.setattr(distill, "_log_mel", recorded)
    found = list(teacher._patches(blocks, len(samples)))
    sizes = sizes or [patch.shape[-1] for patch in found]
    assert len(found) == patches
    assert max(sizes) <= largest + (shape == [1, 96, 64])
    np.testing.assert_allclose(teacher.answer_blocks(blocks, len(samples))[0], whole[0], rtol=1e-4)


def test_an_adapter_beside_the_teacher_describes_its_input(tmp_path: Path) -> None:
    path = write_teacher(tmp_path / "teacher.onnx", [1, 32, 16])
    with pytest.raises(
        ConfigError,
        match=r"found input tensor\(float\) \[1, 32, 16\]; the adapter makes one logmel, tensor\(float\) \[1, 96, 64\]",
    ):
        OnnxTeacher(path)
    (tmp_path / "teacher.teacher.json").write_text(json.dumps({"patch_frames": 32, "mels": 16, "fmax": 3_500}))
    teacher = OnnxTeacher(path)
    assert (teacher.input.mels, teacher.input.fmax) == (16, 3_500)
    assert np.isfinite(teacher(noise(8_000))).all()


@pytest.mark.parametrize(
    "text",
    [
        *('{"mels": "many"}', '{"melz": 16}', "[", '{"hop": 0}', '{"patch_hop": 0}', '{"sample_rate": 0}'),
        *('{"fmin": 9000}', '{"fmax": 9000}', '{"log_offset": 0}', '{"win_length": 1024}'),
    ],
)
def test_an_adapter_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    path = write_teacher(tmp_path / "teacher.onnx", [1, 32, 16])
    (tmp_path / "teacher.teacher.json").write_text(text)
    with pytest.raises(ConfigError, match=r"teacher\.teacher\.json: .*; expected kind, sample_rate"):
        OnnxTeacher(path)


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such file"):
        OnnxTeacher(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(BundleError, match="ONNX Runtime refuses it"):
        OnnxTeacher(tmp_path / "bad.onnx")
    with pytest.raises(ConfigError, match="the adapter makes one waveform"):
        OnnxTeacher(write_teacher(tmp_path / "two.onnx", [1, "n"], inputs=2))
    with pytest.raises(ConfigError, match=r"found input tensor\(double\) \[1, 'n'\]"):
        OnnxTeacher(write_teacher(tmp_path / "double.onnx", [1, "n"], kind=TensorProto.DOUBLE))
    with pytest.raises(ConfigError, match="the adapter makes one logmel"):
        OnnxTeacher(write_teacher(tmp_path / "image.onnx", [1, 1, 96, 64]))


def test_a_teacher_that_fails_is_told_with_the_recording_and_an_earlier_run_is_kept(
    scenes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "best.pt").write_text("an earlier run")
    classifier = MoEAudioClassifier(budget="latency", device="cpu", clip_s=0.5, sample_rate=8_000)
    broken = write_teacher(tmp_path / "broken.onnx", [1, "n"], flat=2)
    with pytest.raises(BundleError, match=r"audio/.*: .*broken\.onnx: fails on an input of shape \[1, \d+\]"):
        classifier.fit(scenes, epochs=1, out_dir=out, teacher=broken, force=True)
    endless = write_teacher(tmp_path / "endless.onnx", [1, "n"], factor=float("nan"))
    with pytest.raises(BundleError, match=r"audio/.*: .*endless\.onnx: its answers are not all finite numbers"):
        classifier.fit(scenes, epochs=1, out_dir=out, teacher=endless, force=True)
    assert (out / "best.pt").read_text() == "an earlier run"


def test_answers_are_scaled_and_probabilities_taken_as_log_odds() -> None:
    probabilities = np.array([[0.0, 0.5], [0.5, 0.5], [1.0, 0.5]], np.float32)
    found = as_targets(probabilities)
    assert found[:, 0] == pytest.approx([-np.sqrt(1.5), 0, np.sqrt(1.5)], abs=1e-4)
    assert found[:, 1].tolist() == [0, 0, 0]
    embeddings = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    assert as_targets(embeddings).std(0) == pytest.approx(np.ones(4), rel=1e-4)


def test_fit_learns_from_a_teacher_and_says_so(scenes: Path, tmp_path: Path) -> None:
    path = write_teacher(tmp_path / "teacher.onnx", ["n"])
    classifier = MoEAudioClassifier(budget="latency", device="cpu", clip_s=0.5, sample_rate=8_000)
    classifier.fit(scenes, epochs=1, batch_size=8, out_dir=tmp_path / "run", teacher=path)
    config = json.loads((tmp_path / "run" / "run_config.json").read_text())
    assert config["teacher"]["input"]["kind"] == "waveform"
    assert len(config["teacher"]["sha256"]) == 64
    with (tmp_path / "run" / "logs" / "metrics.csv").open() as file:
        losses = [float(row["distill_loss"]) for row in csv.DictReader(file) if row.get("distill_loss")]
    assert losses and np.isfinite(losses).all()


def test_yamnet_hears_what_a_linear_classifier_needs() -> None:
    """The peer's published setting, through the default adapter: a regression on its answers tells ESC-10 apart."""
    folder = real_data("esc10")
    rows = {row["filepath"]: row for row in csv.DictReader((folder / "metadata.csv").open())}
    items = [
        item
        for item in load_dataset(folder, folder / "metadata.csv", "single_label", 16_000).items
        if rows[item.row.filepath]["fold"] in ("1", "2")
    ]
    answers = as_targets(teacher_answers(OnnxTeacher(peer("yamnet_spectra_in.onnx")), items))
    labels = np.array([item.row.labels[0] for item in items])
    first = np.array([rows[item.row.filepath]["fold"] == "1" for item in items])
    scaler = StandardScaler().fit(answers[first])
    regression = LogisticRegression(max_iter=2_000, C=0.1).fit(scaler.transform(answers[first]), labels[first])
    assert regression.score(scaler.transform(answers[~first]), labels[~first]) > 0.9
