"""Deadlines: how long a run may take, and which pairs are worth their time.

What is promised, and what cannot be, is written down in ``docs/budget.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from operator import add
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.costs import CHUNK, Cost, Costs, Percentile
from xaimoe_runtime.errors import ConfigError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

RESERVE_MS, RESERVE_EACH_MS = 0.3, 0.01
"""Kept back for what is no graph, planning and the answer itself: of a run, and for each of its windows."""


def check_budget(budget_ms: float | None) -> float | None:
    """``budget_ms`` if it is a time, or None.

    Raises:
        ConfigError: it is not.
    """
    if budget_ms is not None and not (isinstance(budget_ms, Real) and 0 < budget_ms < float("inf")):
        raise ConfigError(f"budget_ms: found {budget_ms!r}, expected milliseconds, more than 0")
    return budget_ms


@dataclass(frozen=True)
class Budget:
    """When one run of the line must be over, and what its parts are expected to take."""

    deadline: float
    """On the clock of ``perf_counter``, in seconds."""
    costs: Costs
    percentile: Percentile

    @property
    def left_ms(self) -> float:
        """Milliseconds until the deadline; negative after it."""
        return (self.deadline - perf_counter()) * 1e3

    def predict(self, graph: str, size: int) -> float:
        """Milliseconds that a graph is expected to take for a batch."""
        return self.costs[graph].predict(size, self.percentile)

    def room_ms(self, windows: int) -> float:
        """Milliseconds that are left for experts before the head must answer for so many windows."""
        return self.left_ms - self.predict("head", windows) - RESERVE_MS - RESERVE_EACH_MS * windows

    def fitting(self, cost: Cost, size: int, windows: int) -> int:
        """How many of a chunk of ``size`` fit into what is left: all, or half of it, or half of that … or none."""
        while size and cost.predict(size, self.percentile) > self.room_ms(windows):
            size //= 2
        return size


DeadlineFor = Callable[[int], float]
"""When a run over so many windows that begins now must be over."""


def for_each(budget_ms: float) -> DeadlineFor:
    """Deadlines of runs that have a budget for each of their windows.

    Raises:
        ConfigError: the budget is no time.
    """
    check_budget(budget_ms)
    return lambda windows: perf_counter() + windows * budget_ms / 1e3


class WholeCall:
    """Deadlines of the runs that one call is made of: each gets its windows' share of what is left.

    Args:
        end: of the call, on the clock of ``perf_counter``.
        windows: of the whole call.
    """

    def __init__(self, end: float, windows: int) -> None:
        self.end, self.windows = end, windows

    def __call__(self, windows: int) -> float:
        """When the next run, over so many windows, must be over."""
        now = perf_counter()
        share = windows / max(self.windows, 1)
        self.windows -= windows
        return now + (self.end - now) * share


def worth_their_time(
    gates: Floats, costs: list[Cost], room_ms: float, percentile: Percentile, waiting: Mask | None = None
) -> Mask:
    """The pairs that fit into ``room_ms``, the most worthwhile first, [N, P, E].

    First the best pair of each patch, by its gate per millisecond; then the second best of each, and so on: what
    another expert says of a patch that one was asked about tells less than what is heard in a patch not looked at yet.
    A pair costs what one more of its expert's chunk does, and the first of each chunk what it takes to run the
    expert at all. One that does not fit makes room for those after it.

    Args:
        gates: [N, P, E]; a pair without a gate is not run.
        costs: of the E experts.
        room_ms: milliseconds.
        percentile: of the costs to go by.
        waiting: [N, P, E], the pairs to choose from; all if None. What was run already keeps its place in the order: a
            patch that was heard does not come first again.
    """
    fits = np.zeros(gates.size, bool)
    each, start = ([getattr(cost, of)(percentile) for cost in costs] for of in ("each", "start"))
    if room_ms < min(map(add, each, start)):
        return fits.reshape(gates.shape)
    chosen = np.flatnonzero(gates > 0 if waiting is None else waiting)
    expert = chosen % gates.shape[2]
    rank = opinions(gates).reshape(-1)[chosen]
    worth = gates.reshape(-1)[chosen] / np.maximum(np.array(each)[expert], 1e-9)
    taken, spent = [0] * len(costs), 0.0
    for i in np.lexsort((-worth, rank)):
        e = int(expert[i])
        price = each[e] + (start[e] if taken[e] % CHUNK == 0 else 0.0)
        if spent + price <= room_ms:
            fits[chosen[i]] = True
            taken[e] += 1
            spent += price
    return fits.reshape(gates.shape)


def opinions(gates: Floats) -> NDArray[np.intp]:
    """Which opinion of its patch each pair would be, by its gate: 0 for the best expert's, 1 for the next …, of the
    gates' shape [N, P, E]."""
    falling = np.argsort(-gates, axis=2, kind="stable")
    return np.argsort(falling, axis=2, kind="stable")
