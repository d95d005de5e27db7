"""The whole line on one dataset, as a newcomer would walk it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import msgspec

from xaimoe_audio.classifier import MoEAudioClassifier
from xaimoe_audio.config import Budget
from xaimoe_audio.scenes import CLASSES, write_dataset
from xaimoe_runtime import BundleError, Runtime
from xaimoe_runtime.bundle import MANIFEST
from xaimoe_runtime.console import progress, write_records
from xaimoe_runtime.errors import ConfigError, DatasetError
from xaimoe_runtime.files import FileClassifier
from xaimoe_runtime.schema import Record, ResultRecord, Routing, SummaryRecord
from xaimoe_runtime.verify import verify

SCENES_PER_CLASS = 60
SCENE_STEPS = 1200
"""Training steps on sonar scenes."""
DATASET_STEPS = 1800
"""Training steps on a dataset whose clips are about five seconds long; shorter ones get more, since a step costs
less."""
BATCH_SIZE = 16


def run_demo(
    dataset: Path | None, metadata: Path | None, out: Path, epochs: int | None, budget: Budget, device: str, seed: int
) -> str:
    """Trains, exports, verifies and classifies the test split, routed and dense; gives the closing table.

    Raises:
        DatasetError: the dataset cannot be used.
        BundleError: the bundle does not prove itself.
    """
    steps = DATASET_STEPS
    if dataset is None:
        dataset, steps = out / "scenes", SCENE_STEPS
        metadata = _scenes(dataset, seed)
    table = metadata or dataset / "metadata.csv"
    classifier = MoEAudioClassifier("single_label", budget, device, seed=seed)
    classifier.fit(dataset, table, epochs or _epochs(table, steps), BATCH_SIZE, out)
    bundle = out / "bundle"
    if (bundle / MANIFEST).is_file():
        shutil.rmtree(bundle)
    classifier.export(bundle)
    runtime = Runtime.load(bundle)
    failed = [found.what for found in verify(runtime) if not found.passed]
    if failed:
        raise BundleError(f"{bundle}: {', '.join(failed)} deviate from the golden answers on {runtime.provider}")
    truth = _truth(table, dataset)
    routed = _classify(runtime, truth, "routed", out / "predictions.jsonl")
    dense = _classify(runtime, truth, "dense", out / "predictions_dense.jsonl")
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    rows = [
        ("", "routed", "dense"),
        ("test accuracy", f"{routed.accuracy:.3f}", f"{dense.accuracy:.3f}"),
        ("latency p50", f"{routed.summary.p50_ms:.2f} ms", f"{dense.summary.p50_ms:.2f} ms"),
        ("latency p95", f"{routed.summary.p95_ms:.2f} ms", f"{dense.summary.p95_ms:.2f} ms"),
        ("share of experts run", f"{routed.summary.pair_share:.1%}", f"{dense.summary.pair_share:.1%}"),
        ("bundle size", f"{size / 1e6:.2f} MB", ""),
    ]
    lines = [f"{name:<22}{left:>12}{right:>12}" for name, left, right in rows]
    lines += [f"latency is of one window, 1 thread, provider {runtime.provider}", ""]
    lines += [str(out / name) for name in ("best.pt", "bundle", "predictions.jsonl")]
    return "\n".join(lines)


class _Classified(msgspec.Struct, frozen=True):
    accuracy: float
    summary: SummaryRecord


def _scenes(folder: Path, seed: int) -> Path:
    with progress("making sonar scenes", SCENES_PER_CLASS * len(CLASSES)) as advance:
        return write_dataset(folder, SCENES_PER_CLASS, seed=seed, advance=advance)


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.is_file():
        raise DatasetError(f"{table}: no such file; expected a CSV table with the columns filepath,split,label")
    with table.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _epochs(table: Path, steps: int) -> int:
    """Epochs that make up ``steps`` on the table's training split, within 20…150."""
    clips = sum(row.get("split", "").strip() == "train" for row in _rows(table))
    return min(max(round(steps * BATCH_SIZE / max(clips, 1)), 20), 150)


def _truth(table: Path, dataset: Path) -> dict[Path, str]:
    """The label of each test recording."""
    truth = {
        dataset / row["filepath"].strip(): row["label"].strip()
        for row in _rows(table)
        if row["split"].strip() == "test"
    }
    if not truth:
        raise ConfigError(f"{table}: found no recording in split test, which the demo classifies")
    return truth


def _classify(runtime: Runtime, truth: dict[Path, str], routing: Routing, out: Path) -> _Classified:
    classifier = FileClassifier(runtime, routing)
    records: list[Record] = []
    with progress(f"classifying, {routing}", len(truth)) as advance:
        records += classifier.records(truth, advance)
    write_records(records, out)
    right = [record.labels == (truth[Path(record.path)],) for record in records if isinstance(record, ResultRecord)]
    return _Classified(sum(right) / len(right), classifier.summary())
