"""A whole run over an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from xaimoe_runtime import __version__
from xaimoe_runtime.archive import tables
from xaimoe_runtime.archive.parts import Parts
from xaimoe_runtime.archive.paths import FoundRecordings
from xaimoe_runtime.archive.pool import Make, classify_all
from xaimoe_runtime.budget import for_each
from xaimoe_runtime.costs import Percentile
from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.files import Classified, FileClassifier, FileOptions
from xaimoe_runtime.memory import cap_memory
from xaimoe_runtime.records import Record, SummaryRecord
from xaimoe_runtime.result import Engine
from xaimoe_runtime.runtime import Runtime
from xaimoe_runtime.schema import PrecisionChoice
from xaimoe_runtime.tally import Tally

Advance = Callable[[], None]
Answers = Callable[[Sequence[Path]], Iterator[tuple[Path, Classified]]]
"""Gives what is made of each file, in their order."""


@dataclass(frozen=True)
class OpenBundle:
    """Opens a bundle and makes what classifies files with it, in this process or in another."""

    bundle: Path
    options: FileOptions
    percentile: Percentile = "p95"
    provider: str = "auto"
    threads: int = 1
    precision: PrecisionChoice = "auto"
    public_key: Path | None = None
    provider_options: dict[str, str] | None = None
    memory_mb: int | None = None
    """That a process which classifies may hold."""
    digest: str = ""
    """Of the manifest that the run began with; a bundle that was replaced since is refused."""

    def __call__(self) -> FileClassifier:
        """Loads the bundle, and makes the classifier; then this process has the memory cap.

        Raises:
            BundleError, ConfigError, ProviderError: as ``Runtime.load``, and for options that make no sense.
        """
        classifier = self.on(self.load())
        if self.memory_mb is not None:
            cap_memory(self.memory_mb)
        return classifier

    def load(self) -> Runtime:
        """The bundle, loaded."""
        runtime = Runtime.load(
            self.bundle, self.provider, self.threads, self.precision, self.public_key, self.provider_options
        )
        if self.digest not in ("", runtime.manifest.digest):
            raise BundleError(
                f"{self.bundle}: found another bundle than the run began with; put that back and go on with --resume, "
                "or begin anew"
            )
        return runtime

    def on(self, runtime: Runtime) -> FileClassifier:
        """What classifies with a runtime."""
        engine: Engine = runtime
        if self.options.budget_ms is not None:
            engine = runtime.within(for_each(self.options.budget_ms), self.percentile)
        return FileClassifier(engine, self.options)


def fingerprint(
    classifier: FileClassifier,
    model: str,
    precision: str = "fp32",
    percentile: Percentile = "p95",
    provider_options: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What the answers of a run depend on. ``model`` is a digest of the bundle or checkpoint."""
    return {
        "version": __version__,
        "model": model,
        "provider": classifier.engine.provider,
        "provider_options": provider_options or {},
        "precision": precision,
        "percentile": percentile,
        **msgspec.to_builtins(classifier.options),
    }


def here(classifier: FileClassifier) -> Answers:
    """Answers of this process."""
    return lambda paths: ((path, classifier.classify(path)) for path in paths)


def by_processes(make: Make, workers: int) -> Answers:
    """Answers of so many processes, each of which makes its classifier."""
    return lambda paths: classify_all(make, paths, workers)


def stream_records(
    classifier: FileClassifier, answers: Answers, found: FoundRecordings, advance: Advance
) -> Iterator[Record]:
    """Yield the records of all files as they come about, then the summary."""
    total = Tally()
    for _, classified in answers(found.paths):
        total.add(classified.tally)
        yield from classified.records
        advance()
    yield msgspec.structs.replace(classifier.summary(total), skipped=dict(found.skipped))


def write_records(
    classifier: FileClassifier,
    answers: Answers,
    found: FoundRecordings,
    advance: Advance,
    out: Path,
    fingerprint: dict[str, Any],
    resume: bool,
) -> SummaryRecord:
    """Writes the records of all files to ``out``; gives the summary.

    What was done lies in ``OUT.parts`` until all is, however the run ends; with ``resume`` a run goes on from there.

    Raises:
        ConfigError: ``out`` cannot be written, or its parts are of another run.
        ProviderError: a package for the format is missing.
    """
    tables.check_format(out)
    paths = found.paths
    parts = Parts(out, fingerprint, resume)
    try:
        left = []
        for path in paths:
            if parts.done(path):
                advance()
            else:
                left.append(path)
        try:
            for path, classified in answers(left):
                parts.add(path, classified)
                advance()
        finally:
            parts.flush()
        summary = msgspec.structs.replace(classifier.summary(parts.tally(paths)), skipped=dict(found.skipped))

        def every() -> Iterator[Record]:
            yield from parts.records(paths)
            yield summary

        tables.write(every(), classifier.engine.task.labels, out)
    except BaseException:
        parts.close()
        raise
    parts.remove()
    return summary
