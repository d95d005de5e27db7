"""The exported router keeps what the router promises: a pair that must not run has a gate of exactly zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from xaimoe_audio.config import FINE_EXPERTS, HIGHBAND_EXPERTS
from xaimoe_runtime import Runtime

BATCH = 32
CLEAN = {"snr": 20.0, "flatness": 0.3, "fmax_eff": 8_000.0, "level": -30.0, "quality": 1.0}


def gates(bundle: Path, runtime: Runtime, **changed: float) -> list[NDArray[np.float32]]:
    """Sparse and dense gates [B, P, E] for random saliencies and contexts."""
    session = onnxruntime.InferenceSession(bundle / "router.onnx", providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    sizes = {value.name: value.shape[1] for value in session.get_inputs()}
    saliency = draw.dirichlet(np.ones(sizes["saliency"]), BATCH).astype(np.float32)
    context = draw.uniform(-1, 1, (BATCH, sizes["context"])).astype(np.float32)
    names = [attribute.name for attribute in runtime.manifest.attributes]
    row = [(CLEAN | changed).get(name, 0.0) for name in names]
    attributes = np.tile(np.array(row, np.float32), (BATCH, 1))
    feeds = {"saliency": saliency, "context": context, "attributes": attributes}
    return list(session.run(["gates", "gates_dense"], feeds))


@pytest.mark.parametrize(
    ("changed", "barred"), [({"fmax_eff": 1_999.0}, HIGHBAND_EXPERTS), ({"quality": 0.02}, FINE_EXPERTS)]
)
def test_a_masked_pair_has_a_gate_of_zero(
    bundle: Path, runtime: Runtime, changed: dict[str, float], barred: frozenset[str]
) -> None:
    columns = [i for i, name in enumerate(runtime.experts) if name in barred]
    assert columns
    for masked, open_to_all in zip(gates(bundle, runtime, **changed), gates(bundle, runtime), strict=True):
        assert (masked[:, :, columns] == 0).all()
        assert (open_to_all[:, :, columns] > 0).any()
    assert (gates(bundle, runtime, **changed)[1] > 0).any()
