"""Audio that the tests make themselves, and where real recordings are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

DATA = Path(os.environ.get("XAIMOE_DATA", Path(__file__).parents[3] / "shared" / "data"))
PEERS = Path(os.environ.get("XAIMOE_PEERS", Path(__file__).parents[3] / "shared" / "peers"))


def real_data(name: str) -> Path:
    """A folder of real recordings; the test is skipped where it is absent."""
    folder = DATA / name
    if not (folder / "metadata.csv").is_file():
        pytest.skip(f"real recordings {folder} are not here; set XAIMOE_DATA to the folder that holds {name}")
    return folder


def peer(name: str) -> Path:
    """A model of others; the test is skipped where it is absent."""
    path = PEERS / name
    if not path.is_file():
        pytest.skip(f"the peer {path} is not here; set XAIMOE_PEERS to the folder that holds {name}")
    return path


def noise(samples: int, seed: int = 0, level: float = 0.1) -> NDArray[np.float32]:
    """Gaussian noise, [samples]."""
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def bursts(samples: int, seed: int = 0, level: float = 0.1) -> NDArray[np.float32]:
    """Return bursts of white noise, [samples], a fifth of the time: experts run for it, as for steady noise none do."""
    return noise(samples, seed, level) * (np.arange(samples) % 4_000 < 800).astype(np.float32)


def write_wav(path: Path, samples: NDArray[np.float32], rate: int = 16_000, subtype: str = "FLOAT") -> Path:
    """Writes samples [n] or [n, channels] and gives the path."""
    soundfile.write(path, samples, rate, subtype=subtype)
    return path
