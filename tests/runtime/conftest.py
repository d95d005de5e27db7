"""What the runtime's tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data.bundles import EditableBundle
from numpy.typing import NDArray

from xaimoe_runtime import Runtime
from xaimoe_runtime.inference import file_windows

Floats = NDArray[np.float32]


@pytest.fixture
def editable(bundle_copy: Path) -> EditableBundle:
    """A copy of the bundle, its manifest open for changes."""
    return EditableBundle(bundle_copy)


@pytest.fixture(scope="session")
def clips(runtime: Runtime, scenes: Path) -> tuple[Floats, Floats]:
    """Scenes of all classes and several native rates as the graphs take them: waveform [16, S] and source [16, 2]."""
    paths = sorted((scenes / "audio").iterdir())[::3]
    windows = [next(file_windows(path, runtime.audio))[1] for path in paths]
    return np.stack([w.samples for w in windows]), np.array([w.source for w in windows], np.float32)
