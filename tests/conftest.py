"""What the tests share: made-up recordings, one small model trained on them, and its bundle.

Everything is made once a session and must not be altered; a test that wants to break something works on a copy.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from numpy.typing import NDArray

from xaimoe_runtime import Runtime, trial
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


LONGEST_FILES = (
    "tests/test_readme.py",
    "tests/test_benchmarks.py",
    "tests/trainer/test_spectrogram.py",
    "tests/trainer/test_families.py",
    "tests/exporter/test_bundle.py",
    "tests/trainer/test_explaining.py",
    "tests/trainer/test_live.py",
    "tests/runtime/test_validation.py",
    "tests/trainer/test_profiling.py",
    "tests/exporter/test_precision.py",
    "tests/runtime/test_tensorrt.py",
    "tests/trainer/test_scaling.py",
    "tests/trainer/test_tuning.py",
    "tests/trainer/test_distill.py",
    "tests/trainer/test_tensor_file.py",
)
"""Files that take longest, in the order in which workers take them, so that no worker ends with one alone. The second
needs the trained model, and the first does not: while one worker trains, another has work."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; workers take files in this order (``--no-loadscope-reorder``)."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.nodeid.partition("::")[0], len(ranks)))  # stable


@pytest.fixture(scope="session", autouse=True)
def _graphs_are_exported_once(shared_folder: Path) -> Iterator[None]:
    """Export equal modules once for all workers, and read PyTorch's table of ONNX operators once a process.

    An export of one graph takes 1 to 9 s, of which a second or more goes into the table.
    """
    if "torch" not in sys.modules:
        yield
        return
    from data.exports import ExportCache
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from xaimoe_export import make

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        patch.setattr(make, "to_onnx", ExportCache(shared_folder / "graphs"))
        yield


@pytest.fixture(autouse=True)
def _no_trials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the bundles of a test without a child process, which takes a second for each that was altered.

    Trials are made where fixtures of a wider scope load bundles, in other processes, and with the mark ``trial``.
    """
    if request.node.get_closest_marker("trial") is None:
        monkeypatch.setattr(trial, "try_first", lambda bundle: None)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the session share.

    With ``XAIMOE_TEST_MODEL=FOLDER`` what is in it is kept there for later sessions: of use while tests are written,
    and wrong as soon as what makes it has changed.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of this session, shared by its workers
    root = Path(os.environ.get("XAIMOE_TEST_MODEL", root / "made"))
    root.mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture(scope="session")
def made_once(shared_folder: Path) -> MakeOnce:
    """Return a function that makes a folder once for all workers of the session."""

    def make_once(name: str, make: Callable[[Path], object]) -> Path:
        folder, whole = shared_folder / name, shared_folder / f"{name}.whole"
        with (shared_folder / f"{name}.lock").open("w") as file:
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
def fused_bundle(checkpoint: Path, made_once: MakeOnce) -> Path:
    """A bundle of the run that holds the fused graph, too."""
    from xaimoe_audio import MoEAudioClassifier

    return made_once("fused", lambda out: MoEAudioClassifier.load(checkpoint, device="cpu").export(out, fused=True))


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
