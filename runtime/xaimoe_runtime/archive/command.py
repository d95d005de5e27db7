"""What the commands that classify recordings share: from what was asked for to records, figures and an exit code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import typer

from xaimoe_runtime.console import progress, write_records
from xaimoe_runtime.errors import AudioError, ConfigError, XaimoeError

if TYPE_CHECKING:
    from xaimoe_runtime.archive.paths import FoundRecordings
    from xaimoe_runtime.archive.run import Answers, OpenBundle
    from xaimoe_runtime.files import Classified, FileClassifier, FileOptions
    from xaimoe_runtime.records import Record
    from xaimoe_runtime.runtime import Runtime

Answering = Callable[["FileClassifier", "OpenBundle"], "Answers"]
"""Chooses who answers: this process with its classifier, or others that open the bundle themselves."""


MAX_WARNINGS = 20
"""Recordings whose warnings are repeated on stderr."""


def classify_with_bundle(
    make: OpenBundle,
    found: FoundRecordings,
    out: Path | None,
    resume: bool,
    answering: Answering,
    figures: Path | None = None,
) -> None:
    """As :func:`classify`, with a bundle; then figures, if a folder is given for them."""
    from xaimoe_runtime.archive.run import fingerprint

    runtime = make.load()
    if make.options.budget_ms is not None and runtime.uncalibrated:
        typer.echo(f"costs are an estimate: {runtime.uncalibrated}", err=True)
    classifier, digest = make.on(runtime), runtime.manifest.digest
    identity = fingerprint(classifier, digest, runtime.precision, make.percentile, make.provider_options)
    try:
        classify(classifier, answering(classifier, replace(make, digest=digest)), found, out, resume, identity)
    except typer.Exit:  # some failed; the others have figures nevertheless
        if figures is not None:
            draw(runtime, found.paths, figures, make.options)
        raise
    if figures is not None:
        draw(runtime, found.paths, figures, make.options)


def classify(
    classifier: FileClassifier,
    answers: Answers,
    found: FoundRecordings,
    out: Path | None,
    resume: bool,
    identity: dict[str, Any],
) -> None:
    """Answers for all recordings, with a progress bar; exit code 1 if some failed or are incomplete."""
    from xaimoe_runtime.archive import run
    from xaimoe_runtime.archive.paths import describe_skipped
    from xaimoe_runtime.inference import skip_warning

    typer.echo(f"{classifier.engine.name}: provider {classifier.engine.provider}", err=True)
    if found.skipped:
        typer.echo(f"not taken from folders: {describe_skipped(found.skipped)}", err=True)
    if long_hop := skip_warning(classifier.hop, classifier.engine.audio):
        typer.echo(long_hop, err=True)
    warned = ChannelWarnings()
    answers = warned.noting(answers)
    with progress("classifying", len(found.paths)) as advance:
        if out is None:
            errors = write_records(run.stream_records(classifier, answers, found, advance), None)
        else:
            try:
                summary = run.write_records(classifier, answers, found, advance, out, identity, resume)
            except KeyboardInterrupt:
                typer.echo(f"{out}: what was done is kept beside it; --resume goes on", err=True)
                raise
            errors = summary.errors + summary.incomplete
    warned.write()
    if out is not None and out.suffix.lower() != ".jsonl":  # a table has no row for it
        typer.echo(msgspec.json.encode(summary).decode(), err=True)
    if errors:
        raise typer.Exit(1)


class ChannelWarnings:
    """The warnings of channels on their way into records, for stderr at the end of a run."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.more = 0

    def noting(self, answers: Answers) -> Answers:
        """Return the same answers, with their warnings noted as they come."""

        def noted(paths: Sequence[Path]) -> Iterator[tuple[Path, Classified]]:
            for path, classified in answers(paths):
                for record in classified.records:
                    self._note(record)
                yield path, classified

        return noted

    def write(self) -> None:
        """Write them to stderr; of many, the first and how many more."""
        for line in self.lines:
            typer.echo(line, err=True)
        if self.more:
            typer.echo(f"{self.more} more recordings with warnings; see their records", err=True)

    def _note(self, record: Record) -> None:
        warnings: Sequence[str] = getattr(record, "warnings", ())
        if warnings and len(self.lines) >= MAX_WARNINGS:
            self.more += 1
        elif warnings:
            self.lines.append(f"{getattr(record, 'path', '')}: {'; '.join(warnings)}")


def locally(workers: int) -> Answering:
    """This process answers, or so many others on this machine. Under a cap on memory it is others: libraries that are
    refused memory may end the process, which then costs one recording and not the run."""
    from xaimoe_runtime.archive.run import by_processes, here

    def answering(classifier: FileClassifier, make: OpenBundle) -> Answers:
        return here(classifier) if workers == 1 and make.memory_mb is None else by_processes(make, workers)

    return answering


def check_out(out: Path | None, resume: bool, trace: bool) -> None:
    """Raises ConfigError for ``--resume`` without ``--out``, and for traces in a table."""
    if resume and out is None:
        raise ConfigError("--resume: found no --out, expected the file of the run to go on with")
    if trace and out is not None and out.suffix.lower() != ".jsonl":
        raise ConfigError(f"--trace: found {out}, expected a file ending in .jsonl; a table has no room for traces")


def check_figures(figures: Path | None, trace: bool, channel: str, budget_ms: float | None) -> None:
    """Raises ConfigError for ``--figures`` that cannot be drawn, before anything is done."""
    if figures is None:
        return
    if not trace:
        raise ConfigError("--figures: found no --trace, expected both: figures show what a trace tells")
    if budget_ms is not None:
        raise ConfigError("--figures: found --budget-ms, expected none: figures show all pairs that the router chose")
    if channel == "each":
        raise ConfigError("--figures: found --channel each, expected mix or the number of a channel")
    from xaimoe_runtime.drawing import new_figure

    new_figure(1, 1)  # matplotlib is there


def draw(runtime: Runtime, found: list[Path], folder: Path, options: FileOptions) -> None:
    """Figures of all recordings; what cannot be used is left to the records to tell."""
    from xaimoe_runtime.illustrate import illustrate, stems

    with progress("drawing", len(found)) as advance:
        for path, stem in zip(found, stems(found), strict=True):
            try:
                illustrate(runtime, path, stem, folder, options.routing, options.channel, options.hop_s)
            except AudioError:
                pass
            except XaimoeError:
                raise
            except Exception as error:  # noqa: BLE001  one file does not end the rest
                typer.echo(f"{path}: no figure ({type(error).__name__}: {error})", err=True)
            advance()
