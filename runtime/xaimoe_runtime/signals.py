"""Signals that end a program, as an interrupt that the program can clean up after."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")
"""What a scheduler sends, and a terminal that closes; Windows has no SIGHUP."""


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread, as Ctrl-C does, instead of ending the process.

    Only the first one counts: a terminal that closes sends several, which must not cut short what cleans up. A signal
    that is ignored, as under ``nohup``, stays ignored.
    """
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    changed = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}
    came = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        for number in changed:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in changed:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, signal.SIG_IGN if came else handler)
