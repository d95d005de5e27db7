"""INT8: which convolutions gain from it, and the graph that runs them so.

Weights are quantised channel by channel, activations by their range on real clips (QDQ nodes, standard operators).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxslim
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from xaimoe_export.cost import Cost, Product, cost
from xaimoe_runtime.writing import cannot_be_written

Floats = NDArray[np.float32]
LEAST_CHANNELS = 12
"""From which a convolution over all channels is quantised. Below that, and in a depthwise convolution, going to eight
bits and back costs more than it saves."""
WORTH_INNER = 72
"""Mean of the products in a sum, over a graph's quantised multiply-accumulates, from which the graph gains time. On a
CPU with VNNI, experts of width 16, 24, 32 and 64 (59, 89, 119 and 238 products) took 1.04, 0.86, 0.79 and 0.63 times as
long as in FP32."""
WORTH_SHARE = 0.5
"""Share of a graph's multiply-accumulates that must be quantised for that."""
CALIBRATION_ROWS = 16
"""Rows of the dynamic axis that are run at a time."""


def quantised_products(found: Cost) -> list[Product]:
    """The convolutions of a graph that are quantised."""
    return [p for p in found.products if p.op_type == "Conv" and p.channels >= LEAST_CHANNELS]


def why_not(model: onnx.ModelProto) -> str | None:
    """Why INT8 would gain a graph no time, by its size and operators; None if it would."""
    found = cost(model)
    chosen = quantised_products(found)
    macs = sum(product.macs for product in chosen)
    if macs == 0:
        return f"no convolution is over {LEAST_CHANNELS} channels or more"
    share = macs / found.macs
    if share < WORTH_SHARE:
        return f"{share:.0%} of its multiply-accumulates would be quantised, time is gained from {WORTH_SHARE:.0%}"
    mean = sum(product.inner * product.macs for product in chosen) / macs
    if mean < WORTH_INNER:
        return f"its convolutions add up {mean:.0f} products on average, time is gained from {WORTH_INNER}"
    return None


def to_int8(model: onnx.ModelProto, rows: Mapping[str, Floats]) -> onnx.ModelProto:
    """The model with its convolutions over many channels in eight bits.

    Args:
        model: in FP32.
        rows: inputs by name, [N, ...]: what the model is given of real clips, which the ranges are taken from.

    Raises:
        ConfigError: the folder for temporary files cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            return _quantised(model, rows, Path(folder))
    except OSError as error:
        raise cannot_be_written(Path(error.filename or tempfile.gettempdir()), error) from error


def _quantised(model: onnx.ModelProto, rows: Mapping[str, Floats], folder: Path) -> onnx.ModelProto:
    whole, prepared, quantised = (folder / f"{name}.onnx" for name in ("whole", "prepared", "quantised"))
    onnx.save(model, whole)
    quant_pre_process(whole, prepared, skip_symbolic_shape=True)
    names = [product.name for product in quantised_products(cost(onnx.load(prepared)))]
    quantize_static(
        prepared,
        quantised,
        _Rows(rows),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_quantize=names,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    slimmed: onnx.ModelProto = onnxslim.slim(onnx.load(quantised))
    return slimmed


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Inputs, some rows at a time."""

    def __init__(self, rows: Mapping[str, Floats]) -> None:
        count = len(next(iter(rows.values())))
        starts: Sequence[int] = range(0, count, CALIBRATION_ROWS)
        self.parts = ({name: of[start : start + CALIBRATION_ROWS] for name, of in rows.items()} for start in starts)

    def get_next(self) -> dict[str, Floats] | None:
        return next(self.parts, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences notes of the quantiser that ask for what was done."""
    root: Any = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
