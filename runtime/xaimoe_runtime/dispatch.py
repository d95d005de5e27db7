"""The routed dispatch: glance at everything, run the chosen experts on the chosen patches, weigh their answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.budget import Budget, worth_their_time
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.costs import CHUNK
from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.providers import SessionFactory
from xaimoe_runtime.result import Outputs
from xaimoe_runtime.schema import LINE, GraphSpec, Manifest, Precision, Role, Routing

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]


class Graph:
    """A session whose inputs and outputs are bound by name."""

    def __init__(self, factory: SessionFactory, bundle: Bundle, spec: GraphSpec) -> None:
        name = str(bundle.path / spec.file)
        self.spec = spec
        # One thread means no thread pool; experts are too small to gain from one.
        threads = 1 if spec.role == "expert" else None
        self.session = factory.create(name, bundle.files[spec.file], threads, spec)
        self.outputs = [tensor.name for tensor in spec.outputs]
        for kind, wanted, found in (
            ("inputs", spec.inputs, self.session.get_inputs()),
            ("outputs", spec.outputs, self.session.get_outputs()),
        ):
            promised = {tensor.name: _sizes(tensor.shape) for tensor in wanted}
            real = {tensor.name: _sizes(tensor.shape) for tensor in found}
            if promised != real:
                raise BundleError(f"{name}: found {kind} {real}, the manifest has {promised}; export the bundle again")

    def __call__(self, **inputs: Floats) -> dict[str, Floats]:
        """The outputs by name."""
        return dict(zip(self.outputs, self.session.run(self.outputs, inputs), strict=True))


def _sizes(shape: Iterable[int | str | None]) -> list[int | str]:
    """Sizes but for the first axis; of those that are dynamic, ``any``."""
    return [size if isinstance(size, int) else "any" for size in shape][1:]


class Dispatcher:
    """All graphs of a bundle, run in the order that the routing asks for."""

    def __init__(self, bundle: Bundle, factory: SessionFactory, precision: Precision = "fp32") -> None:
        manifest = bundle.manifest

        def graph(role: Role, expert: str | None = None) -> Graph:
            return Graph(factory, bundle, manifest.graph(role, expert, precision))

        self.manifest: Manifest = manifest
        self.grid = manifest.patches.grid
        self.positions = self.grid.positions()
        self.frontend = graph("frontend")
        self.saliency = graph("saliency")
        self.router = graph("router")
        self.head = graph("head")
        self.experts = [graph("expert", expert.name) for expert in manifest.experts]
        self.buckets = manifest.buckets if factory.prefers_few_sizes else ()
        """Batch sizes that experts are given; any, if empty."""
        self._graph = graph

    @property
    def graphs(self) -> Mapping[str, Graph]:
        """The graphs by role, the experts by ``expert NAME``."""
        every = (self.frontend, self.saliency, self.router, self.head, *self.experts)
        return {graph.spec.name: graph for graph in every}

    @cached_property
    def frames(self) -> Graph:
        """The frontend's first stage, for streams: only bundles whose frames can be shared have it."""
        return self._graph("frames")

    @cached_property
    def window(self) -> Graph:
        """The frontend's second stage."""
        return self._graph("window")

    def run(self, waveform: Floats, source: Floats, routing: Routing, budget: Budget | None = None) -> Outputs:
        """``waveform`` [N, S] and ``source`` [N, 2] -> outputs of the N windows; pairs that do not fit into the
        ``budget`` are left out."""
        clock = _Stopwatch()
        heard = self.frontend(waveform=waveform, source=source)
        clock.lap("frontend")
        return self._answer(heard, routing, budget, clock)

    def run_frames(
        self, frames: Floats, frame_sums: Floats, source: Floats, routing: Routing, budget: Budget | None = None
    ) -> Outputs:
        """The same from the frames of N windows, [N, F, T], and their sums."""
        clock = _Stopwatch()
        heard = self.window(frames=frames, frame_sums=frame_sums, source=source)
        clock.lap("window")
        return self._answer(heard, routing, budget, clock)

    def _answer(self, heard: dict[str, Floats], routing: Routing, budget: Budget | None, clock: _Stopwatch) -> Outputs:
        """What follows the frontend."""
        glance = self.saliency(spectrogram=heard["spectrogram"])
        clock.lap("saliency")
        routed = self.router(saliency=glance["saliency"], context=glance["context"], attributes=heard["attributes"])
        gates = self._gates(routed, routing)
        clock.lap("router")
        of_map = self.manifest.patches.source == "feature_map"
        tiles = self.grid.tiles(glance["feature_map"] if of_map else heard["spectrogram"])
        chosen, predicted = gates, dict[str, float]()
        if budget is None:
            mixture = self.mixture(tiles, gates)
        else:
            known = [stage for stage in LINE if stage in clock.ms or stage == "head"]
            predicted = {stage: budget.predict(stage, len(gates)) for stage in known}
            mixture, gates, predicted["experts"] = self.mixture_within(tiles, chosen, budget)
        clock.lap("experts")
        mass = gates.sum(axis=(1, 2), dtype=np.float32)[:, None]
        scores = self.head(mixture=mixture, mass=mass, prior_logits=glance["prior_logits"])["scores"]
        clock.lap("head")
        return Outputs(
            scores=scores,
            attributes=heard["attributes"],
            saliency=glance["saliency"],
            gates=gates,
            ms=clock.ms,
            left_out=chosen - gates,
            predicted_ms=predicted,
            late=budget is not None and budget.left_ms < 0,
        )

    @staticmethod
    def _gates(routed: dict[str, Floats], routing: Routing) -> Floats:
        if routing == "glance":
            return np.zeros_like(routed["gates"])
        return routed["gates"] if routing == "routed" else routed["gates_dense"]

    def mixture(self, tiles: Floats, gates: Floats) -> Floats:
        """Sum of gate times features over the pairs with a gate, [N, D]; each expert runs once, on some of all
        ``tiles``, the grid's view."""
        mixture = np.zeros((len(gates), self.manifest.features), np.float32)
        for e in range(len(self.experts)):
            clips, patches = np.nonzero(gates[:, :, e])
            if len(clips):
                self.add(mixture, tiles, gates, e, clips, patches)
        return mixture

    def mixture_within(self, tiles: Floats, gates: Floats, budget: Budget) -> tuple[Floats, Floats, float]:
        """What fits into the budget of ``mixture``: that, the gates of the pairs that were run, and what these were
        expected to take in milliseconds.

        What is planned with the costs of a bad moment leaves time over in the usual one, so it is planned again until
        nothing more fits.
        """
        mixture, windows = np.zeros((len(gates), self.manifest.features), np.float32), len(gates)
        waiting, predicted = gates > 0, 0.0
        costs = [budget.costs[expert.spec.name] for expert in self.experts]
        while True:
            fits = worth_their_time(gates, costs, budget.room_ms(windows), budget.percentile, waiting)
            counts = fits.sum((0, 1))
            price = np.array([cost.predict(n, budget.percentile) for cost, n in zip(costs, counts, strict=True)])
            worth = (gates * fits).sum((0, 1)) / np.maximum(price, 1e-9)
            before = predicted
            for e in np.argsort(-worth, kind="stable")[: np.count_nonzero(counts)].tolist():
                clips, patches = np.nonzero(fits[:, :, e])
                best = np.argsort(-gates[clips, patches, e], kind="stable")
                while len(best):
                    size = budget.fitting(costs[e], min(len(best), CHUNK), windows)
                    if size == 0:
                        break
                    chunk, best = best[:size], best[size:]
                    self.add(mixture, tiles, gates, e, clips[chunk], patches[chunk])
                    waiting[clips[chunk], patches[chunk], e] = False
                    predicted += costs[e].predict(size, budget.percentile)
            if predicted == before:
                return mixture, np.where(waiting, np.float32(0), gates), predicted  # NaN stays, to be found

    def add(self, mixture: Floats, tiles: Floats, gates: Floats, e: int, clips: Indices, patches: Indices) -> None:
        """Adds what expert ``e`` says of some patches, weighed by their gates, to their clips' rows of ``mixture``."""
        picked = self.grid.pick(tiles, clips, patches)
        features = self.features(self.experts[e], picked, self.positions[patches])
        own = gates[clips, patches, e]
        if len(mixture) == 1:
            mixture += own @ features
            return
        weights = np.zeros((len(gates), len(clips)), np.float32)
        weights[clips, np.arange(len(clips))] = own
        mixture += weights @ features

    def features(self, expert: Graph, tiles: Floats, position: Floats) -> Floats:
        """An expert's answers [M, D] for M tiles, in batches that are filled up to one of the bundle's sizes."""
        if not self.buckets:
            return expert(patches=tiles, position=position)["features"]
        largest, parts = self.buckets[-1], []
        for start in range(0, len(tiles), largest):
            some, where = tiles[start : start + largest], position[start : start + largest]
            size = next(bucket for bucket in self.buckets if bucket >= len(some))
            parts.append(expert(patches=_filled(some, size), position=_filled(where, size))["features"][: len(some)])
        return np.concatenate(parts)


def _filled(rows: Floats, size: int) -> Floats:
    """``rows`` and as many of zeros as make it ``size``."""
    filled = np.zeros((size, *rows.shape[1:]), np.float32)
    filled[: len(rows)] = rows
    return filled


class _Stopwatch:
    """Milliseconds from lap to lap."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        now = perf_counter()
        self.ms[stage] = (now - self._last) * 1e3
        self._last = now
