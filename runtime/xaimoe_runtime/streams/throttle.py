"""Reports of one kind, limited in number."""

from __future__ import annotations


class Throttle:
    """Limit the reports of one kind to one in a period, and count what each of them stands for.

    Args:
        period_s: seconds from one report to the next.
    """

    def __init__(self, period_s: float) -> None:
        self.period_s = period_s
        self.count = 0
        """What has been counted since the last report."""
        self._last = -float("inf")

    def add(self, count: int = 1) -> None:
        """Count what the next report stands for."""
        self.count += count

    def due(self, now: float) -> int:
        """Return the count if a report is due at this time (seconds), and begin to count anew; else return 0."""
        if now - self._last < self.period_s:
            return 0
        return self.flush(now)

    def flush(self, now: float) -> int:
        """Return the count, due or not, and begin to count anew."""
        if self.count:
            self._last = now
        count, self.count = self.count, 0
        return count
