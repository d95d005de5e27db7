"""What the tests of streams share."""

from __future__ import annotations

from pathlib import Path

import pytest

from xaimoe_runtime import Runtime


@pytest.fixture(scope="session")
def hand_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a model that is made by hand, and needs no training."""
    from data.hand import description, hand_made

    from xaimoe_export import export_bundle

    out = tmp_path_factory.mktemp("hand") / "bundle"
    export_bundle(hand_made(), description(), out)
    return out


@pytest.fixture(scope="session")
def hand_runtime(hand_bundle: Path) -> Runtime:
    """That bundle, loaded: windows of 0.384 s at 1000 Hz, of the labels calm and loud."""
    return Runtime.load(hand_bundle, provider="cpu")
