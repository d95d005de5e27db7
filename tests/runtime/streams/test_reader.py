"""Reading ahead: order, a bounded buffer, and sources that break."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime import AudioError
from xaimoe_runtime.streams.reader import Block, End, Item, Reader
from xaimoe_runtime.streams.sources import Missing, Trouble

Floats = NDArray[np.float32]


Given = Floats | Trouble | Missing


class Made:
    """A source of given items; it waits for ``gate`` after the first ``free``."""

    name, rate, channels, encoding = "made", 100, 1, ""

    def __init__(
        self, items: list[Floats | Trouble | Missing | Exception], live: bool, free: int | None = None
    ) -> None:
        self.items, self.live, self.free = items, live, free
        self.gate, self.given = threading.Event(), 0

    def read(self) -> Iterator[Floats | Trouble | Missing]:
        for item in self.items:
            if self.given == self.free:
                self.gate.wait(5)
            if isinstance(item, Exception):
                raise item
            yield item
            self.given += 1

    def close(self) -> None:
        self.gate.set()


def block(value: int, size: int = 50) -> Floats:
    return np.full((size, 1), value, np.float32)


def all_of(reader: Reader) -> list[Item]:
    found: list[Item] = []
    while not found or not isinstance(found[-1], End):
        items = reader.get(5)
        assert items
        found += items
    return found


def values(items: list[Item]) -> list[int]:
    return [int(item.samples[0, 0]) for item in items if isinstance(item, Block)]


def test_items_come_in_order_and_then_the_end() -> None:
    found = all_of(Reader(Made([block(1), Trouble("odd"), block(2)], live=False), 10))
    assert values(found) == [1, 2]
    assert found[1] == Trouble("odd")
    assert found[-1] == End()


def test_a_source_that_can_wait_waits() -> None:
    source = Made([block(i) for i in range(20)], live=False)
    reader = Reader(source, 1.0)  # two blocks
    time.sleep(0.2)
    assert source.given <= 3
    found = all_of(reader)
    assert values(found) == list(range(20))
    assert reader.lost == 0


def test_of_a_live_source_the_oldest_is_lost_and_told() -> None:
    source = Made([block(i) for i in range(10)], live=True)
    reader = Reader(source, 1.0)
    while source.given < 10:
        time.sleep(0.01)
    time.sleep(0.05)
    found = all_of(reader)
    assert values(found) == [8, 9]
    assert reader.lost == 8 * 50
    assert isinstance(found[0], Trouble) and found[0].gap
    (trouble,) = [item for item in found if isinstance(item, Trouble)]
    assert trouble.message == "4.00 s were lost, the buffer is full" and trouble.lost == 400


def test_other_trouble_outlives_what_is_lost() -> None:
    source = Made([block(0), Trouble("odd"), *(block(i) for i in range(1, 6))], live=True)
    reader = Reader(source, 1.0)
    while source.given < 7:
        time.sleep(0.01)
    time.sleep(0.05)
    troubles = [item.message for item in all_of(reader) if isinstance(item, Trouble)]
    assert "odd" in troubles and any("2.00 s were lost" in text for text in troubles)


def test_gaps_in_what_is_lost_are_lost_with_it() -> None:
    source = Made([block(0), Missing(30), *(block(i) for i in range(1, 6))], live=True)
    reader = Reader(source, 1.0)
    while source.given < 7:
        time.sleep(0.01)
    time.sleep(0.05)
    (trouble,) = [item for item in all_of(reader) if isinstance(item, Trouble)]
    assert trouble.lost == 4 * 50 + 30 and reader.lost == 4 * 50


def test_an_item_larger_than_the_buffer_still_comes() -> None:
    assert values(all_of(Reader(Made([block(7, 500), block(8, 500)], live=False), 1.0))) == [7, 8]


def test_what_came_before_a_break_is_heard() -> None:
    found = all_of(Reader(Made([block(1), AudioError("broken"), block(2)], live=True), 10))
    assert values(found) == [1]
    end = found[-1]
    assert isinstance(end, End) and str(end.error) == "broken"
    end = all_of(Reader(Made([OSError("gone")], live=True), 10))[-1]
    assert isinstance(end, End) and str(end.error) == "made: OSError: gone"


def test_nothing_comes_of_a_silent_source_in_time() -> None:
    reader = Reader(Made([block(1)], live=True, free=0), 10)
    start = time.monotonic()
    assert reader.get(0.1) == []
    assert time.monotonic() - start < 2
    reader.close()


def test_a_reader_that_waits_for_room_can_be_closed() -> None:
    source = Made([block(i) for i in range(20)], live=False)
    reader = Reader(source, 1.0)
    time.sleep(0.1)
    reader.close()
    assert not reader._thread.is_alive()
