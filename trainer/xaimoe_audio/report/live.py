"""The part of the page that classifies what a person gives it, on their own machine."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

from xaimoe_audio.report.onnxruntime_web import onnxruntime_web
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.errors import BundleError


def live_parts(bundle: Path, package: Path | None) -> str:
    """Elements that hold the fused graph, what it needs to know, and ONNX Runtime, compressed.

    Args:
        bundle: with a fused graph.
        package: see :func:`onnxruntime_web`.

    Raises:
        BundleError: the bundle is refused, or has no fused graph.
        ConfigError: ONNX Runtime for browsers cannot be had.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    if not any(graph.role == "fused" for graph in manifest.graphs):
        raise BundleError(f"{bundle}: found no fused graph, which a browser needs; export again with --fused")
    script, wasm = onnxruntime_web(package)
    told = {
        "sample_rate": manifest.audio.sample_rate,
        "clip_samples": manifest.audio.clip_samples,
        "frame_hop": manifest.audio.frame_hop,
        "window_hop": manifest.audio.window_hop,
        "labels": manifest.task.labels,
        "kind": manifest.task.kind,
        "thresholds": manifest.task.thresholds,
    }
    fused = opened.files[manifest.graph("fused", None, "fp32").file]
    parts = {"ort-script": script, "ort-wasm": wasm, "fused": fused, "fused-told": json.dumps(told).encode()}
    return "\n".join(
        f'<script type="application/octet-stream" id="{name}">{_packed(content)}</script>'
        for name, content in parts.items()
    )


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
