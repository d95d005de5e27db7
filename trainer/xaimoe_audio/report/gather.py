"""What a run folder and a bundle tell, as the page shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from xaimoe_audio import run
from xaimoe_audio.checkpoint import Checkpoint
from xaimoe_audio.training.figures import read_curves
from xaimoe_runtime import Runtime
from xaimoe_runtime.curve import Point
from xaimoe_runtime.errors import BundleError, ConfigError

MOST_EPOCHS = 300
"""Points of a learning curve; of longer ones evenly many are taken."""
SPREADS = ("duration_s", "snr", "transient_rate", "fmax_eff", "level", "quality")
"""Of the profile."""
FAITHFULNESS = "faithfulness.json"


def of_run(folder: Path) -> dict[str, Any]:
    """What the files of a run folder say; what is not there is None.

    Raises:
        ConfigError: the folder holds no run, or a file in it cannot be read.
    """
    if not (folder / run.BEST).is_file() or not (folder / run.RUN_CONFIG).is_file():
        raise ConfigError(
            f"{folder}: found no {run.BEST} and {run.RUN_CONFIG}, expected the folder of a finished training"
        )
    config = _json(folder / run.RUN_CONFIG)
    kept = ("labels", "task", "budget", "epochs", "batch_size", "seed", "device", "versions", "dataset_sha256")
    architecture = folder / run.ARCHITECTURE
    return {
        "name": folder.resolve().name,
        "config": {name: config[name] for name in kept},
        "profile": _profile(_json(folder / run.PROFILE)),
        "policy": _json(folder / run.POLICY),
        "metrics": _json(folder / run.METRICS),
        "usage": _json(folder / run.EXPERT_USAGE),
        "curves": _curves(folder / run.LOGS),
        "faithfulness": _faithfulness(folder),
        "architecture": architecture.read_text(encoding="utf-8") if architecture.is_file() else None,
    }


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); train again, or remove it") from error


def _profile(profile: dict[str, Any] | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    spread = {name: profile["overall"]["spread"][name] for name in SPREADS if name in profile["overall"]["spread"]}
    return {
        "files": profile["overall"]["files"],
        "hours": profile["overall"]["hours"],
        "rates": profile["fs_unique"],
        "encodings": profile["encodings"],
        "classes": {name: _part(part) for name, part in profile["by_class"].items()},
        "splits": {name: _part(part) for name, part in profile["by_split"].items()},
        "spread": {name: [of[f"q{q}"] for q in ("05", "50", "95")] for name, of in spread.items()},
        "warnings": profile["warnings"],
    }


def _part(part: dict[str, Any]) -> dict[str, float]:
    spread = part["spread"]
    return {
        "files": part["files"],
        "hours": part["hours"],
        "snr": spread["snr"]["q50"],
        "top": spread["fmax_eff"]["q50"],
    }


def _curves(logs: Path) -> dict[str, list[list[float]]] | None:
    """By name the points (epoch, value)."""
    curves = read_curves(logs)
    if curves is None:
        return None
    chosen = np.unique(np.linspace(0, len(curves) - 1, min(len(curves), MOST_EPOCHS)).astype(int))
    found = {}
    for name in curves.columns:
        values = curves[name].iloc[chosen].dropna()
        epochs = values.index.to_numpy(int) + 1
        found[str(name)] = [[e, round(v, 5)] for e, v in zip(epochs.tolist(), values.tolist(), strict=True)]
    return {name: points for name, points in found.items() if points}


def _faithfulness(folder: Path) -> Any:
    """What ``xaimoe-audio faithfulness --out R`` or ``--out R/explain`` left."""
    return _json(folder / FAITHFULNESS) or _json(folder / run.EXPLAIN / FAITHFULNESS)


def of_bundle(bundle: Path, checkpoint: Checkpoint, curve: Path | None) -> dict[str, Any]:
    """What a bundle holds, what its graphs cost on this device, and what each budget gives.

    Args:
        bundle: its folder.
        checkpoint: that it must be of.
        curve: what ``xaimoe-runtime calibrate --data D --curve FILE`` wrote.

    Raises:
        BundleError: the bundle is refused, or of another checkpoint.
        ConfigError: the curve cannot be read.
    """
    runtime = Runtime.load(bundle, provider="cpu")
    manifest = runtime.manifest
    if manifest.provenance.checkpoint_sha256 != checkpoint.sha256:
        raise BundleError(
            f"{bundle}: found the bundle of another checkpoint, expected that of {checkpoint.path}; export it with "
            f"xaimoe-audio export --ckpt {checkpoint.path}"
        )
    return {
        "bundle_id": manifest.bundle_id,
        "precisions": manifest.precisions,
        "graphs": [
            {"name": graph.name, "precision": graph.precision, "bytes": graph.bytes} for graph in manifest.graphs
        ],
        "conditions": runtime.conditions.device if not runtime.uncalibrated else None,
        "uncalibrated": runtime.uncalibrated,
        "costs": {
            name: {"p50": cost.predict(1, "p50"), "p95": cost.predict(1, "p95"), "p99": cost.predict(1, "p99")}
            for name, cost in runtime.costs.items()
        },
        "budgets": None if curve is None else _points(curve),
    }


def _points(curve: Path) -> list[Any]:
    try:
        points = msgspec.json.decode(curve.read_bytes(), type=list[Point])
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{curve}: cannot be read ({error}); expected what xaimoe-runtime calibrate --data D --curve FILE writes"
        ) from error
    return [msgspec.to_builtins(point) for point in points]
