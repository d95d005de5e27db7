"""The Triton model repository keeps to Triton's own protocol buffer, and holds the bundle's fused graph."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.hand import BINS, CLIP, EXPERTS, FRAMES, GRID, LABELS, Rich, description, hand_made
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from xaimoe_export import ExportOptions, export_bundle
from xaimoe_runtime import ConfigError
from xaimoe_runtime.bundle import Bundle


def test_the_configuration_is_one_that_triton_reads(rich: Rich) -> None:
    text = (rich.triton / "xaimoe" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == ("xaimoe", "onnxruntime_onnx", 32)
    assert {tensor.name: list(tensor.dims) for tensor in config.input} == {"waveform": [CLIP], "source": [2]}
    assert {tensor.name: list(tensor.dims) for tensor in config.output} == {
        "scores": [len(LABELS)],
        "saliency": [GRID.count],
        "gates": [GRID.count, len(EXPERTS)],
        "attributes": [2],
        "spectrogram": [1, BINS, FRAMES],
    }
    assert {tensor.data_type for tensor in (*config.input, *config.output)} == {model_config_pb2.TYPE_FP32}
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8, 16, 32]
    assert config.parameters["bundle_id"].string_value == rich.report.bundle_id
    labelled = {tensor.name: tensor.label_filename for tensor in config.output if tensor.label_filename}
    assert labelled == {"scores": "labels.txt"}


def test_the_repository_holds_the_fused_graph_and_the_labels(rich: Rich) -> None:
    model = rich.triton / "xaimoe"
    assert (model / "1" / "model.onnx").read_bytes() == Bundle.open(rich.bundle).files["fused.onnx"]
    assert tuple((model / "labels.txt").read_text().splitlines()) == LABELS
    assert {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()} == {
        "config.pbtxt",
        "labels.txt",
        "1/model.onnx",
    }


def test_a_model_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "triton" / "xaimoe").mkdir(parents=True)
    (tmp_path / "triton" / "xaimoe" / "config.pbtxt").write_text('name: "xaimoe"')
    options = ExportOptions(triton=tmp_path / "triton", force=True)
    with pytest.raises(ConfigError, match=r"triton/xaimoe: found what no export wrote, so it is not replaced"):
        export_bundle(hand_made(), description(), tmp_path / "bundle", options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["triton"]
