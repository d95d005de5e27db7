"""Importing the runtime is cheap: a device that only asks for the version does not load an inference engine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "torchaudio",
    "lightning",
    "pandas",
    "matplotlib",
    "scipy",
    "sklearn",
    "ray",
    "pyarrow",
    "onnx",
    "onnxruntime",
    "soundfile",
    "soxr",
    "rich",
}
ALLOWED = {"numpy", "msgspec", "typing_extensions"}
"""Packages that importing the runtime may load, besides itself and the standard library."""
MAX_RATIO = 6.0
"""Processor time of importing the runtime over that of importing numpy, which a slow or busy machine changes alike: 4
as measured without compiled bytecode, 9 with pandas, 17 with scipy.signal."""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def loaded_by(module: str) -> set[str]:
    """Top-level modules that importing a module loads, in an interpreter of its own."""
    code = f"""
import json, sys
before = set(sys.modules)
import {module}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps([*new - set(sys.stdlib_module_names)]))
"""
    return set(json.loads(python(code)))


@pytest.mark.parametrize("module", ["xaimoe_runtime", "xaimoe_runtime.cli"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    allowed = {"rich"} if module.endswith("cli") else set()  # typer's own
    loaded = loaded_by(module)
    assert "xaimoe_runtime" in loaded
    assert loaded & (HEAVY - allowed) == set()


def test_importing_the_package_loads_its_few_dependencies_alone() -> None:
    assert loaded_by("xaimoe_runtime") - ALLOWED == {"xaimoe_runtime"}


def cpu_s(module: str) -> float:
    """Processor seconds, of user and system, that importing a module takes; the least of a few."""
    code = f"from os import times; a = times(); import {module}; b = times(); print(b[0] - a[0] + b[1] - a[1])"
    return min(float(python(code)) for _ in range(5))


def test_importing_takes_a_few_times_as_long_as_numpy() -> None:
    assert cpu_s("xaimoe_runtime") < MAX_RATIO * cpu_s("numpy")
