"""What the runtime's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.bundles import EditableBundle


@pytest.fixture
def editable(bundle_copy: Path) -> EditableBundle:
    """A copy of the bundle, its manifest open for changes."""
    return EditableBundle(bundle_copy)
