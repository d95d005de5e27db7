"""A thread that reads a source while the stream is busy, with a buffer that is bounded."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.streams.sources import Missing, Source, Trouble

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """Samples [n, channels], and when they came, on the clock of ``perf_counter``."""

    samples: Floats
    arrived: float


@dataclass(frozen=True)
class End:
    """The source is over; an error if it broke."""

    error: AudioError | None = None


Item = Block | Trouble | Missing | End


class Reader:
    """Reads ahead of a stream. What a live source gives beyond ``buffer_s`` seconds makes the oldest be lost; any other
    source waits.

    Args:
        source: is read in a thread of its own from the start.
        buffer_s: seconds that are kept.
    """

    def __init__(self, source: Source, buffer_s: float) -> None:
        self.source, self.limit = source, max(round(buffer_s * source.rate), 1)
        self.lost = 0
        """Samples that were lost so far for want of room."""
        self._items: deque[Item] = deque()
        self._size = 0  # samples in the items
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._read, name=f"reader of {source.name}", daemon=True)
        self._thread.start()

    def get(self, timeout: float) -> list[Item]:
        """All that came since the last call; nothing if nothing does within ``timeout`` seconds."""
        with self._changed:
            if not self._items:
                self._changed.wait(timeout)
            items = list(self._items)
            self._items.clear()
            self._size = 0
            self._changed.notify_all()
            return items

    def close(self) -> None:
        """Ends the thread; a source that waits for data on a pipe may keep it until some comes."""
        self.source.close()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(1.0)

    def _read(self) -> None:
        try:
            for item in self.source.read():
                self._put(Block(item, perf_counter()) if isinstance(item, np.ndarray) else item)
                if self._closed:
                    return
        except AudioError as error:
            self._put(End(error))
        except Exception as error:  # noqa: BLE001  a thread's errors are nobody's else: a pipe that breaks, say
            self._put(End(AudioError(f"{self.source.name}: {type(error).__name__}: {error}")))
        else:
            self._put(End())

    def _put(self, item: Item) -> None:
        size = len(item.samples) if isinstance(item, Block) else 0
        with self._changed:
            while not self._closed and not self.source.live and self._size and self._size + size > self.limit:
                self._changed.wait()
            lost, missing, kept = 0, 0, list[Trouble]()
            while self.source.live and self._size and self._size + size > self.limit:
                oldest = self._items.popleft()
                if isinstance(oldest, Block):
                    lost += len(oldest.samples)
                    self._size -= len(oldest.samples)
                elif isinstance(oldest, Missing):
                    missing += oldest.frames
                elif isinstance(oldest, Trouble):
                    kept.append(oldest)
            if lost:
                self.lost += lost
                lost += missing + sum(trouble.lost for trouble in kept)
                kept = [trouble for trouble in kept if not trouble.lost]
                what = f"{lost / self.source.rate:.2f} s were lost, the buffer is full"
                self._items.extendleft(reversed([*kept, Trouble(what, gap=True, lost=lost)]))
            self._items.append(item)
            self._size += size
            self._changed.notify_all()
