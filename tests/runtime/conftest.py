"""What the runtime's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.bundles import EditableBundle


@pytest.fixture
def editable(bundle_copy: Path) -> EditableBundle:
    """A copy of the bundle, its manifest open for changes."""
    return EditableBundle(bundle_copy)


@pytest.fixture(scope="session")
def fused_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that holds the fused graph, too."""
    from xaimoe_audio import MoEAudioClassifier

    out = tmp_path_factory.mktemp("fused") / "bundle"
    MoEAudioClassifier.load(checkpoint, device="cpu").export(out, fused=True)
    return out
