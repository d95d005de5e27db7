"""A model repository for NVIDIA's Triton inference server, around the fused graph.

The layout and the fields of ``config.pbtxt`` are those of Triton's ``model_config.proto``
(https://github.com/triton-inference-server/common).
"""

from __future__ import annotations

from pathlib import Path

from xaimoe_runtime.schema import GraphSpec, Manifest, TensorSpec

MODEL = "xaimoe"
CONFIG = "config.pbtxt"
LARGEST_BATCH = 32
PREFERRED_BATCHES = (4, 8, 16, 32)
LONGEST_WAIT_US = 2_000
"""That a request waits for others to share a batch with."""
LABELS = "labels.txt"


def model(manifest: Manifest, fused: GraphSpec, content: bytes) -> dict[str, bytes]:
    """The files of the model's folder in a repository: ``config.pbtxt``, ``labels.txt`` and ``1/model.onnx``.

    Args:
        manifest: of the bundle.
        fused: the fused graph.
        content: of its file.
    """
    labels = "".join(f"{label}\n" for label in manifest.task.labels)
    return {
        CONFIG: config(manifest, fused).encode(),
        LABELS: labels.encode(),
        "1/model.onnx": content,
    }


def is_ours(folder: Path) -> bool:
    """Whether a folder of a model is one that an export wrote."""
    try:
        return 'key: "bundle_id"' in (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def config(manifest: Manifest, fused: GraphSpec) -> str:
    """``config.pbtxt`` of the fused graph, with dynamic batching."""
    preferred = ", ".join(map(str, PREFERRED_BATCHES))
    lines = [
        f'name: "{MODEL}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {LARGEST_BATCH}",
        *(_tensor("input", tensor) for tensor in fused.inputs),
        *(_tensor("output", tensor) for tensor in fused.outputs),
        f"dynamic_batching {{ preferred_batch_size: [ {preferred} ] max_queue_delay_microseconds: {LONGEST_WAIT_US} }}",
        f'parameters {{ key: "bundle_id" value {{ string_value: "{manifest.bundle_id}" }} }}',
        f'parameters {{ key: "sample_rate" value {{ string_value: "{manifest.audio.sample_rate}" }} }}',
    ]
    return "\n".join(lines) + "\n"


def _tensor(kind: str, tensor: TensorSpec) -> str:
    sizes = ", ".join(map(str, tensor.shape[1:]))  # Triton adds the batch's axis
    labels = f' label_filename: "{LABELS}"' if tensor.name == "scores" else ""
    return f'{kind} {{ name: "{tensor.name}" data_type: TYPE_FP32 dims: [ {sizes} ]{labels} }}'
