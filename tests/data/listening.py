"""What the tests of listening share: a made-up source, and its records sorted out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime import Listener, Runtime
from xaimoe_runtime.inference import file_windows
from xaimoe_runtime.records import ErrorRecord, EventRecord, Record, SummaryRecord, WindowRecord
from xaimoe_runtime.streams.sources import Item

Floats = NDArray[np.float32]


class Made:
    """A source of given items, ``pace_s`` seconds apart; a number is a pause of so many seconds. It is ``live`` or can
    wait, and ``ends`` by itself or not."""

    name, encoding, channels = "made", "", 1

    def __init__(
        self,
        items: list[Item | Exception | float],
        rate: int,
        live: bool = False,
        pace_s: float = 0.0,
        ends: bool = True,
    ) -> None:
        self.items, self.rate, self.live, self.pace_s, self.ends = items, rate, live, pace_s, ends
        self.closed = threading.Event()
        blocks = [item for item in items if isinstance(item, np.ndarray)]
        self.channels = blocks[0].shape[1] if blocks else 1

    def read(self) -> Iterator[Item]:
        for item in self.items:
            self.closed.wait(self.pace_s)
            if self.closed.is_set():
                return
            if isinstance(item, Exception):
                raise item
            if isinstance(item, float):
                self.closed.wait(item)
            else:
                yield item
        if not self.ends:
            self.closed.wait()

    def close(self) -> None:
        self.closed.set()


def four_clips(runtime: Runtime, scenes: Path) -> Floats:
    """Four clips of scenes, [n, 1]."""
    parts = []
    for path in sorted((scenes / "audio").glob("*.*"))[::5]:
        parts += [window.samples for _, window in file_windows(path, runtime.audio)]
    return np.concatenate(parts)[: 4 * runtime.audio.clip_samples, None]


def blocks(samples: Floats, size: int) -> list[Item | Exception | float]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def heard(listener: Listener) -> tuple[list[WindowRecord], list[EventRecord], list[ErrorRecord], SummaryRecord]:
    return sorted_out(list(listener.records()))


def sorted_out(
    records: list[Record],
) -> tuple[list[WindowRecord], list[EventRecord], list[ErrorRecord], SummaryRecord]:
    *others, summary = records
    assert isinstance(summary, SummaryRecord)
    windows = [r for r in others if isinstance(r, WindowRecord)]
    events = [r for r in others if isinstance(r, EventRecord)]
    return windows, events, [r for r in others if isinstance(r, ErrorRecord)], summary
