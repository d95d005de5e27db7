"""What each graph costs on a device: percentiles of its time by the size of its batch."""

from __future__ import annotations

from bisect import bisect_left
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from xaimoe_runtime.choices import one_of

Percentile = Literal["p50", "p95", "p99"]
"""Share of the runs that took no longer."""
PERCENTILES: tuple[Percentile, ...] = get_args(Percentile)
Milliseconds = Annotated[float, Meta(ge=0)]
CHUNK = 16
"""Patches that an expert is given at once under a budget: after each the clock is looked at. On a CPU more at once gain
nothing."""


class Cost(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times of one graph in milliseconds, by batch size; of an expert with its gathering and adding up."""

    sizes: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1)]
    """Batch sizes that were measured, rising."""
    p50: tuple[Milliseconds, ...]
    p95: tuple[Milliseconds, ...]
    p99: tuple[Milliseconds, ...]
    filled_up: bool = False
    """Whether batches are filled up to one of the sizes."""

    def __post_init__(self) -> None:
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes: found {self.sizes}, expected rising ones")
        if any(len(getattr(self, name)) != len(self.sizes) for name in PERCENTILES):
            raise ValueError("p50, p95, p99: expected a time for each of the sizes")

    def predict(self, size: int, percentile: Percentile) -> float:
        """Milliseconds of a batch: on a line between the sizes measured, and in proportion beyond the largest; where
        batches are filled up, of the next size."""
        if size == 0:
            return 0.0
        times: tuple[float, ...] = getattr(self, percentile)
        sizes = self.sizes
        if size > sizes[-1]:
            return times[-1] * size / sizes[-1]
        # Without numpy, which takes ten times as long for one number: a plan asks dozens of times.
        at = bisect_left(sizes, size)
        if at == 0 or self.filled_up:
            return times[at]
        part = (size - sizes[at - 1]) / (sizes[at] - sizes[at - 1])
        return times[at - 1] + part * (times[at] - times[at - 1])

    def each(self, percentile: Percentile) -> float:
        """Milliseconds that one more costs, up to a whole chunk."""
        return max(self.predict(CHUNK, percentile) - self.predict(1, percentile), 0.0) / (CHUNK - 1)

    def start(self, percentile: Percentile) -> float:
        """Milliseconds that a batch of one costs more than one more of a chunk."""
        return max(self.predict(1, percentile) - self.each(percentile), 0.0)


Costs = dict[str, Cost]
"""By the names of the graphs: ``frontend``, ``saliency``, ``router``, ``expert NAME`` …, ``head``."""


def check_percentile(percentile: str) -> Percentile:
    """``percentile`` if it is one that is measured.

    Raises:
        ConfigError: it is not.
    """
    return one_of(PERCENTILES, percentile, "percentile")
