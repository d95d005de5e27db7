"""Numbered packets: put in order, and those that are missing counted."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

MAX_WAIT_S = 0.1
"""Seconds that later packets wait for one that is missing, which may only have been overtaken."""
MAX_HELD = 4096
"""Packets that wait, at most."""
UNKNOWN = -1
"""What is missing before a packet where the sender began to count anew."""
MAX_REMEMBERED = 256
"""Gaps that are remembered, to tell a packet that came too late from one that came twice."""


class Sequencer(Generic[Item]):
    """Put packets in order by a number that grows with each of them and wraps.

    Args:
        modulus: the number after the largest; 65,536 for 16 bits.
    """

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus
        self.late = 0
        """Packets that came after they had been given up."""
        self.duplicates = 0
        """Packets that came again."""
        self._next: int | None = None
        self._candidate: int | None = None  # the next number, should the sender have begun anew
        self._held: dict[int, tuple[float, int, Item]] = {}
        self._gaps: deque[tuple[int, int]] = deque(maxlen=MAX_REMEMBERED)

    def reset(self) -> None:
        """Forget the numbers so far; the next packet may have any."""
        self._next = self._candidate = None
        self._held.clear()
        self._gaps.clear()

    def push(self, number: int, length: int, item: Item, now: float, max_jump: int) -> list[tuple[int, Item]]:
        """Return the packets that are in order now, each with how much is missing right before it (or ``UNKNOWN``).

        Args:
            number: of the packet, or of its first frame.
            length: how far the next packet's number is ahead.
            item: the packet.
            now: its arrival in seconds.
            max_jump: how far the number may be off the expected one; beyond that, it is of a sender that began anew if
                the next packet goes on from it, and a stray otherwise.
        """
        if self._next is None:
            self._next = number
        ahead = self._distance(number, self._next)
        if abs(ahead) > max_jump:
            if number != self._candidate:
                self._candidate = (number + length) % self.modulus
                return []
            rest = self.flush()
            self.reset()
            self._next = (number + length) % self.modulus
            return [*rest, (UNKNOWN, item)]
        self._candidate = None
        if ahead < 0:
            self._count_old(number)
        elif number in self._held:
            self.duplicates += 1
        else:
            self._held[number] = now, length, item
        return self._release(now, MAX_WAIT_S)

    def expire(self, now: float) -> list[tuple[int, Item]]:
        """Return the packets that have waited long enough for those missing before them."""
        return self._release(now, MAX_WAIT_S)

    def flush(self) -> list[tuple[int, Item]]:
        """Return all packets that wait."""
        return self._release(0.0, -float("inf"))

    def _distance(self, number: int, other: int) -> int:
        """Return how far a number is ahead of another one; negative behind it."""
        distance = (number - other) % self.modulus
        return distance - self.modulus if distance >= self.modulus // 2 else distance

    def _count_old(self, number: int) -> None:
        if any((number - begin) % self.modulus < length for begin, length in self._gaps):
            self.late += 1
        else:
            self.duplicates += 1

    def _release(self, now: float, wait_s: float) -> list[tuple[int, Item]]:
        released: list[tuple[int, Item]] = []
        while self._held and self._next is not None:
            expected = self._next
            missing = 0
            if expected not in self._held:
                oldest = min(arrived for arrived, _, _ in self._held.values())
                if now - oldest < wait_s and len(self._held) < MAX_HELD:
                    break
                first = min(self._held, key=lambda number: self._distance(number, expected))
                missing = self._distance(first, expected)
                if missing > 0:
                    self._gaps.append((expected, missing))
                expected = first
            _, length, item = self._held.pop(expected)
            self._next = (expected + length) % self.modulus
            released.append((max(missing, 0), item))
        return released
