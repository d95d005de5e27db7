"""The run folder: the files that a training leaves, and how they are written."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.writing import replacing

BEST = "best.pt"
LAST = "last.pt"
RUN_CONFIG = "run_config.json"
PROFILE = "profile.json"
POLICY = "policy.json"
SPECTRO_CONFIG = "spectro_config.json"
METRICS = "metrics.json"
EXPERT_USAGE = "expert_usage.json"
EXPLAIN = "explain"
ARCHITECTURE = "architecture.txt"
CURVES = "learning_curves.png"
LOGS = "logs"
RESULTS = (BEST, LAST, METRICS, EXPERT_USAGE, ARCHITECTURE, CURVES)
"""What a new training in the folder makes void."""
FIXED = ("model", "recipe", "batch_size", "channel", "seed", "dataset_sha256", "teacher")
"""Fields of ``run_config.json`` that must be the same for a run to go on."""


def confusion_figure(split: str) -> str:
    """Name of a split's confusion matrix."""
    return f"confusion_{split}.png"


def write_text(path: Path, text: str) -> None:
    """Writes a text file beside its place, then moves it there."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes anything msgspec can encode, readable for people."""
    write_text(path, msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n")


def clear(out: Path) -> None:
    """Removes the results of an earlier run."""
    for name in (*RESULTS, confusion_figure("val"), confusion_figure("test")):
        (out / name).unlink(missing_ok=True)
    for name in (LOGS, EXPLAIN):
        shutil.rmtree(out / name, ignore_errors=True)


def check_same_run(path: Path, run_config: dict[str, Any]) -> None:
    """Raises ConfigError unless the run that ``path`` tells of can go on as ``run_config``; epochs may differ."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected the folder of an earlier run to resume")
    try:
        before = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); train again without --resume") from error
    now = msgspec.json.decode(msgspec.json.encode(run_config))
    changed = [name for name in FIXED if before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{path}: the earlier run had another {', '.join(changed)}; resume with its options and data, "
            "or train into another folder"
        )


def versions() -> dict[str, str]:
    """Of Python and of the packages that a model depends on."""
    packages = ("xai-moe-audio", "torch", "torchaudio", "lightning", "numpy", "soundfile", "soxr")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
