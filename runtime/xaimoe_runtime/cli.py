"""The device's command line, ``xaimoe-runtime``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from xaimoe_runtime.console import CommandGroup, VersionOption, progress, write_json, write_records
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.options import (
    BatchSizeOption,
    BudgetOption,
    BundlePath,
    ChannelOption,
    FiguresOption,
    HopOption,
    ListsOption,
    MemoryOption,
    MinScoreOption,
    OutOption,
    Paths,
    PercentileOption,
    PrecisionOption,
    ProviderOption,
    ProviderOptionsOption,
    PublicKeyOption,
    ResumeOption,
    RoutingOption,
    ThreadsOption,
    TopKOption,
    TraceOption,
    WindowsOption,
    WorkersOption,
)
from xaimoe_runtime.streams.command import stream
from xaimoe_runtime.writing import check_writable, replacing

if TYPE_CHECKING:
    from xaimoe_runtime.archive.run import Answers, OpenBundle
    from xaimoe_runtime.files import FileClassifier, FileOptions
    from xaimoe_runtime.runtime import Runtime

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run bundles on a device: routed inference, proof of a bundle, and what is in it.",
)

app.command()(stream)


@app.callback()
def main(version: VersionOption = False) -> None:
    """Options that stand before a command."""


Answering = Callable[["FileClassifier", "OpenBundle"], "Answers"]
"""Chooses who answers: this process with its classifier, or others that open the bundle themselves."""


def classify_with_bundle(
    make: OpenBundle,
    found: list[Path],
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
            draw(runtime, found, figures, make.options)
        raise
    if figures is not None:
        draw(runtime, found, figures, make.options)


def classify(
    classifier: FileClassifier,
    answers: Answers,
    found: list[Path],
    out: Path | None,
    resume: bool,
    identity: dict[str, Any],
) -> None:
    """Answers for all recordings, with a progress bar; exit code 1 if some failed."""
    from xaimoe_runtime.archive import run

    typer.echo(f"{classifier.engine.name}: provider {classifier.engine.provider}", err=True)
    with progress("classifying", len(found)) as advance:
        if out is None:
            errors = write_records(run.stream_records(classifier, answers, found, advance), None)
        else:
            try:
                summary = run.write_records(classifier, answers, found, advance, out, identity, resume)
            except KeyboardInterrupt:
                typer.echo(f"{out}: what was done is kept beside it; --resume goes on", err=True)
                raise
            errors = summary.errors
    if out is not None and out.suffix.lower() != ".jsonl":  # a table has no row for it
        typer.echo(msgspec.json.encode(summary).decode(), err=True)
    if errors:
        raise typer.Exit(1)


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
    from xaimoe_runtime.errors import AudioError, XaimoeError
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


@app.command()
def infer(
    bundle: BundlePath,
    paths: Paths = None,
    lists: ListsOption = None,
    routing: RoutingOption = "routed",
    channel: ChannelOption = "mix",
    hop: HopOption = None,
    min_score: MinScoreOption = 0.0,
    windows: WindowsOption = False,
    trace: TraceOption = False,
    figures: FiguresOption = None,
    top_k: TopKOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    workers: WorkersOption = 1,
    batch_size: BatchSizeOption = 1,
    memory_mb: MemoryOption = None,
    budget_ms: BudgetOption = None,
    percentile: PercentileOption = "p95",
    provider: ProviderOption = "auto",
    provider_option: ProviderOptionsOption = None,
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Classify recordings; one JSON line for each, then a summary.

    A recording that cannot be used gets an error record and the rest goes on; the exit code is then 1.
    """
    from xaimoe_runtime.archive.paths import find_recordings
    from xaimoe_runtime.archive.run import OpenBundle
    from xaimoe_runtime.files import FileOptions
    from xaimoe_runtime.providers import parse_options

    check_out(out, resume, trace)
    check_figures(figures, trace, channel, budget_ms)
    options = FileOptions(
        routing=routing,
        channel=channel,
        hop_s=hop,
        min_score=min_score,
        windows=windows,
        budget_ms=budget_ms,
        batch_size=batch_size,
        top_k=top_k,
        trace=trace,
    )
    opened_with = parse_options(provider_option)
    make = OpenBundle(bundle, options, percentile, provider, threads, precision, public_key, opened_with, memory_mb)
    found = find_recordings(paths or [], lists or [])
    classify_with_bundle(make, found, out, resume, locally(workers), figures)


@app.command()
def calibrate(
    bundle: BundlePath,
    rounds: Annotated[int, typer.Option(min=50, help="How often each graph is timed at each batch size.")] = 200,
    data: Annotated[
        Path | None,
        typer.Option(help="A dataset's folder (metadata.csv, recordings): show what a budget costs in accuracy, too."),
    ] = None,
    split: Annotated[str, typer.Option(help="With --data: which recordings.")] = "test",
    percentile: PercentileOption = "p95",
    curve: Annotated[Path | None, typer.Option(help="With --data: write the points here, as JSON.")] = None,
    figure: Annotated[Path | None, typer.Option(help="With --data: draw them here (.png, .svg, .pdf).")] = None,
    provider: ProviderOption = "auto",
    provider_option: ProviderOptionsOption = None,
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Measure what each graph costs on this device, and keep that in the user's cache folder for --budget-ms.

    It holds for this bundle, precision, provider, version of ONNX Runtime, processor and number of threads. Let the
    device do meanwhile what it does in the field.
    """
    from xaimoe_runtime import curve as curves
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.calibration import Calibration, measure, save
    from xaimoe_runtime.describe import describe_costs
    from xaimoe_runtime.drawing import check_figure
    from xaimoe_runtime.providers import SessionFactory, parse_options
    from xaimoe_runtime.runtime import Runtime

    if data is None and (curve is not None or figure is not None):
        raise ConfigError("calibrate: found --curve or --figure, expected --data with labelled recordings, too")
    if curve is not None:
        check_writable(curve)
    if figure is not None:
        check_figure(figure)
    items = [] if data is None else curves.read_labelled(data, split)
    # Not loaded, which would estimate what is measured here.
    opened = Bundle.open(bundle, public_key)
    factory = SessionFactory(provider, threads, parse_options(provider_option), opened.manifest)
    runtime = Runtime(opened, factory, precision)
    with progress("calibrating", rounds + 1) as advance:
        costs = measure(runtime.dispatcher, runtime.bundle.golden, rounds=rounds, advance=advance)
    path = save(Calibration(conditions=runtime.conditions, rounds=rounds, costs=costs))
    typer.echo(describe_costs(costs))
    typer.echo(f"kept for {runtime.provider}, {runtime.precision}, {threads} thread(s): {path}", err=True)
    if not items:
        return
    failed: list[AudioError] = []
    with progress("trying budgets", len(items)) as advance:
        points = curves.measure(runtime, items, percentile, advance, failed.append)
    typer.echo(curves.describe(points, len(items) - len(failed)))
    if curve is not None:
        with replacing(curve) as file:
            file.write(msgspec.json.format(msgspec.json.encode(points)))
    if figure is not None:
        curves.draw(points, figure)
    for error in failed:
        typer.echo(f"left out: {error}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def bench(
    bundle: BundlePath,
    paths: Paths = None,
    routing: RoutingOption = "routed",
    seconds: Annotated[float, typer.Option(min=0, help="That each scenario lasts at least.")] = 10.0,
    queries: Annotated[int, typer.Option(min=1, help="That each scenario has at least.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here instead of to stdout.")] = None,
    provider: ProviderOption = "auto",
    provider_option: ProviderOptionsOption = None,
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Time a bundle on this device: single stream, multi-stream and offline, as MLPerf Inference has them.

    Recordings are the clips, one of each, taken in turn; without any it is the bundle's own synthetic clip. The numbers
    are one JSON object, the table goes to stderr.
    """
    from xaimoe_runtime import bench as benching
    from xaimoe_runtime.archive.paths import find_recordings
    from xaimoe_runtime.providers import parse_options
    from xaimoe_runtime.runtime import Runtime

    runtime = Runtime.load(bundle, provider, threads, precision, public_key, parse_options(provider_option))
    clips = benching.clips_of(runtime, find_recordings(paths, []) if paths else [])
    with progress("timing", len(benching.SCENARIOS)) as advance:
        report = benching.bench(runtime, clips, routing, seconds, queries, advance)
    typer.echo(benching.describe(report), err=True)
    if out is None:
        write_json(msgspec.to_builtins(report))
    else:
        with replacing(out) as file:
            file.write(msgspec.json.format(msgspec.json.encode(report)))


@app.command()
def build_engines(
    bundle: BundlePath,
    again: Annotated[bool, typer.Option("--again", help="Build those that are kept, too.")] = False,
    precision: PrecisionOption = "auto",
    provider_option: ProviderOptionsOption = None,
    public_key: PublicKeyOption = None,
) -> None:
    """Build TensorRT's engines for this GPU and keep them in the user's cache folder, for provider auto and tensorrt.

    It may take minutes; one that is interrupted goes on with the graphs that are left. Engines hold for the precision
    and the options that they were built with.
    """
    from xaimoe_runtime import tensorrt
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.providers import SessionFactory, parse_options

    opened = Bundle.open(bundle, public_key)
    factory = SessionFactory("tensorrt", options=parse_options(provider_option))

    def tell(graph: str, seconds: float) -> None:
        typer.echo(f"{graph:<32} {f'{seconds:8.1f} s' if seconds else '    kept'}", err=True)

    typer.echo(tensorrt.build(opened, factory, again, tell, precision))


@app.command()
def verify(
    bundle: BundlePath,
    provider: ProviderOption = "auto",
    provider_option: ProviderOptionsOption = None,
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Feed a bundle its golden clip and compare every graph's answer; exit code 3 if one deviates.

    With precision auto, every one that is meant for the provider is proven.
    """
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.errors import BundleError
    from xaimoe_runtime.providers import SessionFactory, parse_options
    from xaimoe_runtime.runtime import Runtime
    from xaimoe_runtime.verify import verify as deviations

    opened = Bundle.open(bundle, public_key)
    factory = SessionFactory(provider, threads, parse_options(provider_option), opened.manifest)
    runtimes = [Runtime(opened, factory, precision)]
    if precision == "auto":
        others = opened.manifest.precisions_for(factory.provider)[1:]
        runtimes += [Runtime(opened, factory, other) for other in others]
    failed = []
    for runtime in runtimes:
        for deviation in deviations(runtime):
            mark = "ok  " if deviation.passed else "FAIL"
            what = f"{runtime.precision} {deviation.what}"
            typer.echo(f"{mark} {what:<53} {deviation.found:.2e}  (at most {deviation.tolerance:.0e})")
            failed += [] if deviation.passed else [what]
    if failed:
        raise BundleError(
            f"{bundle}: {', '.join(failed)} deviate from the golden answers on provider {factory.provider}; "
            "do not use the bundle there"
        )
    proven = ", ".join(runtime.precision for runtime in runtimes)
    typer.echo(f"{bundle}: verified on provider {factory.provider}, {proven}")


@app.command()
def inspect(
    bundle: BundlePath,
    json: Annotated[bool, typer.Option("--json", help="The manifest as JSON.")] = False,
    public_key: PublicKeyOption = None,
) -> None:
    """Show what is in a bundle, without running it."""
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.describe import describe

    manifest = Bundle.open(bundle, public_key).manifest
    typer.echo(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode() if json else describe(manifest))


def run() -> None:
    """Entry point of the console script."""
    sys.exit(app())
