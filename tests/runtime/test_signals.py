"""Signals that end a program interrupt it."""

from __future__ import annotations

import os
import signal

import pytest

from xaimoe_runtime.signals import interrupted_by_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.fixture(params=["SIGTERM", "SIGHUP"])
def number(request: pytest.FixtureRequest) -> int:
    return int(getattr(signal, request.param))


def test_the_signal_interrupts_and_the_handler_is_put_back(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interrupted_by_signals():
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)
