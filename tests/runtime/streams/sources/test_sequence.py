"""Numbered packets: order, gaps, wrapped numbers, duplicates and senders that begin anew."""

from __future__ import annotations

import random

import pytest

from xaimoe_runtime.streams.sources.sequence import MAX_WAIT_S, UNKNOWN, Sequencer

MODULUS = 65_536
Released = list[tuple[int, int]]


def push_all(numbers: list[int], step_s: float = 0.02, max_jump: int = 1000) -> tuple[Released, Sequencer[int]]:
    """Push packets whose item is their number, each ``step_s`` after the one before."""
    sequencer: Sequencer[int] = Sequencer(MODULUS)
    released: Released = []
    for i, number in enumerate(numbers):
        released += sequencer.push(number, 1, number, i * step_s, max_jump)
    return released + sequencer.flush(), sequencer


def test_packets_in_order_are_released_at_once() -> None:
    sequencer: Sequencer[str] = Sequencer(MODULUS)
    for i in range(5):
        assert sequencer.push(100 + i, 1, f"packet {i}", 0.02 * i, 50) == [(0, f"packet {i}")]


@pytest.mark.parametrize("first", [0, 65_530, 65_535])
def test_lost_packets_are_counted_where_they_are_missing_also_where_numbers_wrap(first: int) -> None:
    numbers = [(first + i) % MODULUS for i in range(20)]
    missing = {3, 4, 9}
    released, _ = push_all([number for i, number in enumerate(numbers) if i not in missing])
    gaps = {numbers.index(number): gap for gap, number in released if gap}
    assert gaps == {5: 2, 10: 1}
    assert [number for _, number in released] == [number for i, number in enumerate(numbers) if i not in missing]


def test_overtaken_packets_are_put_in_order_and_nothing_is_missing() -> None:
    released, sequencer = push_all([0, 1, 3, 2, 6, 5, 4, 7], step_s=0.005)
    assert released == [(0, i) for i in range(8)]
    assert (sequencer.late, sequencer.duplicates) == (0, 0)


def test_any_order_within_the_waiting_time_is_restored() -> None:
    draw = random.Random(0)
    for _ in range(200):
        numbers = [(65_500 + i) % MODULUS for i in range(60)]
        shuffled = [numbers[0]]
        for begin in range(1, 60, 8):
            shuffled += draw.sample(numbers[begin : begin + 8], len(numbers[begin : begin + 8]))
        released, _ = push_all(shuffled, step_s=0.005)
        assert released == [(0, number) for number in numbers]


def test_duplicates_and_late_packets_are_left_out_and_counted_apart() -> None:
    released, sequencer = push_all([0, 1, 1, 3, 4, 5, 6, 7, 8, 9, 2, 9, 10], step_s=0.03)
    assert [number for _, number in released] == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    assert (sequencer.late, sequencer.duplicates) == (1, 2)


def test_a_missing_packet_is_waited_for_no_longer_than_the_limit() -> None:
    sequencer: Sequencer[int] = Sequencer(MODULUS)
    sequencer.push(0, 1, 0, 0.0, 100)
    assert sequencer.push(2, 1, 2, 1.0, 100) == []
    assert sequencer.expire(1.0 + 0.9 * MAX_WAIT_S) == []
    assert sequencer.expire(1.0 + 1.1 * MAX_WAIT_S) == [(1, 2)]


def test_a_sender_that_begins_anew_is_followed_from_its_second_packet_on() -> None:
    released, _ = push_all([50_000, 50_001, 7, 8, 9], max_jump=100)
    assert released == [(0, 50_000), (0, 50_001), (UNKNOWN, 8), (0, 9)]


def test_a_stray_number_is_left_out() -> None:
    released, _ = push_all([50_000, 50_001, 7, 50_002, 50_003], max_jump=100)
    assert released == [(0, 50_000), (0, 50_001), (0, 50_002), (0, 50_003)]


def test_numbers_may_count_frames() -> None:
    sequencer: Sequencer[str] = Sequencer(2**32)
    assert sequencer.push(2**32 - 160, 160, "a", 0.0, 10_000) == [(0, "a")]
    assert sequencer.push(0, 160, "b", 0.0, 10_000) == [(0, "b")]
    assert sequencer.push(480, 160, "c", 0.0, 10_000) == []
    assert sequencer.expire(1.0) == [(320, "c")]
