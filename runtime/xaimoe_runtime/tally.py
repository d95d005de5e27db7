"""The figures of a run: what was answered, in which time, and what was not."""

from __future__ import annotations

import math
from typing import Protocol

import msgspec
import numpy as np

from xaimoe_runtime.records import SummaryRecord
from xaimoe_runtime.result import Result
from xaimoe_runtime.schema import Pool, Routing

STEP = math.log(1.01)
"""Logarithm of the ratio between one time and the next that are told apart: of millions of windows there are but some
hundred different times to remember."""
LEAST_MS = 1e-3


class Answering(Protocol):
    """What answered."""

    name: str
    provider: str
    pairs_possible: int


class Tally(msgspec.Struct):
    """Counts of windows and what they took. Those of several files can be added up."""

    files: int = 0
    errors: int = 0
    windows: int = 0
    audio_s: float = 0.0
    pairs: int = 0
    left_out: int = 0
    degraded: int = 0
    late: int = 0
    drifted: int = 0
    events: int = 0
    dropped: int = 0
    """Windows that were given up."""
    incomplete: int = 0
    """Files of which a part could not be decoded."""
    silent: int = 0
    """Recordings without a signal."""
    silent_windows: int = 0
    warned: int = 0
    """Recordings with warnings of their channels."""
    skipped_s: float = 0.0
    """Seconds that no window covers."""
    total_ms: float = 0.0
    times: dict[int, int] = {}
    """Windows by their time: milliseconds are ``exp(STEP * key)``."""

    def count(self, result: Result, ms: float) -> None:
        """One more window was answered."""
        self.windows += 1
        self.pairs += int(result.trace.pairs[0])
        self.left_out += int(np.count_nonzero(result.trace.left_out))
        self.degraded += result.degraded
        self.late += result.late
        self.drifted += bool(result.trace.drift[0])
        self.silent_windows += not result.trace.sounding.any()
        self.total_ms += ms
        key = round(math.log(max(ms, LEAST_MS)) / STEP)
        self.times[key] = self.times.get(key, 0) + 1

    def add(self, other: Tally) -> None:
        """Adds the figures of another part of the run."""
        for name in self.__struct_fields__:
            if name != "times":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        for key, count in other.times.items():
            self.times[key] = self.times.get(key, 0) + count

    def percentile(self, share: float) -> float:
        """Milliseconds that so large a share of the windows took no longer than, to half a percent; 0 without any."""
        times = sorted(dict(self.times).items())  # a copy: another thread may ask while windows are counted
        wanted, found = share * sum(count for _, count in times), 0
        for key, count in times:
            found += count
            if found >= wanted:
                return math.exp(STEP * key)
        return 0.0

    def summary(
        self,
        engine: Answering,
        routing: Routing,
        budget_ms: float | None,
        lost_s: float = 0.0,
        pool: Pool = "mean",
    ) -> SummaryRecord:
        """The figures so far."""
        possible = self.windows * engine.pairs_possible
        return SummaryRecord(
            source=engine.name,
            files=self.files,
            errors=self.errors,
            windows=self.windows,
            audio_s=round(self.audio_s, 6),
            provider=engine.provider,
            routing=routing,
            p50_ms=round(self.percentile(0.5), 3),
            p95_ms=round(self.percentile(0.95), 3),
            pair_share=round(self.pairs / possible, 6) if possible else 0.0,
            budget_ms=budget_ms,
            degraded=self.degraded,
            late=self.late,
            left_out_share=round(self.left_out / max(self.pairs + self.left_out, 1), 6),
            drifted=self.drifted,
            events=self.events,
            dropped=self.dropped,
            lost_s=round(lost_s, 6),
            incomplete=self.incomplete,
            pool=pool,
            silent=self.silent,
            silent_windows=self.silent_windows,
            warned=self.warned,
            skipped_s=round(self.skipped_s, 6),
        )
