"""Results that are slow to find, kept in the user's cache folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from xaimoe_runtime.caching import cache_folder
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.writing import replacing

T = TypeVar("T")


def remembered(name: str, kind: type[T], find: Callable[[], T]) -> T:
    """The result called ``name``, as it was kept; else what ``find`` gives, which is then kept.

    The name must hold all that the result depends on. A broken entry is found anew, and a full disk keeps nothing.
    """
    entry = cache_folder() / name
    try:
        return msgspec.json.decode(entry.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        found = find()
    try:
        with replacing(entry) as file:
            file.write(msgspec.json.encode(found))
    except (OSError, ConfigError):
        pass
    return found
