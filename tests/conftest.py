"""What the tests share: made-up recordings, one small model trained on them, and its bundle.

Everything is made once a session and must not be altered; a test that wants to break something works on a copy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from numpy.typing import NDArray

from xaimoe_runtime import Runtime
from xaimoe_runtime.inference import file_windows

Floats = NDArray[np.float32]
MakeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded audio of the tests stays out of the user's cache."""
    before = os.environ.get("XAIMOE_CACHE")
    os.environ["XAIMOE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XAIMOE_CACHE"]
    else:
        os.environ["XAIMOE_CACHE"] = before


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MakeOnce:
    """Return a function that makes a folder once for all workers of the session.

    With ``XAIMOE_TEST_MODEL=FOLDER`` the folders are kept there for later sessions: of use while tests are written, and
    wrong as soon as what makes them has changed.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of this session, shared by its workers
    root = Path(os.environ.get("XAIMOE_TEST_MODEL", root / "made"))
    root.mkdir(parents=True, exist_ok=True)

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = root / name, root / f"{name}.whole"
        with (root / f"{name}.lock").open("w") as file:
            _lock(file)
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                whole.touch()
        return folder

    return make_once


def _lock(file: IO[str]) -> None:
    """Wait until no other process holds the lock on a file; it is released when the file is closed."""
    try:
        import fcntl
    except ImportError:  # Windows, where tests run in one process
        return
    fcntl.flock(file, fcntl.LOCK_EX)


@pytest.fixture(scope="session")
def scenes(made_once: MakeOnce) -> Path:
    """A dataset folder of 1 s sonar scenes: 8 classes, 6 clips each, mixed sampling rates."""
    from xaimoe_audio.scenes import write_dataset

    return made_once("scenes", lambda folder: write_dataset(folder, clips_per_class=6, duration_s=1.0, seed=7))


@pytest.fixture(scope="session")
def run_folder(scenes: Path, made_once: MakeOnce) -> Path:
    """A run folder of a small model, trained for eight epochs."""
    from xaimoe_audio import MoEAudioClassifier

    def train(out: Path) -> None:
        classifier = MoEAudioClassifier(budget="latency", device="cpu", seed=3)
        classifier.fit(dataset_dir=scenes, epochs=8, batch_size=4, out_dir=out)

    return made_once("run", train)


@pytest.fixture(scope="session")
def checkpoint(run_folder: Path) -> Path:
    """The run's ``best.pt``."""
    return run_folder / "best.pt"


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, made_once: MakeOnce) -> Path:
    """The run's bundle."""
    from xaimoe_audio import MoEAudioClassifier

    return made_once("bundle", lambda out: MoEAudioClassifier.load(checkpoint, device="cpu").export(out))


@pytest.fixture(scope="session")
def runtime(bundle: Path) -> Runtime:
    """The bundle, loaded on the CPU."""
    return Runtime.load(bundle, provider="cpu")


@pytest.fixture(scope="session")
def clips(runtime: Runtime, scenes: Path) -> tuple[Floats, Floats]:
    """Scenes of all classes and several native rates as the graphs take them: waveform [16, S] and source [16, 2]."""
    paths = sorted((scenes / "audio").iterdir())[::3]
    windows = [next(file_windows(path, runtime.audio))[1] for path in paths]
    return np.stack([w.samples for w in windows]), np.array([w.source for w in windows], np.float32)


@pytest.fixture
def bundle_copy(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may break."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))
