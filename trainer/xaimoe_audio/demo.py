"""The whole line on one dataset, as a newcomer would walk it."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import msgspec

from xaimoe_audio import run
from xaimoe_audio.classifier import MoEAudioClassifier
from xaimoe_audio.config import Budget
from xaimoe_audio.scenes import CLASSES, write_dataset
from xaimoe_export.folder import check_free, new_folder
from xaimoe_export.possible import is_bundle
from xaimoe_runtime import AudioError, BundleError, ConfigError, Runtime
from xaimoe_runtime.audio import open_recording
from xaimoe_runtime.console import progress, write_records
from xaimoe_runtime.file_lock import lock_folder
from xaimoe_runtime.files import FileClassifier
from xaimoe_runtime.metadata import Row, read_metadata
from xaimoe_runtime.records import ResultRecord, SummaryRecord
from xaimoe_runtime.schema import Routing, TaskKind
from xaimoe_runtime.verify import verify

SCENES_PER_CLASS = 200
SCENE_STEPS = 1000
"""Training steps on sonar scenes, if they lasted five seconds."""
DATASET_STEPS = 2500
"""Training steps on recordings of five seconds; shorter ones make a step cheaper, and get more of them."""
STEP_COST_S = 4.0
"""The fixed cost of a training step, in seconds of clip."""
BATCH_SIZE = 16
SCENES, BUNDLE = "scenes", "bundle"
LOCK = ".demo.lock"


def run_demo(
    dataset: Path | None,
    metadata: Path | None,
    out: Path,
    epochs: int | None,
    budget: Budget,
    device: str,
    seed: int,
    force: bool = False,
) -> str:
    """Trains, exports, verifies and classifies the test split, routed and dense; gives the closing table.

    Raises:
        DatasetError: the dataset cannot be used.
        ConfigError: it has no test split; ``out`` holds an earlier training and ``force`` is false; or another demo
            writes there.
        BundleError: the bundle does not prove itself.
    """
    busy = f"{out}: another demo writes there; wait for it to end, or choose another folder"
    with lock_folder(out, busy, LOCK):
        run.check_free(out, force)
        check_free(out / BUNDLE, is_bundle, force)
        return _run_demo(dataset, metadata, out, epochs, budget, device, seed, force)


def _run_demo(
    dataset: Path | None,
    metadata: Path | None,
    out: Path,
    epochs: int | None,
    budget: Budget,
    device: str,
    seed: int,
    force: bool,
) -> str:
    steps = DATASET_STEPS
    if dataset is None:
        dataset, steps = out / SCENES, SCENE_STEPS
        metadata = _scenes(dataset, seed)
    table = metadata or dataset / "metadata.csv"
    labelled = read_metadata(table, dataset, "multi_label")
    labelled.defects.raise_if_any()
    rows = labelled.rows
    test = {row.path: row for row in rows if row.split == "test"}
    if not test:
        raise ConfigError(f"{table}: found no recording in split test, which the demo classifies")
    task: TaskKind = "multi_label" if any(len(row.labels) > 1 for row in rows) else "single_label"
    classifier = MoEAudioClassifier(task, budget, device=device, seed=seed)
    classifier.fit(dataset, table, epochs or _epochs(rows, steps), BATCH_SIZE, out, force=force)
    bundle = out / BUNDLE
    classifier.export(bundle, force=force)
    runtime = Runtime.load(bundle)
    failed = [found.what for found in verify(runtime) if not found.passed]
    if failed:
        raise BundleError(f"{bundle}: {', '.join(failed)} deviate from the golden answers on {runtime.provider}")
    routed = _classify(runtime, test, "routed", out / "predictions.jsonl")
    dense = _classify(runtime, test, "dense", out / "predictions_dense.jsonl")
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    table_rows = [
        ("", "routed", "dense"),
        ("test accuracy", f"{routed.accuracy:.3f}", f"{dense.accuracy:.3f}"),
        ("latency p50", f"{routed.summary.p50_ms:.2f} ms", f"{dense.summary.p50_ms:.2f} ms"),
        ("latency p95", f"{routed.summary.p95_ms:.2f} ms", f"{dense.summary.p95_ms:.2f} ms"),
        ("share of experts run", f"{routed.summary.pair_share:.1%}", f"{dense.summary.pair_share:.1%}"),
        ("bundle size", f"{size / 1e6:.2f} MB", ""),
    ]
    lines = [f"{name:<22}{left:>12}{right:>12}" for name, left, right in table_rows]
    lines += [f"latency is of one window of {_clip_s(runtime):.1f} s, 1 thread, provider {runtime.provider}", ""]
    lines += [str(out / name) for name in ("best.pt", "bundle", "predictions.jsonl")]
    return "\n".join(lines)


class _Classified(msgspec.Struct, frozen=True):
    accuracy: float
    """Share of recordings with all labels right."""
    summary: SummaryRecord


def _scenes(folder: Path, seed: int) -> Path:
    """Write the scenes; those of an earlier demo, with the same seed the same, stay until the new ones are whole."""
    with (
        new_folder(folder, _are_scenes, force=True) as part,
        progress("making sonar scenes", SCENES_PER_CLASS * len(CLASSES)) as advance,
    ):
        write_dataset(part, SCENES_PER_CLASS, seed=seed, advance=advance)
    return folder / "metadata.csv"


def _are_scenes(folder: Path) -> bool:
    """Return whether a folder holds nothing but what :func:`write_dataset` writes, as far as names tell."""
    return {path.name for path in folder.iterdir()} <= {"audio", "metadata.csv"}


def _epochs(rows: list[Row], steps: int) -> int:
    """Epochs that take about as long as ``steps`` on clips of five seconds, within 20…150."""
    durations = [_duration_s(row.path) for row in rows if row.split == "train"]
    typical = min(median(durations), 5.0) if durations else 5.0
    affordable = steps * (5.0 + STEP_COST_S) / (typical + STEP_COST_S)
    return min(max(round(affordable * BATCH_SIZE / max(len(durations), 1)), 20), 150)


def _duration_s(path: Path) -> float:
    try:
        recording = open_recording(path)
        return float(recording.frames / recording.samplerate)
    except AudioError:
        return 5.0  # reported with all other defects when the dataset is loaded


def _clip_s(runtime: Runtime) -> float:
    return runtime.audio.clip_samples / runtime.audio.sample_rate


def _classify(runtime: Runtime, test: dict[Path, Row], routing: Routing, out: Path) -> _Classified:
    classifier = FileClassifier(runtime, routing=routing)
    with progress(f"classifying, {routing}", len(test)) as advance:
        *records, summary = classifier.records(test, advance)
    write_records([*records, summary], out)
    assert isinstance(summary, SummaryRecord)  # always the last
    results = [record for record in records if isinstance(record, ResultRecord)]
    right = [set(record.labels) == set(test[Path(str(record.path))].labels) for record in results]
    return _Classified(sum(right) / max(len(right), 1), summary)
