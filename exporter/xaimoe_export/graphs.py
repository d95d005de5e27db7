"""One PyTorch module to one ONNX graph, with nothing in it but the graph and what it is."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxslim
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xaimoe_runtime.schema import CONTRACT, OF_PATCHES, Precision, Role, TensorSpec, golden_name

OPSET = 18
EXAMPLE_BATCH = 3
"""Size of the dynamic axis in example inputs; the exporter takes sizes 0 and 1 for constants."""
FRAMES_AXIS = "n"
"""Frames in a chunk of a stream, the second dynamic axis of role ``frames``."""


@dataclass(frozen=True)
class GraphModule:
    """A module in evaluation mode that fills a role, with the role's tensors in the contract's order."""

    role: Role
    module: nn.Module
    expert: str | None = None
    """Name of the expert, for role ``expert``."""
    framing: tuple[int, int] | None = None
    """Samples a frame sees, and samples from frame to frame: for role ``frames``, whose waveform [B, N] may hold any
    whole number of frames."""

    @property
    def name(self) -> str:
        """The role, or ``expert NAME``."""
        return self.role if self.expert is None else f"{self.role} {self.expert}"

    def golden(self, tensor: str) -> str:
        """Name of one of its tensors among the golden answers."""
        return golden_name(self.role, self.expert, tensor)

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The module's outputs by name."""
        with torch.no_grad():
            outputs = self.module(*inputs)
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip(CONTRACT[self.role][1], values, strict=False))


def file_of(role: Role, expert: str | None, precision: Precision) -> str:
    """Path of a graph inside the bundle."""
    suffix = ".onnx" if precision == "fp32" else f".{precision}.onnx"
    return f"{role}{suffix}" if expert is None else f"experts/{re.sub(r'[^A-Za-z0-9_-]+', '_', expert)}{suffix}"


def to_onnx(graph: GraphModule, examples: tuple[Tensor, ...]) -> onnx.ModelProto:
    """The ONNX model of a graph, slimmed; ``examples`` are inputs with ``EXAMPLE_BATCH`` rows."""
    inputs, outputs = CONTRACT[graph.role][0], list(graph(*examples))
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.module,
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple(_dynamic(graph, name) for name in inputs),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None  # only the TorchScript exporter gives None
    model: onnx.ModelProto = onnxslim.slim(program.model_proto)
    kept = {value.name: value for value in model.graph.input}
    given = [kept.get(value.name, value) for value in program.model_proto.graph.input]
    del model.graph.input[:]
    model.graph.input.extend(given)  # one that the module does not use is still part of the contract
    return model


def _dynamic(graph: GraphModule, name: str) -> dict[int, Any]:
    """The axes of an input that may have any size."""
    axes: dict[int, Any] = {0: _axis(first_axis(name))}
    if name == "weights":
        axes[1] = _axis("M")
    if graph.framing is not None and name == "waveform":
        seen, hop = graph.framing
        axes[1] = hop * torch.export.Dim(FRAMES_AXIS, min=1) + (seen - hop)
    return axes


def example(tensor: str, golden: NDArray[np.float32]) -> Tensor:
    """An input with ``EXAMPLE_BATCH`` rows, made of the golden one."""
    sizes = (EXAMPLE_BATCH,) if tensor == "weights" else golden.shape[1:]
    return torch.from_numpy(np.resize(golden, (EXAMPLE_BATCH, *sizes)))


def _axis(name: str) -> Any:
    return torch.export.Dim(name, min=0 if name == "M" else 1)


def first_axis(tensor: str) -> str:
    """Name of a tensor's first axis: ``M`` patches or ``B`` clips."""
    return "M" if tensor in OF_PATCHES else "B"


def seal(model: onnx.ModelProto, name: str, metadata: dict[str, str]) -> bytes:
    """The serialised model, checked, with ``metadata`` and nothing else that is not computed.

    Source paths, stack traces, doc strings and producer notes, which tell of the machine it was made on, are removed.
    """
    model.doc_string = ""
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    model.producer_name, model.producer_version = "xaimoe_export", ""
    graph = model.graph
    graph.name, graph.doc_string = name, ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del model.functions[:]
    used = {node.domain for node in graph.node}
    for opset in [opset for opset in model.opset_import if opset.domain not in used]:
        model.opset_import.remove(opset)
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def tensor_specs(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a model as the manifest has them."""

    def specs(values: list[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
        found = []
        for value in values:
            sizes = value.type.tensor_type.shape.dim
            first = first_axis(value.name)
            shape: tuple[int | str, ...] = (first, *(size.dim_param or int(size.dim_value) for size in sizes[1:]))
            found.append(TensorSpec(name=value.name, shape=shape))
        return tuple(found)

    return specs(list(model.graph.input)), specs(list(model.graph.output))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's notes on how it works; its errors still come through."""
    names = ("torch.onnx", "onnxscript", "torch.export", "torch.fx")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
