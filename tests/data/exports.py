"""Exports of graphs that are kept, since an export takes seconds and tests ask for the same ones again and again."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from onnx import ModelProto
from torch import Tensor, nn

from xaimoe_export import GraphModule
from xaimoe_export.graphs import to_onnx


class ExportCache:
    """Called as ``xaimoe_export.graphs.to_onnx`` is; keeps models in a folder that several processes may share.

    Args:
        folder: of the models; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, graph: GraphModule, examples: tuple[Tensor, ...]) -> ModelProto:
        """Return the ONNX model of a graph, exported now or before."""
        path = self.folder / f"{_digest(graph, examples)}.onnx"
        if not path.is_file():
            model = to_onnx(graph, examples)
            part = path.with_suffix(f".{os.getpid()}")
            part.write_bytes(model.SerializeToString(deterministic=True))
            part.replace(path)
        return ModelProto.FromString(path.read_bytes())


def _digest(graph: GraphModule, examples: tuple[Tensor, ...]) -> str:
    """Return a digest of all that an export depends on."""
    digest = hashlib.sha256()
    about = [graph.name, graph.framing, [tuple(one.shape) for one in examples], repr(graph.module)]
    for name, module in graph.module.named_modules():
        about += [name, type(module).__module__, type(module).__qualname__, _settings(module)]
    digest.update(repr(about).encode())
    for name, value in (*graph.module.named_parameters(), *graph.module.named_buffers()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _settings(module: nn.Module) -> list[tuple[str, str]]:
    """Return what a module keeps besides tensors and modules, in words."""
    kept = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    words = {name: repr(value) for name, value in kept.items() if not isinstance(value, Tensor)}
    return sorted((name, re.sub(r" at 0x[0-9a-f]+", "", value)) for name, value in words.items())  # of this process
