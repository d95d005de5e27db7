"""The device's command line, ``xaimoe-runtime``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from xaimoe_runtime.archive.command import check_figures, check_out, classify_with_bundle, locally
from xaimoe_runtime.console import CommandGroup, VersionOption, progress, write_json
from xaimoe_runtime.decoder_noise import private_streams
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
    clips = benching.clips_of(runtime, find_recordings(paths).paths if paths else [])
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
    with private_streams():
        sys.exit(app())
