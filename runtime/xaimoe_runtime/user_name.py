"""A user name for libraries that need one, where the system has none for the user's number."""

from __future__ import annotations

import getpass
import os


def ensure_user_name() -> None:
    """Set ``USER`` to ``uidN`` if the user has no name, as in a container that runs as a number without an entry in
    ``/etc/passwd``.

    PyTorch asks for the name while it is imported, and cannot be imported without one; so this goes before.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # no entry; OSError since Python 3.13; ImportError where there is no pwd
        os.environ["USER"] = f"uid{os.getuid()}" if hasattr(os, "getuid") else "user"
