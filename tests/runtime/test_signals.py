"""Signals that end a program interrupt it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from xaimoe_runtime.signals import NAMES, interrupted_by_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture(params=NAMES)
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of a signal; all handlers are the default ones whatever other tests have left: Ray sets its own."""
    before = {getattr(signal, name): signal.signal(getattr(signal, name), signal.SIG_DFL) for name in NAMES}
    yield int(getattr(signal, request.param))
    for which, handler in before.items():
        signal.signal(which, handler)


def test_the_first_signal_interrupts_and_later_ones_are_ignored(number: int) -> None:
    """Also while the block cleans up, and after it."""
    cleaned = False
    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        try:
            os.kill(os.getpid(), number)
        finally:
            for name in NAMES:
                os.kill(os.getpid(), getattr(signal, name))
            cleaned = True
    os.kill(os.getpid(), number)
    assert cleaned


def test_the_handler_is_put_back_if_no_signal_came(number: int) -> None:
    with interrupted_by_signals():
        assert signal.getsignal(number) != signal.SIG_DFL
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with interrupted_by_signals():
        os.kill(os.getpid(), number)
