"""Signals that end a program interrupt it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from xaimoe_runtime.signals import interrupted_by_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture(params=["SIGTERM", "SIGHUP"])
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of a signal, whose handler is the default one whatever other tests have left: Ray sets its own."""
    number = int(getattr(signal, request.param))
    before = signal.signal(number, signal.SIG_DFL)
    yield number
    signal.signal(number, before)


def test_the_signal_interrupts_and_the_handler_is_put_back(number: int) -> None:
    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == signal.SIG_DFL


def test_a_signal_that_is_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with interrupted_by_signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == signal.SIG_IGN


def test_the_handler_of_a_host_stays(number: int) -> None:
    calls: list[int] = []
    signal.signal(number, lambda number, _: calls.append(number))
    with interrupted_by_signals():
        os.kill(os.getpid(), number)
    assert calls == [number]
