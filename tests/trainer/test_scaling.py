"""Archives on a Ray cluster: the same rows as on one machine, whatever becomes of a worker."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from data import noise, write_wav
from typer.testing import CliRunner, Result

from xaimoe_audio import scaling
from xaimoe_audio.cli import app
from xaimoe_runtime import BundleError, ConfigError, ProviderError
from xaimoe_runtime.archive.run import OpenBundle
from xaimoe_runtime.files import Classified, FileClassifier, FileOptions

ray = pytest.importorskip("ray", reason="Ray is not installed (extra scale)")
WORKERS = 2


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster of this machine's own, of two workers, for all tests."""
    paths = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1])))  # workers import this file
    how = {"env_vars": {"PYTHONPATH": paths}}
    ray.init(address="local", num_cpus=WORKERS, log_to_driver=False, logging_level=logging.ERROR, runtime_env=how)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    paths = [write_wav(folder / f"{i:02}.wav", noise(8_000 + 500 * i, seed=i)) for i in range(40)]
    paths[7].write_bytes(b"no recording")
    return paths


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["infer", *map(str, arguments)])


def rows(result: Result) -> list[dict[str, Any]]:
    """Records without what a clock measured."""
    found = [json.loads(line) for line in result.stdout.splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith("ms")} for row in found]


@dataclass(frozen=True)
class Noted:
    """Opens a bundle, and notes in a folder which process works on which file; it takes its time."""

    make: OpenBundle
    folder: Path

    def __call__(self) -> FileClassifier:
        classifier, folder = self.make(), self.folder
        plain = classifier.classify

        def classify(path: Path) -> Classified:
            (folder / f"{os.getpid()}-{path.stem}").touch()
            time.sleep(0.05)
            return plain(path)

        classifier.classify = classify  # type: ignore[method-assign]
        return classifier


def test_the_rows_are_those_of_one_machine(bundle: Path, recordings: list[Path]) -> None:
    wanted = run("--bundle", bundle, recordings[0].parent, "--windows")
    found = run("--bundle", bundle, recordings[0].parent, "--windows", "--engine", "ray", "--workers", WORKERS)
    assert (found.exit_code, wanted.exit_code) == (1, 1), found.stderr
    assert rows(found) == rows(wanted)


def test_a_worker_that_is_killed_is_replaced_and_nothing_is_lost(
    bundle: Path, recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "FILES", 4)
    make = OpenBundle(bundle, FileOptions())
    answers = scaling.classify_on_ray(Noted(make, tmp_path), recordings, WORKERS)
    found = [next(answers)]
    victim = next(int(note.name.split("-")[0]) for note in tmp_path.iterdir() if note.name.endswith("-00"))
    os.kill(victim, signal.SIGKILL)
    found += answers
    own = make()
    assert [path for path, _ in found] == recordings
    for path, answer in found:
        assert [record.path for record in answer.records] == [record.path for record in own.classify(path).records]
        assert answer.tally.errors == own.classify(path).tally.errors
    workers = {note.name.split("-")[0] for note in tmp_path.iterdir()}
    assert len(workers) == WORKERS + 1


def test_a_worker_that_cannot_open_the_bundle_says_why(bundle: Path, recordings: list[Path]) -> None:
    make = OpenBundle(bundle, FileOptions(), digest="0" * 64)
    with pytest.raises(BundleError, match="found another bundle than the run began with"):
        list(scaling.classify_on_ray(make, recordings[:3], WORKERS))


def test_no_files_need_no_cluster(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_connect", None)
    assert list(scaling.classify_on_ray(OpenBundle(bundle, FileOptions()), [], WORKERS)) == []


def test_a_cluster_that_is_not_there_is_told(
    bundle: Path, recordings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("nothing listens there")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConfigError, match="found no Ray cluster at ray://nowhere:10001: nothing listens there"):
        list(scaling.classify_on_ray(OpenBundle(bundle, FileOptions()), recordings, WORKERS, "ray://nowhere:10001"))


def test_without_ray_it_is_said_how_to_install_it(
    bundle: Path, recordings: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ProviderError, match=r"xai-moe-audio\[scale\]"):
        list(scaling.classify_on_ray(OpenBundle(bundle, FileOptions()), recordings, WORKERS))


def test_an_address_without_ray_is_a_usage_error(bundle: Path, recordings: list[Path]) -> None:
    result = run("--bundle", bundle, recordings[0], "--address", "auto")
    assert (result.exit_code, "expected --engine ray as well" in result.stderr) == (2, True)
