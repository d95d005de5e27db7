"""Adding up what experts say of patches, weighed by the gates: on the host, or on a GPU without a way back."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.budget import Budget, worth_their_time
from xaimoe_runtime.costs import CHUNK, Cost
from xaimoe_runtime.grid import PatchGrid

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from xaimoe_runtime.dispatch import Graph

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Tensor = Any
"""``Floats``, or an ``OrtValue`` that lies on a device."""


def on_host(value: Tensor) -> Floats:
    """A tensor as an array, copied from the device if it lies there."""
    found: Floats = value if isinstance(value, np.ndarray) else value.numpy()
    return found


class Mixing(Protocol):
    """The sum of gate times features over the pairs that were added."""

    mixture: Tensor
    """[N, D]"""

    def add(self, e: int, clips: Indices, patches: Indices) -> None:
        """Adds what expert ``e`` says of some patches."""
        ...


class OnHost:
    """Patches are copied once, out of a view of all tiles, and given to the expert as they are.

    Args:
        experts: the experts' graphs.
        grid: of the patches.
        positions: of the patches, [P, 2].
        source: the map [N, C, rows, columns] that they are cut from.
        gates: [N, P, E].
        features: length D of an expert's answer.
        buckets: batch sizes that experts are given, filled up with zeros; any, if empty.
    """

    def __init__(
        self,
        experts: list[Graph],
        grid: PatchGrid,
        positions: Floats,
        source: Tensor,
        gates: Floats,
        features: int,
        buckets: tuple[int, ...] = (),
    ) -> None:
        self.experts, self.grid, self.gates, self.buckets = experts, grid, gates, buckets
        self.tiles, self.positions = grid.tiles(on_host(source)), positions
        self.mixture: Tensor = np.zeros((len(gates), features), np.float32)

    def add(self, e: int, clips: Indices, patches: Indices) -> None:
        """Adds what expert ``e`` says of some patches."""
        self.mixture += self.share(e, clips, patches)

    def share(self, e: int, clips: Indices, patches: Indices) -> Floats:
        """What expert ``e`` says of some patches, weighed: a row for each clip, or one for the only clip."""
        picked = self.grid.pick(self.tiles, clips, patches)
        features = self._features(self.experts[e], picked, self.positions[patches])
        alone = len(self.gates) == 1
        own = self.gates[clips, patches, e] if alone else weights(self.gates, e, clips, patches, len(clips))
        share: Floats = own @ features
        return share

    def _features(self, expert: Graph, tiles: Floats, position: Floats) -> Floats:
        """An expert's answers [M, D] for M tiles."""
        if not self.buckets:
            return on_host(expert(patches=tiles, position=position)["features"])
        parts = []
        for rows, size in filled_batches(len(tiles), self.buckets):
            inputs = {"patches": _filled(tiles[rows], size), "position": _filled(position[rows], size)}
            parts.append(on_host(expert(**inputs)["features"])[: rows.stop - rows.start])
        return np.concatenate(parts)


class OnDevice:
    """Patches are gathered, answered and added up where the spectrogram lies; only their numbers and gates are sent.

    Args:
        experts: the experts' graphs.
        gather: the graph before an expert.
        scatter: the graph after it.
        grid: of the patches.
        source: the spectrogram [N, C, rows, columns].
        gates: [N, P, E].
        features: length D of an expert's answer.
        buckets: batch sizes that experts are given; the numbers of a batch are filled up, with gates of zero.
    """

    def __init__(
        self,
        experts: list[Graph],
        gather: Graph,
        scatter: Graph,
        grid: PatchGrid,
        source: Tensor,
        gates: Floats,
        features: int,
        buckets: tuple[int, ...],
    ) -> None:
        self.experts, self.gather, self.scatter = experts, gather, scatter
        self.count, self.source, self.gates, self.buckets = grid.count, source, gates, buckets
        self.mixture: Tensor = np.zeros((len(gates), features), np.float32)

    def add(self, e: int, clips: Indices, patches: Indices) -> None:
        """Adds what expert ``e`` says of some patches."""
        for rows, size in filled_batches(len(clips), self.buckets):
            numbers = np.zeros(size, np.float32)
            numbers[: rows.stop - rows.start] = clips[rows] * self.count + patches[rows]
            picked = self.gather(spectrogram=self.source, pair_index=numbers)
            features = self.experts[e](patches=picked["patches"], position=picked["position"])["features"]
            own = weights(self.gates, e, clips[rows], patches[rows], size)
            self.mixture = self.scatter(features=features, weights=own, so_far=self.mixture)["mixture"]


def mix(mixing: Mixing, gates: Floats, pool: Executor | None = None) -> None:
    """Adds all pairs with a gate, [N, P, E]; each expert runs once, side by side with others if there is a pool for it.
    The sum is in the experts' order either way."""
    of_expert, clips, patches = np.nonzero(gates.transpose(2, 0, 1))
    ends = np.cumsum(np.bincount(of_expert, minlength=gates.shape[2])).tolist()
    asked = [
        (e, clips[start:end], patches[start:end]) for e, (start, end) in enumerate(pairwise((0, *ends))) if end > start
    ]
    if pool is None or not isinstance(mixing, OnHost):
        for one in asked:
            mixing.add(*one)
        return
    for share in pool.map(lambda one: mixing.share(*one), asked):
        mixing.mixture += share


def mix_within(mixing: Mixing, gates: Floats, budget: Budget, costs: list[Cost]) -> tuple[Floats, float]:
    """Adds what fits into the budget: gives the gates of the pairs that were run, and what these were expected to take
    in milliseconds.

    What is planned with the costs of a bad moment leaves time over in the usual one, so it is planned again until
    nothing more fits.

    Args:
        mixing: is added to.
        gates: [N, P, E].
        budget: of the run.
        costs: of the E experts.
    """
    windows, waiting, predicted = len(gates), gates > 0, 0.0
    while True:
        fits = worth_their_time(gates, costs, budget.room_ms(windows), budget.percentile, waiting)
        counts = fits.sum((0, 1))
        if not counts.any():
            break
        price = np.array([cost.predict(int(n), budget.percentile) for cost, n in zip(costs, counts, strict=True)])
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
                mixing.add(e, clips[chunk], patches[chunk])
                waiting[clips[chunk], patches[chunk], e] = False
                predicted += costs[e].predict(size, budget.percentile)
        if predicted == before:
            break
    return np.where(waiting, np.float32(0), gates), predicted  # NaN stays, to be found


def weights(gates: Floats, e: int, clips: Indices, patches: Indices, size: int) -> Floats:
    """The gates of pairs, each in the row of its clip and in a column of its own, [N, size]."""
    found = np.zeros((len(gates), size), np.float32)
    found[clips, np.arange(len(clips))] = gates[clips, patches, e]
    return found


def filled_batches(count: int, buckets: tuple[int, ...]) -> list[tuple[slice, int]]:
    """Rows of batches, and the size that each is filled up to."""
    largest = buckets[-1]
    parts = [slice(start, min(start + largest, count)) for start in range(0, count, largest)]
    return [(rows, next(size for size in buckets if size >= rows.stop - rows.start)) for rows in parts]


def _filled(rows: Floats, size: int) -> Floats:
    """``rows`` and as many of zeros as make it ``size``."""
    filled = np.zeros((size, *rows.shape[1:]), np.float32)
    filled[: len(rows)] = rows
    return filled
