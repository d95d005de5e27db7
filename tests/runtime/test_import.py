"""Importing the runtime is cheap: a device that only asks for the version does not load an inference engine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "torchaudio", "lightning", "pandas", "matplotlib", "onnx", "onnxruntime", "soundfile", "soxr", "rich"}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("module", ["xaimoe_runtime", "xaimoe_runtime.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    allowed = {"rich"} if module.endswith("cli") else set()  # typer's own
    loaded = set(json.loads(python(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))")))
    assert module in loaded
    assert loaded & (HEAVY - allowed) == set()


def test_importing_takes_less_than_a_quarter_of_a_second() -> None:
    code = "from time import perf_counter as now; start = now(); import xaimoe_runtime; print(now() - start)"
    assert min(float(python(code)) for _ in range(5)) < 0.25
