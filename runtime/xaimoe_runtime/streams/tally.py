"""The figures of a stream: what was answered, in which time, and what was not."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from xaimoe_runtime.result import Result
from xaimoe_runtime.schema import Routing, SummaryRecord

if TYPE_CHECKING:
    from xaimoe_runtime.runtime import Runtime

RECENT = 10_000
"""Windows whose times the percentiles are of."""


class Tally:
    """Counts for as long as a stream lasts, in bounded memory."""

    def __init__(self) -> None:
        self.windows = self.errors = self.late = self.degraded = self.events = self.pairs = self.left_out = 0
        self.dropped = 0
        """Windows that were given up."""
        self.recent: deque[float] = deque(maxlen=RECENT)
        """Milliseconds of the last windows."""
        self.total_ms = 0.0

    def count(self, result: Result) -> None:
        """One more window was answered."""
        trace = result.trace
        self.windows += 1
        self.late += result.late
        self.degraded += result.degraded
        self.pairs += int(trace.pairs[0])
        self.left_out += int(np.count_nonzero(trace.left_out))
        ms = sum(trace.ms.values())
        self.recent.append(ms)
        self.total_ms += ms

    def summary(
        self, runtime: Runtime, routing: Routing, budget_ms: float | None, audio_s: float, lost_s: float
    ) -> SummaryRecord:
        """The figures so far. May be asked for by another thread."""
        times = list(self.recent)
        p50, p95 = (float(p) for p in np.percentile(times, [50, 95])) if times else (0.0, 0.0)
        possible = self.windows * runtime.pairs_possible
        return SummaryRecord(
            source=runtime.name,
            files=1,
            errors=self.errors,
            windows=self.windows,
            audio_s=round(audio_s, 6),
            provider=runtime.provider,
            routing=routing,
            p50_ms=round(p50, 3),
            p95_ms=round(p95, 3),
            pair_share=round(self.pairs / possible, 6) if possible else 0.0,
            budget_ms=budget_ms,
            degraded=self.degraded,
            late=self.late,
            left_out_share=round(self.left_out / max(self.pairs + self.left_out, 1), 6),
            events=self.events,
            dropped=self.dropped,
            lost_s=round(lost_s, 6),
        )
