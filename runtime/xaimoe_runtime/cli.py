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
from xaimoe_runtime.help_pages import HelpPage, example
from xaimoe_runtime.metadata import Split
from xaimoe_runtime.options import (
    BatchSizeOption,
    BudgetOption,
    BundlePath,
    ChannelOption,
    FiguresOption,
    HopOption,
    ListsOption,
    MaxNoveltyOption,
    MemoryOption,
    MinScoreOption,
    OutOption,
    Paths,
    PercentileOption,
    PoolOption,
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
    pretty_exceptions_enable=False,
    help="Run bundles on a device: classify recordings and streams, check, time and inspect bundles.",
)

app.command(
    cls=HelpPage,
    epilog=example(
        "arecord -f S16_LE -r 48000 | xaimoe-runtime stream bundle - --rate 48000 --only-events",
        "xaimoe-runtime stream bundle call.wav --hop 0.5",
    ),
)(stream)


@app.callback()
def main(version: VersionOption = False) -> None:
    """Options that stand before a command."""


@app.command(
    cls=HelpPage,
    epilog=example(
        "xaimoe-runtime infer bundle recordings --out answers.jsonl --workers 4",
        "xaimoe-runtime infer bundle call.wav --budget-ms 20",
    ),
)
def infer(
    bundle: BundlePath,
    paths: Paths = None,
    lists: ListsOption = None,
    routing: RoutingOption = None,
    channel: ChannelOption = "mix",
    hop: HopOption = None,
    pool: PoolOption = "mean",
    min_score: MinScoreOption = 0.0,
    max_novelty: MaxNoveltyOption = 1.0,
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
    """Classify recordings; write a JSON line for each, then a summary.

    A recording that cannot be used gets an error record, the others are classified, and the exit code is 1.
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
        max_novelty=max_novelty,
        pool=pool,
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


@app.command(
    cls=HelpPage,
    epilog=example(
        "xaimoe-runtime calibrate bundle",
        "xaimoe-runtime calibrate bundle --data dataset --curve curve.json --figure curve.png",
    ),
)
def calibrate(
    bundle: BundlePath,
    rounds: Annotated[
        int, typer.Option(min=50, help="Number of times that each graph is timed, at each batch size.")
    ] = 200,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of a dataset with metadata.csv: also measure how accuracy depends on the budget."),
    ] = None,
    split: Annotated[Split, typer.Option(help="With --data: split of the dataset to use.")] = "test",
    percentile: PercentileOption = "p95",
    curve: Annotated[Path | None, typer.Option(help="With --data: JSON file for the points of the curve.")] = None,
    figure: Annotated[
        Path | None, typer.Option(help="With --data: file for a figure of the curve (.png, .svg, .pdf).")
    ] = None,
    provider: ProviderOption = "auto",
    provider_option: ProviderOptionsOption = None,
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Measure the cost of each graph on this device and store it in the user's cache folder, for --budget-ms.

    The costs hold for this bundle, precision, provider, version of ONNX Runtime, processor and number of threads. Keep
    the device as busy as it is in the field while you measure.
    """
    from xaimoe_runtime import curve as curves
    from xaimoe_runtime.calibration import Calibration, measure, place_of, save
    from xaimoe_runtime.describe import describe_costs
    from xaimoe_runtime.drawing import check_figure
    from xaimoe_runtime.providers import SessionFactory, parse_options
    from xaimoe_runtime.runtime import Runtime
    from xaimoe_runtime.trial import open_and_try

    if data is None and (curve is not None or figure is not None):
        raise ConfigError("calibrate: found --curve or --figure, expected --data with labelled recordings, too")
    if curve is not None:
        check_writable(curve)
    if figure is not None:
        check_figure(figure)
    # Not loaded, which would estimate what is measured here.
    opened = open_and_try(bundle, public_key)
    items = [] if data is None else curves.read_labelled(data, split, opened.manifest.task)
    factory = SessionFactory(provider, threads, parse_options(provider_option), opened.manifest)
    runtime = Runtime(opened, factory, precision)
    check_writable(place_of(runtime.conditions))
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


@app.command(cls=HelpPage, epilog=example("xaimoe-runtime bench bundle recordings --seconds 20"))
def bench(
    bundle: BundlePath,
    paths: Paths = None,
    routing: RoutingOption = None,
    seconds: Annotated[float, typer.Option(min=0, help="Minimum duration of each scenario, in seconds.")] = 10.0,
    queries: Annotated[int, typer.Option(min=1, help="Minimum number of queries of each scenario.")] = 100,
    out: Annotated[Path | None, typer.Option(help="File for the JSON instead of stdout.")] = None,
    provider: ProviderOption = "auto",
    provider_option: ProviderOptionsOption = None,
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Time a bundle on this device in three scenarios of MLPerf Inference: single stream, multi-stream and offline.

    The queries are clips of the given recordings, one of each in turn, or the bundle's synthetic clip if there are
    none. Stdout gets one JSON object, stderr a table.
    """
    from xaimoe_runtime import bench as benching
    from xaimoe_runtime.archive.paths import find_recordings
    from xaimoe_runtime.providers import parse_options
    from xaimoe_runtime.runtime import Runtime

    if out is not None:
        check_writable(out)
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


@app.command(cls=HelpPage, epilog=example("xaimoe-runtime build-engines bundle --precision fp16"))
def build_engines(
    bundle: BundlePath,
    again: Annotated[bool, typer.Option("--again", help="Build again what the cache holds already.")] = False,
    precision: PrecisionOption = "auto",
    provider_option: ProviderOptionsOption = None,
    public_key: PublicKeyOption = None,
) -> None:
    """Build TensorRT engines for this GPU and store them in the user's cache folder, for provider auto and tensorrt.

    This may take minutes. If it is interrupted, the next call builds only the engines that are missing. Engines hold
    for the precision and the provider options that they were built with.
    """
    from xaimoe_runtime import tensorrt
    from xaimoe_runtime.providers import SessionFactory, parse_options
    from xaimoe_runtime.trial import open_and_try

    opened = open_and_try(bundle, public_key)
    factory = SessionFactory("tensorrt", options=parse_options(provider_option))

    def tell(graph: str, seconds: float) -> None:
        typer.echo(f"{graph:<32} {f'{seconds:8.1f} s' if seconds else '    kept'}", err=True)

    typer.echo(tensorrt.build(opened, factory, again, tell, precision))


@app.command(cls=HelpPage, epilog=example("xaimoe-runtime verify bundle --provider cpu"))
def verify(
    bundle: BundlePath,
    provider: ProviderOption = "auto",
    provider_option: ProviderOptionsOption = None,
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Run a bundle on its golden clip and compare the output of every graph; exit code 3 if one deviates.

    With --precision auto, every precision that is meant for the provider is checked.
    """
    from xaimoe_runtime.errors import BundleError
    from xaimoe_runtime.providers import SessionFactory, parse_options
    from xaimoe_runtime.runtime import Runtime
    from xaimoe_runtime.trial import open_and_try
    from xaimoe_runtime.verify import verify as deviations

    opened = open_and_try(bundle, public_key)
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


@app.command(cls=HelpPage, epilog=example("xaimoe-runtime inspect bundle --json"))
def inspect(
    bundle: BundlePath,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
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
