"""An engine in numpy, for tests of everything around a model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.result import Outputs
from xaimoe_runtime.schema import AttributeSpec, AudioSpec, EventSettings, Routing, TaskKind, TaskSpec

Floats = NDArray[np.float32]
RATE, HOP, CLIP = 1_000, 20, 400
LABELS = ("background", "call", "ship")


class LevelEngine:
    """Answers by the level of a window alone: ``call`` from 0.3, ``background`` under it, ``ship`` for silence."""

    provider, name = "numpy", "level"
    experts, attribute_names = ("one",), ("level",)
    pairs_possible = 2
    usual = (AttributeSpec(name="level", unit="1", q05=0.0, q50=0.1, q95=1.0),)

    def __init__(self, kind: TaskKind = "single_label", routing: Routing = "routed") -> None:
        self.task = TaskSpec(kind=kind, labels=LABELS, thresholds=(0.5,) * 3, temperatures=(1.0, 1.0))
        self.audio = AudioSpec(sample_rate=RATE, clip_samples=CLIP, frame_hop=HOP, window_hop=CLIP)
        self.routing: Routing = routing
        self.routings: list[Routing] = []
        """Of each batch."""

    def run(self, waveform: Floats, source: Floats, routing: Routing) -> Outputs:
        """Scores of windows [N, S]."""
        self.routings.append(routing)
        level = waveform.std(axis=1)
        call = np.clip(level / 0.6, 0, 0.9)
        ship = np.where(level < 1e-3, np.float32(0.95), np.float32(0.02))
        scores = np.stack([np.clip(0.98 - call - ship, 0.01, 1), call, ship], axis=1).astype(np.float32)
        gates = np.zeros((len(waveform), 2, 1), np.float32)
        return Outputs(scores, level[:, None], np.full((len(waveform), 2), 0.5, np.float32), gates, {"all": 1.0}, gates)


class LevelRuntime(LevelEngine):
    """What a stream and a listener need of a runtime."""

    def __init__(self, kind: TaskKind = "single_label", routing: Routing = "routed") -> None:
        super().__init__(kind, routing)
        self.labels, self.dispatcher = LABELS, LevelDispatcher(self)
        self.manifest = SimpleNamespace(frontend=SimpleNamespace(streamable=False), events=EventSettings())


class LevelDispatcher:
    """Runs single windows of a stream."""

    def __init__(self, engine: LevelEngine) -> None:
        self.engine = engine

    def run(self, waveform: Floats, source: Floats, routing: Routing, budget: object = None) -> Outputs:
        """As the engine does."""
        return self.engine.run(waveform, source, routing)
