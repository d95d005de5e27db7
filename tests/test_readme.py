"""The README's quickstart works word for word, in the order in which a newcomer would run it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = dict(re.findall(r"<!-- quickstart: (\w+) -->\n```\w+\n(.*?)```", README.read_text(encoding="utf-8"), re.S))


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, in which the quickstart's Python is run first."""
    folder = tmp_path_factory.mktemp("newcomer")
    run_python(BLOCKS["scenes"], folder)
    return folder


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_shell(line: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line, shell=True, cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_quickstart_has_all_its_parts() -> None:
    assert set(BLOCKS) == {"scenes", "python", "device", "shell", "backend"}


def test_quickstart_in_python_then_on_the_device(newcomer: Path) -> None:
    printed = run_python(BLOCKS["python"], newcomer)
    assert float(printed.splitlines()[0]) > 0.25, "a model of eight classes that learnt nothing would have 0.125"
    assert (newcomer / "runs/exp1/bundle/manifest.json").is_file()
    assert "pairs run" in run_python(BLOCKS["device"], newcomer)


def test_quickstart_in_the_shell(newcomer: Path) -> None:
    for line in BLOCKS["shell"].strip().splitlines():
        run_shell(line, newcomer)
    records = [json.loads(line) for line in (newcomer / "runs/exp2/predictions.jsonl").read_text().splitlines()]
    assert records[-1]["kind"] == "summary"
    assert records[-1]["errors"] == 0
    assert sum(record["kind"] == "result" for record in records) == len(list((newcomer / "data/audio").iterdir()))


def test_a_backend_of_ones_own_trains(newcomer: Path) -> None:
    train = """
from xaimoe_audio import MoEAudioClassifier
clf = MoEAudioClassifier(budget="latency", device="cpu", spectrogram="log", fmin=50.0, fmax=4_000.0)
clf.fit("data", epochs=1, out_dir="runs/own")
clf.export("runs/own/bundle")
"""
    run_python(BLOCKS["backend"] + train, newcomer)
    manifest = json.loads((newcomer / "runs/own/bundle/manifest.json").read_text())
    assert manifest["frontend"]["backend"] == "log"
