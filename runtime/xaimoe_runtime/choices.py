"""Words that must be one of a few."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from xaimoe_runtime.errors import ConfigError

T = TypeVar("T", bound=str)


def one_of(choices: Iterable[T], found: str, name: str) -> T:
    """What was ``found`` for the option ``name``, if it is one of the choices.

    Raises:
        ConfigError: it is not.
    """
    known = tuple(choices)
    for choice in known:
        if found == choice:
            return choice
    raise ConfigError(f"{name}: found {found!r}, expected {', '.join(known)}")
