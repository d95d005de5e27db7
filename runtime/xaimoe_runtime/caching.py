"""Where is kept what can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from xaimoe_runtime.errors import ConfigError


def cache_folder(kind: str = "") -> Path:
    """The folder of one kind of things: in ``$XAIMOE_CACHE``, else in the user's cache folder.

    Raises:
        ConfigError: the process has no home folder.
    """
    if own := os.environ.get("XAIMOE_CACHE"):
        return Path(own) / kind
    try:
        return _of_user() / "xaimoe-audio" / kind
    except RuntimeError as error:
        raise ConfigError(f"there is no cache folder ({error}); set XAIMOE_CACHE to a folder") from error


def _of_user() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
