"""Options of the Python API: words that must be one of a few, and numbers within limits."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeVar

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


def number_within(found: Any, name: str, low: float, high: float = sys.float_info.max) -> float:
    """Return ``found``, the value of the option ``name``, if it is a number within limits.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(found, bool) or not isinstance(found, Real) or not low <= float(found) <= high:
        expected = f"{low:g} or more" if high == sys.float_info.max else f"{low:g} to {high:g}"
        raise ConfigError(f"{name}: found {found!r}, expected {expected}")
    return float(found)


def positive_integer(found: Any, name: str) -> int:
    """Return ``found``, the value of the option ``name``, if it is a whole number of 1 or more.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(found, bool) or not isinstance(found, Integral) or found < 1:
        raise ConfigError(f"{name}: found {found!r}, expected a whole number, 1 or more")
    return int(found)
