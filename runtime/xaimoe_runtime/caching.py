"""Where is kept what can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(kind: str = "") -> Path:
    """The folder of one kind of things: in ``$XAIMOE_CACHE``, else in the user's cache folder.

    Raises:
        RuntimeError: the process has no home folder.
    """
    if own := os.environ.get("XAIMOE_CACHE"):
        return Path(own) / kind
    if sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "xaimoe-audio" / kind
