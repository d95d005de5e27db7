"""The fused graph: one ONNX graph that answers as the runtime's dispatch does, for any host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from data import noise
from data.hand import CLIP, RATE, Rich
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from xaimoe_export.fuse import fuse
from xaimoe_runtime import Runtime
from xaimoe_runtime.schema import LINE

Floats = NDArray[np.float32]
OUTPUTS = ["scores", "saliency", "gates", "attributes", "spectrogram"]


def made_clips(count: int, samples: int = CLIP, rate: float = RATE) -> dict[str, Floats]:
    """Silence first, then louder and louder."""
    waveform = np.stack([noise(samples, seed, level) for seed, level in enumerate(np.linspace(0, 1, count))])
    return {"waveform": waveform.astype(np.float32), "source": np.array([[rate, 0.0]] * count, np.float32)}


@pytest.mark.parametrize("precision", ["fp32", "int8", "fp16"])
@pytest.mark.parametrize("count", [1, 5])
def test_it_answers_as_the_dispatch_does(rich: Rich, precision: str, count: int) -> None:
    runtime = Runtime.load(rich.bundle, "cpu", precision=precision)
    spec = runtime.manifest.graph("fused", precision=runtime.precision)
    session = onnxruntime.InferenceSession(rich.bundle / spec.file, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == OUTPUTS
    scores, saliency, gates, attributes, _ = session.run(OUTPUTS, made_clips(count))
    wanted = runtime.run(**made_clips(count), routing="routed")
    np.testing.assert_allclose(scores, wanted.scores, atol=1e-5)
    np.testing.assert_allclose(saliency, wanted.saliency, atol=1e-6)
    np.testing.assert_allclose(gates, wanted.gates, atol=1e-6)
    np.testing.assert_allclose(attributes, wanted.attributes, rtol=1e-5)
    assert (gates > 0).any()


def test_another_engine_answers_alike(rich: Rich) -> None:
    model = onnx.load(rich.bundle / "fused.onnx")
    scores = ReferenceEvaluator(model).run(["scores"], made_clips(3))[0]
    runtime = Runtime.load(rich.bundle, "cpu", precision="fp32")
    np.testing.assert_allclose(scores, runtime.run(**made_clips(3), routing="routed").scores, atol=1e-5)


def test_the_product_in_one_graph_answers_as_its_dispatch_does(
    bundle: Path, runtime: Runtime, clips: tuple[Floats, Floats]
) -> None:
    manifest = runtime.manifest
    specs = [manifest.graph(role) for role in LINE] + [manifest.graph("expert", name) for name in runtime.experts]
    model = fuse({spec.name: onnx.load(bundle / spec.file) for spec in specs}, runtime.experts, manifest.patches)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    waveform, source = clips
    waveform = np.concatenate([np.zeros_like(waveform[:1]), waveform])  # for which no pair may run
    source = np.concatenate([source[:1], source])
    scores, gates = session.run(["scores", "gates"], {"waveform": waveform, "source": source})
    wanted = runtime.run(waveform, source, "routed")
    np.testing.assert_allclose(scores, wanted.scores, atol=1e-5)
    assert ((gates > 0) == (wanted.gates > 0)).all()
    alone = session.run(["scores"], {"waveform": waveform[:1], "source": source[:1]})[0]
    np.testing.assert_allclose(alone, wanted.scores[:1], atol=1e-5)
