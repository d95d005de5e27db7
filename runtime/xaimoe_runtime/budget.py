"""Deadlines: how long a run may take, and which pairs are worth their time.

What is promised, and what cannot be, is written down in ``docs/budget.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.costs import Cost, Costs, Percentile
from xaimoe_runtime.errors import ConfigError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

RESERVE_MS = 0.1
"""Kept back for what is no graph: adding up, the answer itself."""


def check_budget(budget_ms: float | None) -> float | None:
    """``budget_ms`` if it is a time, or None.

    Raises:
        ConfigError: it is not.
    """
    if budget_ms is not None and not 0 < budget_ms < float("inf"):
        raise ConfigError(f"budget_ms: found {budget_ms:g}, expected milliseconds, more than 0")
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
        return self.left_ms - self.predict("head", windows) - RESERVE_MS


DeadlineFor = Callable[[int], float]
"""When a run over so many windows that begins now must be over."""


def for_each(budget_ms: float) -> DeadlineFor:
    """Deadlines of runs that have a budget for each of their windows."""
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


def worth_their_time(gates: Floats, costs: list[Cost], room_ms: float, percentile: Percentile) -> Mask:
    """The pairs that fit into ``room_ms``, those with the most gate per millisecond first, [N, P, E].

    A pair costs what one more of its expert's batch does, and an expert's first pair what it takes to run the expert at
    all.

    Args:
        gates: [N, P, E]; a pair without a gate is not run.
        costs: of the E experts.
        room_ms: milliseconds.
        percentile: of the costs to go by.
    """
    each, start = (np.array([getattr(cost, of)(percentile) for cost in costs]) for of in ("each", "start"))
    chosen = np.flatnonzero(gates)
    expert = chosen % gates.shape[2]
    order = np.argsort(-gates.reshape(-1)[chosen] / np.maximum(each[expert], 1e-9), kind="stable")
    chosen, expert = chosen[order], expert[order]
    price = each[expert]
    experts, first = np.unique(expert, return_index=True)
    price[first] += start[experts]
    fits = np.zeros(gates.size, bool)
    fits[chosen[np.cumsum(price) <= room_ms]] = True
    return fits.reshape(gates.shape)
