"""Comparing a bundle with the PyTorch modules it was made from, and timing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from xaimoe_export.reference import Reference
from xaimoe_runtime import Runtime
from xaimoe_runtime.dispatch import Graph
from xaimoe_runtime.result import decide
from xaimoe_runtime.schema import ROUTINGS, Precision

Floats = NDArray[np.float32]
BATCH = 8
"""Clips that PyTorch answers at a time: every expert looks at every patch."""
TIMED_RUNS = 20
LONGEST_TIMING_S = 0.5
"""Of one graph."""


@dataclass(frozen=True)
class Differences:
    """From PyTorch's answers."""

    graphs: dict[str, float]
    """Largest absolute difference of each graph's outputs, each graph given PyTorch's inputs."""
    scores: dict[str, float]
    """Largest absolute difference of the whole line's scores, by routing; and of the fused graph's."""
    fused_apart: float
    """Largest absolute difference of the fused graph's scores from those of the graphs that it was made of."""
    same_predictions: bool
    """Whether every clip is given the same labels, routed."""


def compare(
    runtime: Runtime, others: list[Graph], reference: Reference, waveform: Floats, source: Floats
) -> Differences:
    """Differences of a runtime, and of graphs beside its line, from PyTorch on clips [N, S] and their source [N, 2]."""
    graphs: dict[str, float] = {}
    scores: dict[str, float] = {}
    same, apart = True, 0.0
    for start in range(0, len(waveform), BATCH):
        some, of = waveform[start : start + BATCH], source[start : start + BATCH]
        wanted = {
            name: value.numpy()
            for name, value in reference.answers(torch.from_numpy(some), torch.from_numpy(of)).items()
        }
        line = {routing: runtime.run(some, of, routing).scores for routing in ROUTINGS}
        for graph in (*runtime.dispatcher.graphs.values(), *others):
            outputs = graph(**{tensor.name: wanted[graph.spec.golden(tensor.name)] for tensor in graph.spec.inputs})
            for name, value in outputs.items():
                _keep_largest(graphs, graph.spec.name, value, wanted[graph.spec.golden(name)])
            if graph.spec.role == "fused":
                _keep_largest(scores, "fused", outputs["scores"], wanted["scores/routed"])
                apart = max(apart, float(np.abs(outputs["scores"] - line["routed"]).max(initial=0.0)))
        for routing, found in line.items():
            _keep_largest(scores, routing, found, wanted[f"scores/{routing}"])
            if routing == "routed":
                task = runtime.task
                same &= all(
                    decide(one, task) == decide(other, task)
                    for one, other in zip(found, wanted["scores/routed"], strict=True)
                )
    return Differences(graphs, scores, apart, same)


def _keep_largest(worst: dict[str, float], key: str, found: Floats, wanted: Floats) -> None:
    """Keeps the largest difference known; one that is no number stays."""
    difference = float(np.abs(found - wanted).max(initial=0.0))
    if not difference <= worst.get(key, 0.0):
        worst[key] = difference
    worst.setdefault(key, 0.0)


def milliseconds(calls: dict[Precision, Callable[[], object]]) -> dict[Precision, float]:
    """Median time of each call, made by turns, so that a busy machine is as busy for all; after one round that is not
    counted."""
    spent: dict[Precision, list[float]] = {precision: [] for precision in calls}
    start = perf_counter()
    for done in range(TIMED_RUNS + 1):
        for precision, call in calls.items():
            before = perf_counter()
            call()
            spent[precision].append(perf_counter() - before)
        if done and perf_counter() - start > LONGEST_TIMING_S * len(calls):
            break
    return {precision: median(found[1:]) * 1e3 for precision, found in spent.items()}
