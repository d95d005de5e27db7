"""The routed dispatch: glance at everything, run the chosen experts on the chosen patches, weigh their answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, partial
from itertools import product
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.budget import Budget
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.costs import Cost
from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.mixing import Mixing, OnDevice, OnHost, Tensor, filled_batches, mix, mix_within, on_host
from xaimoe_runtime.providers import SessionFactory
from xaimoe_runtime.result import Outputs
from xaimoe_runtime.schema import EXCHANGE, LINE, GraphSpec, Manifest, Precision, Role, Routing

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import onnxruntime

Floats = NDArray[np.float32]
Way = Literal["in turn", "side by side", "fused"]
"""How the line is run: expert after expert, several experts at a time, or as one graph."""
SHAPES = 16
"""Shapes of inputs that a graph keeps a session for, where it needs one for each; more than a bundle has buckets."""


class Graph:
    """A session whose inputs and outputs are bound by name.

    Where the provider plans convolutions anew whenever the shape changes, each shape has a session of its own.
    """

    def __init__(self, factory: SessionFactory, bundle: Bundle, spec: GraphSpec) -> None:
        name = str(bundle.path / spec.file)
        self.spec = spec
        # One thread means no thread pool; experts are too small to gain from one.
        threads = 1 if spec.role == "expert" else None
        self._open = partial(factory.create, name, bundle.files[spec.file], threads, spec)
        self.session = self._open()
        self._per_shape = factory.plans_anew and _has_convolution(bundle.files[spec.file])
        self._sessions: dict[tuple[tuple[int, ...], ...], onnxruntime.InferenceSession] = {}
        self._lock = Lock()
        self.outputs = [tensor.name for tensor in spec.outputs]
        for kind, wanted, found in (
            ("inputs", spec.inputs, self.session.get_inputs()),
            ("outputs", spec.outputs, self.session.get_outputs()),
        ):
            promised = {tensor.name: _sizes(tensor.shape) for tensor in wanted}
            real = {tensor.name: _sizes(tensor.shape) for tensor in found}
            if promised != real:
                raise BundleError(f"{name}: found {kind} {real}, the manifest has {promised}; export the bundle again")

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        return dict(zip(self.outputs, self.session_for(inputs).run(self.outputs, inputs), strict=True))

    def session_for(self, inputs: Mapping[str, Tensor]) -> onnxruntime.InferenceSession:
        """The session for the shapes of these inputs; the last ``SHAPES`` are kept."""
        if not self._per_shape:
            return self.session
        shapes = tuple(map(_shape, inputs.values()))
        with self._lock:
            known = self._sessions.pop(shapes, None)
            session = known or (self._open() if self._sessions else self.session)
            self._sessions[shapes] = session  # the last one is the last used
            if len(self._sessions) > SHAPES:
                del self._sessions[next(iter(self._sessions))]
        return session


class ClipByClip(Graph):
    """A graph that is given a clip at a time. On a CPU what the frontend has between its operators then stays in the
    cache: a batch of 32 took it 1.6 times as long as 32 clips."""

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        count = len(next(iter(inputs.values())))
        if count <= 1:
            return super().__call__(**inputs)
        each = [super(ClipByClip, self).__call__(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
        return {name: np.concatenate([one[name] for one in each]) for name in self.outputs}


class BoundGraph(Graph):
    """A graph whose outputs stay on a device; inputs may lie there, too."""

    def __init__(self, factory: SessionFactory, bundle: Bundle, spec: GraphSpec, device: str) -> None:
        super().__init__(factory, bundle, spec)
        self.device, self.device_id = device, int(factory.options.get("device_id", "0"))

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name."""
        session = self.session_for(inputs)
        binding = session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
            else:
                binding.bind_ortvalue_input(name, value)
        for name in self.outputs:
            binding.bind_output(name, self.device, self.device_id)
        session.run_with_iobinding(binding)
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))


def _has_convolution(content: bytes) -> bool:
    from xaimoe_runtime.onnxfile import operators  # here, since few providers need it

    return "Conv" in operators(content)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tensor.shape if isinstance(tensor, np.ndarray) else tuple(tensor.shape())


def _sizes(shape: Iterable[int | str | None]) -> list[int | str]:
    """Sizes but for the first axis; of those that are dynamic, ``any``."""
    return [size if isinstance(size, int) else "any" for size in shape][1:]


class Dispatcher:
    """All graphs of a bundle, run in the order that the routing asks for."""

    def __init__(
        self, bundle: Bundle, factory: SessionFactory, precision: Precision = "fp32", device: str | None = None
    ) -> None:
        """``device`` is where tensors stay between graphs, as ONNX Runtime names it; the provider's if None."""
        manifest = bundle.manifest
        roles = {graph.role for graph in manifest.graphs}
        # A bundle need not have what it takes to stay there.
        self.device = (device or factory.device) if roles.issuperset(EXCHANGE) else None

        def graph(role: Role, expert: str | None = None) -> Graph:
            spec = manifest.graph(role, expert, precision)
            if self.device is not None:
                return BoundGraph(factory, bundle, spec, self.device)
            alone = role == "frontend" and factory.provider == "cpu"
            return (ClipByClip if alone else Graph)(factory, bundle, spec)

        self.bundle, self.factory, self.precision = bundle, factory, precision
        self.manifest: Manifest = manifest
        self.grid = manifest.patches.grid
        self.positions = self.grid.positions()
        self.frontend = graph("frontend")
        self.saliency = graph("saliency")
        self.router = graph("router")
        self.head = graph("head")
        self.experts = [graph("expert", expert.name) for expert in manifest.experts]
        self.exchange = None if self.device is None else (graph("gather"), graph("scatter"))
        self.buckets = manifest.buckets if factory.prefers_few_sizes or self.device is not None else ()
        """Batch sizes that experts are given; any, if empty."""
        self.whole: dict[Way, Cost] = {}
        """What each way through the line costs, once that was measured; the quickest is taken."""
        self._graph = graph

    @property
    def graphs(self) -> Mapping[str, Graph]:
        """The graphs by role, the experts by ``expert NAME``."""
        every = (self.frontend, self.saliency, self.router, self.head, *self.experts)
        return {graph.spec.name: graph for graph in every}

    @cached_property
    def stages(self) -> tuple[Graph, Graph]:
        """The frontend in two stages, for streams: frames, which are kept on the host, and a window of them. Only
        bundles whose frames can be shared have them.

        Both have run once: the first run of a graph takes several times as long, and no window is to be late for that.
        """
        frames = Graph(self.factory, self.bundle, self.manifest.graph("frames", None, self.precision))
        window = self._graph("window")
        audio, frontend = self.manifest.audio, self.manifest.frontend
        samples = frontend.context_samples + frontend.frames * audio.frame_hop
        found = frames(waveform=np.zeros((1, samples), np.float32))
        window(**found, source=np.array([[audio.sample_rate, 0]], np.float32))
        return frames, window

    @property
    def frames(self) -> Graph:
        """The first of the stages."""
        return self.stages[0]

    @property
    def window(self) -> Graph:
        """The second of the stages."""
        return self.stages[1]

    @cached_property
    def ways(self) -> tuple[Way, ...]:
        """The ways through the line that there are here."""
        ways: tuple[Way, ...] = ("in turn",)
        if self.device is None and self.factory.threads > 1:
            ways += ("side by side",)
        # TensorRT has no engine of it. Inside it the experts' batches have another size with every clip, for which CUDA
        # would plan each time.
        suits = self.factory.prefers_few_sizes and self.factory.provider != "tensorrt" and not self.factory.plans_anew
        if suits and any(graph.role == "fused" for graph in self.manifest.graphs):
            ways += ("fused",)
        return ways

    @cached_property
    def fused(self) -> Graph:
        """The whole line in one graph: only some bundles have it."""
        return Graph(self.factory, self.bundle, self.manifest.graph("fused", None, self.precision))

    @cached_property
    def _pool(self) -> Executor:
        from concurrent.futures import ThreadPoolExecutor  # here, since few need it

        return ThreadPoolExecutor(self.factory.threads, thread_name_prefix="expert")

    def make_ready(self) -> None:
        """Opens now what the measured ways need, and the sessions of single clips' shapes, so that no call of one clip
        under a budget pays for it."""
        if "fused" in self.whole:
            _ = self.fused
        if "side by side" in self.whole:
            _ = self._pool
        if self.factory.plans_anew:
            audio = self.manifest.audio
            silence = np.zeros((1, audio.clip_samples), np.float32)
            source = np.array([[audio.sample_rate, 0]], np.float32)
            self.run(silence, source, "glance")
            heard = self.frontend(waveform=silence, source=source)
            heard |= self.saliency(spectrogram=heard["spectrogram"])
            gates = np.ones((1, self.grid.count, len(self.experts)), np.float32)
            sizes = {filled_batches(count, self.buckets)[-1][1] for count in range(1, self.grid.count + 1)}
            for size, e in product(sizes, range(len(self.experts))):
                patches = np.arange(size) % self.grid.count
                self.mixing(heard[self.manifest.patches.source], gates).add(e, np.zeros_like(patches), patches)

    def way(self, windows: int, routing: Routing, budget: Budget | None) -> Way:
        """The quickest way for so many windows, as far as it was measured.

        The fused graph has but one routing and no clock inside: under a budget it is run only if even its p99 fits.
        Experts side by side would not know what the others take of a budget.
        """
        may: list[Way] = ["in turn"]
        if budget is None:
            may.append("side by side")
        fused = self.whole.get("fused")
        fits = fused is not None and (budget is None or fused.predict(windows, "p99") < budget.left_ms)
        if routing == "routed" and fits:
            may.append("fused")
        known = [way for way in may if way in self.whole]
        return min(known, key=lambda way: self.whole[way].predict(windows, "p50"), default="in turn")

    def run(
        self,
        waveform: Floats,
        source: Floats,
        routing: Routing,
        budget: Budget | None = None,
        way: Way | None = None,
    ) -> Outputs:
        """``waveform`` [N, S] and ``source`` [N, 2] -> outputs of the N windows; pairs that do not fit into the
        ``budget`` are left out. ``way`` is the quickest if None."""
        way = way or self.way(len(waveform), routing, budget)
        clock = _Stopwatch()
        if way == "fused":
            return self._run_fused(waveform, source, budget, clock)
        heard = self.frontend(waveform=waveform, source=source)
        clock.lap("frontend")
        return self._answer(heard, routing, budget, clock, self._pool if way == "side by side" else None)

    def _run_fused(self, waveform: Floats, source: Floats, budget: Budget | None, clock: _Stopwatch) -> Outputs:
        found = self.fused(waveform=waveform, source=source)
        clock.lap("fused")
        return Outputs(
            scores=found["scores"],
            attributes=found["attributes"],
            saliency=found["saliency"],
            gates=found["gates"],
            ms=clock.ms,
            left_out=np.zeros_like(found["gates"]),
            predicted_ms={} if budget is None else {"fused": self.whole["fused"].predict(len(waveform), "p99")},
            late=budget is not None and budget.left_ms < 0,
        )

    def run_frames(
        self,
        frames: Floats,
        frame_sums: Floats,
        source: Floats,
        routing: Routing,
        budget: Budget | None = None,
        frames_ms: float = 0.0,
    ) -> Outputs:
        """The same from the frames of N windows, [N, F, T], and their sums, which took so many milliseconds before."""
        clock = _Stopwatch()
        clock.ms["frames"] = frames_ms
        heard = self.window(frames=frames, frame_sums=frame_sums, source=source)
        clock.lap("window")
        return self._answer(heard, routing, budget, clock)

    def _answer(
        self,
        heard: dict[str, Tensor],
        routing: Routing,
        budget: Budget | None,
        clock: _Stopwatch,
        pool: Executor | None = None,
    ) -> Outputs:
        """What follows the frontend."""
        glance = self.saliency(spectrogram=heard["spectrogram"])
        clock.lap("saliency")
        routed = self.router(saliency=glance["saliency"], context=glance["context"], attributes=heard["attributes"])
        gates = self._gates(routed, routing)
        clock.lap("router")
        of_map = self.manifest.patches.source == "feature_map"
        mixing = self.mixing(glance["feature_map"] if of_map else heard["spectrogram"], gates)
        chosen, predicted = gates, dict[str, float]()
        if budget is None:
            mix(mixing, gates, pool)
        else:
            known = [stage for stage in LINE if stage in clock.ms or stage == "head"]
            predicted = {stage: budget.predict(stage, len(gates)) for stage in known}
            costs = [budget.costs[expert.spec.name] for expert in self.experts]
            gates, predicted["experts"] = mix_within(mixing, chosen, budget, costs)
        clock.lap("experts")
        mass = gates.sum(axis=(1, 2), dtype=np.float32)[:, None]
        scores = self.head(mixture=mixing.mixture, mass=mass, prior_logits=glance["prior_logits"])["scores"]
        clock.lap("head")
        return Outputs(
            scores=on_host(scores),
            attributes=on_host(heard["attributes"]),
            saliency=on_host(glance["saliency"]),
            gates=gates,
            ms=clock.ms,
            left_out=chosen - gates,
            predicted_ms=predicted,
            late=budget is not None and budget.left_ms < 0,
        )

    @staticmethod
    def _gates(routed: dict[str, Tensor], routing: Routing) -> Floats:
        if routing == "glance":
            return np.zeros_like(on_host(routed["gates"]))
        return on_host(routed["gates"] if routing == "routed" else routed["gates_dense"])

    def mixing(self, source: Tensor, gates: Floats) -> Mixing:
        """The empty mixture of N clips with these gates, whose patches are cut from ``source``."""
        features = self.manifest.features
        if self.exchange is not None:
            return OnDevice(self.experts, *self.exchange, self.grid, source, gates, features, self.buckets)
        return OnHost(self.experts, self.grid, self.positions, source, gates, features, self.buckets)


class _Stopwatch:
    """Milliseconds from lap to lap."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        now = perf_counter()
        self.ms[stage] = (now - self._last) * 1e3
        self._last = now
