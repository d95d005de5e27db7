"""What all benchmarks share: the bundle, its clips, and what is said of the machine."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xaimoe_runtime import Runtime
from xaimoe_runtime.bench import clips_of

ROOT = Path(__file__).parents[1]
BUNDLE = Path(os.environ.get("XAIMOE_BUNDLE", "runs/demo/bundle"))
DATA = Path(os.environ.get("XAIMOE_DATA", ROOT.parent / "shared" / "data"))
PEERS = Path(os.environ.get("XAIMOE_PEERS", ROOT.parent / "shared" / "peers"))
"""Folder of models to stand beside: ``yamnet_spectra_in.onnx``."""
FOLD = os.environ.get("XAIMOE_FOLD", "")
"""ESC-10's fold that clips are taken from, best the one that the bundle's model was tested on; all if empty. A model is
surer of the clips that it was trained on, and runs fewer pairs."""
CLIPS = 40
PACKAGES = ("numpy", "onnxruntime", "soundfile", "soxr", "torch", "xai-moe-audio")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Adds what times depend on; kept with ``--benchmark-json``."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    machine_info["governor"] = governor.read_text(encoding="utf-8").strip() if governor.is_file() else None
    machine_info["versions"] = {package: version(package) for package in PACKAGES}
    machine_info["cores"] = os.cpu_count()
    machine_info["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS")
    machine_info["fold"] = FOLD
    machine_info["bundle"] = BUNDLE.name
    manifest = BUNDLE / "manifest.json"
    machine_info["bundle_id"] = (
        json.loads(manifest.read_text(encoding="utf-8"))["bundle_id"] if manifest.is_file() else None
    )


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    if not (BUNDLE / "manifest.json").is_file():
        pytest.skip(f"no bundle in {BUNDLE}; run make demo first, or set XAIMOE_BUNDLE")
    return Runtime.load(BUNDLE, provider="cpu", threads=1)


@pytest.fixture(scope="session")
def recordings() -> list[Path]:
    """Of ESC-10, if they are there: as many of each class."""
    found = sorted((DATA / "esc10" / "audio").rglob(f"{FOLD or '?'}-*.ogg"))
    return found[:: max(len(found) // CLIPS, 1)][:CLIPS]


@pytest.fixture(scope="session")
def clips(runtime: Runtime, recordings: list[Path]) -> NDArray[np.float32]:
    """At the bundle's rate, [N, S]; the golden clip where there are no recordings."""
    return clips_of(runtime, recordings)
