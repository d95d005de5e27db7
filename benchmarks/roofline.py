"""How far each graph is from what the machine could do: its multiply-accumulates at the rate of a large matrix product,
and the bytes it must touch at the rate of a copy, both measured in the same run.

::

    python benchmarks/roofline.py runs/exp1/bundle

(S. Williams et al., "Roofline", 2009.) One thread, one clip, each expert on one patch. A graph's bytes are its inputs,
outputs and weights, once; what lies between its operators is not counted, so the bound is a low one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import onnx
import onnxruntime
import typer
from onnx import TensorProto, helper

from xaimoe_runtime import Runtime
from xaimoe_runtime.dispatch import Graph

SIZE = 512
"""Of the square matrices; three of them fit into a core's cache."""
COPIED = 64 << 20
"""Bytes of the copy, far more than a cache holds."""
ROUNDS = 30


def seconds(call: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median of a call, after one for warming up."""
    call()
    times = []
    for _ in range(rounds):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times)


def product_rate() -> float:
    """Multiply-accumulates a second of ONNX Runtime's matrix product, one thread."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE, SIZE]) for name in "abc"]
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", tensors[:2], tensors[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a, b = np.random.default_rng(0).normal(size=(2, SIZE, SIZE)).astype(np.float32)
    return SIZE**3 / seconds(lambda: session.run(None, {"a": a, "b": b}))


def copy_rate() -> float:
    """Bytes a second that are read and written by a copy."""
    source = np.zeros(COPIED // 4, np.float32)
    target = np.empty_like(source)
    return 2 * COPIED / seconds(lambda: np.copyto(target, source))


def inputs_of(graph: Graph, runtime: Runtime) -> dict[str, np.ndarray[Any, Any]]:
    """A clip's golden inputs."""
    return {tensor.name: runtime.bundle.golden[graph.spec.golden(tensor.name)][:1] for tensor in graph.spec.inputs}


def main(bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="With its .export.json beside it.")]) -> None:
    """One line for each graph of the line."""
    report = bundle.with_name(f"{bundle.name}.export.json")
    if not report.is_file():
        raise typer.BadParameter(f"{report}: no such file, which has the multiply-accumulates; export the bundle again")
    macs = {
        name: graph["macs"] for name, graph in json.loads(report.read_text(encoding="utf-8"))["graphs"]["fp32"].items()
    }
    runtime = Runtime.load(bundle, provider="cpu")
    multiplying, copying = product_rate(), copy_rate()
    typer.echo(f"matrix product {multiplying / 1e9:.1f} GMAC/s, copy {copying / 1e9:.1f} GB/s, one thread")
    typer.echo(f"{'graph':<32}{'us':>9}{'limit us':>10}{'share':>8}  bound by")
    for name, graph in runtime.dispatcher.graphs.items():
        inputs = inputs_of(graph, runtime)
        outputs = graph(**inputs)
        touched = sum(value.nbytes for value in (*inputs.values(), *outputs.values())) + graph.spec.bytes
        limits = {"arithmetic": macs[name] / multiplying, "memory": touched / copying}
        took, bound = seconds(lambda graph=graph, inputs=inputs: graph(**inputs), 300), max(limits, key=limits.get)
        limit = limits[bound]
        typer.echo(f"{name:<32}{took * 1e6:>9.1f}{limit * 1e6:>10.1f}{limit / took:>8.0%}  {bound}")


if __name__ == "__main__":
    typer.run(main)
