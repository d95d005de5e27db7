"""What a stream tells systemd, and asks of the scheduler."""

from __future__ import annotations

import os
import socket
from time import monotonic

from xaimoe_runtime.errors import ConfigError


class Systemd:
    """Tells systemd that the service is ready and alive (protocol: ``sd_notify(3)``); nobody, if there is no systemd.

    A watchdog (``WatchdogSec=`` in the unit) is told at most twice in its interval.
    """

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        own = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        usual = os.environ.get("WATCHDOG_USEC", "")
        self._interval = int(usual) / 2e6 if own and usual.isdecimal() else 0.0
        self._told = -float("inf")

    def ready(self) -> None:
        """The service has started."""
        self._tell("READY=1")

    def alive(self) -> None:
        """The service does its work."""
        if self._interval and monotonic() - self._told >= self._interval:
            self._told = monotonic()
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """The service is about to end."""
        self._tell("STOPPING=1")

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.sendto(state.encode(), address)
        except OSError:  # systemd will notice the silence
            return


def use_fifo(priority: int) -> None:
    """Runs this process before all ordinary ones (SCHED_FIFO), 1…99.

    Raises:
        ConfigError: the system has no such scheduling, or does not permit it.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError, ValueError) as error:
        raise ConfigError(
            f"--fifo: SCHED_FIFO with priority {priority} is not permitted ({error}); give the process CAP_SYS_NICE, "
            "or its unit LimitRTPRIO="
        ) from error
