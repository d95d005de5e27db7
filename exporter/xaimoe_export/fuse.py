"""The whole line as one ONNX graph, routing included: for hosts that run a graph and nothing else.

The split graphs are joined as they are, so the fused one computes what they compute. Between them lies what the
runtime's dispatch does: of each expert the pairs with a gate are found (``NonZero``), their patches gathered, and their
answers added up by a product with the gates. An expert that no pair asks for is given an empty batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxslim
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from xaimoe_export.graphs import OPSET
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.schema import CONTRACT, LINE, PatchSpec

IR_VERSION = 8
"""Of the ONNX format, as old as the operator set: hosts that are not updated each year read it, too."""


@dataclass
class _Graph:
    """Nodes and weights of a graph in the making."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def graft(self, name: str, model: onnx.ModelProto, inputs: Mapping[str, str]) -> dict[str, str]:
        """Adds another model, whose inputs are tensors of this one; gives the names that its outputs have here."""
        graph = model.graph

        def named(tensor: str) -> str:
            return inputs.get(tensor, f"{name}/{tensor}") if tensor else ""

        for source in graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(source)
            node.name = f"{name}/{source.name}"
            node.input[:] = [named(tensor) for tensor in source.input]
            node.output[:] = [named(tensor) for tensor in source.output]
            self.nodes.append(node)
        for weight in graph.initializer:
            copy = onnx.TensorProto()
            copy.CopyFrom(weight)
            copy.name = named(weight.name)
            self.weights.append(copy)
        return {value.name: named(value.name) for value in graph.output}

    def weight(self, name: str, value: NDArray[np.int64] | NDArray[np.float32]) -> str:
        """Adds a constant; gives its name."""
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Adds a node of one output; gives the name of the output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def fuse(models: Mapping[str, onnx.ModelProto], experts: Sequence[str], patches: PatchSpec) -> onnx.ModelProto:
    """Joins the split graphs to one: ``waveform``, ``source`` -> ``scores``, ``saliency``, ``gates``, ``attributes``,
    ``spectrogram``.

    Args:
        models: the graphs by role, and ``expert NAME``.
        experts: names of the experts, in the order of the gates' last axis.
        patches: where the patches are cut from.
    """
    graph = _Graph()
    known = {value.name: value for role in LINE for value in (*models[role].graph.input, *models[role].graph.output)}
    heard = graph.graft("frontend", models["frontend"], {"waveform": "waveform", "source": "source"})
    glance = graph.graft("saliency", models["saliency"], {"spectrogram": heard["spectrogram"]})
    routed = graph.graft("router", models["router"], {name: (glance | heard)[name] for name in CONTRACT["router"][0]})
    channels = known[patches.source].type.tensor_type.shape.dim[1].dim_value
    tiles = _tiles(graph, (glance | heard)[patches.source], channels, patches.grid)
    mixture, mass = _mixture(graph, models, experts, patches.grid, tiles, routed["gates"])
    inputs = {"mixture": mixture, "mass": mass, "prior_logits": glance["prior_logits"]}
    found = heard | glance | routed | graph.graft("head", models["head"], inputs)
    for output in CONTRACT["fused"][1]:
        graph.node("Identity", [found[output]], output)
    takes, gives = ([_border(known[name]) for name in names] for names in CONTRACT["fused"])
    joined = helper.make_graph(graph.nodes, "fused", takes, gives, initializer=graph.weights)
    model = helper.make_model(joined, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    slimmed: onnx.ModelProto = onnxslim.slim(model)
    return slimmed


def _border(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """An input or output of the fused graph, like that of a split one."""
    sizes = [size.dim_value for size in value.type.tensor_type.shape.dim]
    return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, ["B", *sizes[1:]])


def _tiles(graph: _Graph, source: str, channels: int, grid: PatchGrid) -> str:
    """All patches of ``source`` [B, C, rows, columns], [B * P, C, PF, PT]."""
    for name, axis in (("columns", 3), ("rows", 2)):  # the later axis first, so that the other keeps its number
        at = axis - 2
        starts = np.arange(grid.shape[at])[:, None] * grid.stride[at]
        which = graph.weight(f"tiles/{name}_of_tiles", (starts + np.arange(grid.tile[at])).astype(np.int64))
        source = graph.node("Gather", [source, which], f"tiles/{name}", axis=axis)
    ordered = graph.node("Transpose", [source], "tiles/ordered", perm=[0, 2, 4, 1, 3, 5])
    shape = graph.weight("tiles/shape", np.array([-1, channels, *grid.tile], np.int64))
    return graph.node("Reshape", [ordered, shape], "tiles/all")


def _mixture(
    graph: _Graph,
    models: Mapping[str, onnx.ModelProto],
    experts: Sequence[str],
    grid: PatchGrid,
    tiles: str,
    gates: str,
) -> tuple[str, str]:
    """Sum of gate times answer over the pairs with a gate, [B, D], and the sum of the gates, [B, 1]."""
    count = graph.weight("dispatch/patches", np.array([grid.count], np.int64))
    positions = graph.weight("dispatch/positions", grid.positions())
    zero, one = (
        graph.weight("dispatch/zero", np.array(0, np.int64)),
        graph.weight("dispatch/one", np.array(1, np.int64)),
    )
    flat = graph.weight("dispatch/flat", np.array([-1], np.int64))
    first_axis = graph.weight("dispatch/first_axis", np.array([0], np.int64))
    last_axis = graph.weight("dispatch/last_axis", np.array([1], np.int64))
    shape = graph.node("Shape", [gates], "dispatch/shape")
    batch = graph.node("Gather", [shape, zero], "dispatch/batch", axis=0)
    clips = graph.node("Range", [zero, batch, one], "dispatch/clips")
    column = graph.node("Unsqueeze", [clips, last_axis], "dispatch/column")  # [B, 1]
    sums = []
    for e, expert in enumerate(experts):
        name = f"dispatch {expert}"
        which = graph.weight(f"{name}/which", np.array(e, np.int64))
        of_expert = graph.node("Gather", [gates, which], f"{name}/gates", axis=2)
        of_pairs = graph.node("Reshape", [of_expert, flat], f"{name}/flat")
        nonzero = graph.node("NonZero", [of_pairs], f"{name}/nonzero")
        pairs = graph.node("Reshape", [nonzero, flat], f"{name}/pairs")  # [M], clip * P + patch
        patch = graph.node("Mod", [pairs, count], f"{name}/patch")
        clip = graph.node("Div", [pairs, count], f"{name}/clip")
        given = {
            "patches": graph.node("Gather", [tiles, pairs], f"{name}/tiles", axis=0),
            "position": graph.node("Gather", [positions, patch], f"{name}/position", axis=0),
        }
        answers = graph.graft(f"expert {expert}", models[f"expert {expert}"], given)["features"]
        row = graph.node("Unsqueeze", [clip, first_axis], f"{name}/row")
        whose = graph.node("Equal", [column, row], f"{name}/whose")  # [B, M]
        as_floats = graph.node("Cast", [whose], f"{name}/owners", to=TensorProto.FLOAT)
        weight = graph.node("Gather", [of_pairs, pairs], f"{name}/weight", axis=0)
        weights = graph.node("Mul", [as_floats, weight], f"{name}/weights")
        sums.append(graph.node("MatMul", [weights, answers], f"{name}/sum"))
    axes = graph.weight("dispatch/axes", np.array([1, 2], np.int64))
    mass = graph.node("ReduceSum", [gates, axes], "dispatch/total", keepdims=0)
    return graph.node("Sum", sums, "dispatch/mixture"), graph.node("Unsqueeze", [mass, last_axis], "dispatch/mass")
