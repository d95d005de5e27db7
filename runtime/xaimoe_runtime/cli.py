"""The device's command line, ``xaimoe-runtime``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from xaimoe_runtime.console import CommandGroup, VersionOption, progress, write_records
from xaimoe_runtime.options import (
    BudgetOption,
    BundlePath,
    ChannelOption,
    HopOption,
    MinScoreOption,
    OutOption,
    Paths,
    PercentileOption,
    PrecisionOption,
    ProviderOption,
    PublicKeyOption,
    RoutingOption,
    ThreadsOption,
    WindowsOption,
)
from xaimoe_runtime.result import Engine
from xaimoe_runtime.schema import Routing
from xaimoe_runtime.streams.command import stream

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


def classify(
    engine: Engine,
    paths: list[Path],
    routing: Routing,
    channel: str,
    hop: float | None,
    min_score: float,
    windows: bool,
    out: Path | None,
    budget_ms: float | None = None,
) -> None:
    """Answers for all recordings, with a progress bar; exit code 1 if some failed."""
    from xaimoe_runtime.files import FileClassifier, find_recordings

    typer.echo(f"{engine.name}: provider {engine.provider}", err=True)
    classifier = FileClassifier(engine, routing, channel, hop, min_score, windows, budget_ms)
    found = find_recordings(paths)
    with progress("classifying", len(found)) as advance:
        errors = write_records(classifier.records(found, advance), out)
    if errors:
        raise typer.Exit(1)


@app.command()
def infer(
    bundle: BundlePath,
    paths: Paths,
    routing: RoutingOption = "routed",
    channel: ChannelOption = "mix",
    hop: HopOption = None,
    min_score: MinScoreOption = 0.0,
    windows: WindowsOption = False,
    out: OutOption = None,
    budget_ms: BudgetOption = None,
    percentile: PercentileOption = "p95",
    provider: ProviderOption = "auto",
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Classify recordings; one JSON line for each, then a summary.

    A recording that cannot be used gets an error record and the rest goes on; the exit code is then 1.
    """
    from xaimoe_runtime.budget import for_each
    from xaimoe_runtime.runtime import Runtime

    runtime = Runtime.load(bundle, provider, threads, precision, public_key)
    engine: Engine = runtime
    if budget_ms is not None:
        engine = runtime.within(for_each(budget_ms), percentile)
        if runtime.uncalibrated:
            typer.echo(f"costs are an estimate: {runtime.uncalibrated}", err=True)
    classify(engine, paths, routing, channel, hop, min_score, windows, out, budget_ms)


@app.command()
def calibrate(
    bundle: BundlePath,
    rounds: Annotated[int, typer.Option(min=20, help="How often each graph is timed at each batch size.")] = 200,
    provider: ProviderOption = "auto",
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Measure what each graph costs on this device, and keep that in the user's cache folder for --budget-ms.

    It holds for this bundle, precision, provider, version of ONNX Runtime, processor and number of threads. Let the
    device do meanwhile what it does in the field.
    """
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.calibration import Calibration, measure, save
    from xaimoe_runtime.describe import describe_costs
    from xaimoe_runtime.providers import SessionFactory
    from xaimoe_runtime.runtime import Runtime

    # Not loaded, which would estimate what is measured here.
    runtime = Runtime(Bundle.open(bundle, public_key), SessionFactory(provider, threads), precision)
    with progress("calibrating", rounds + 1) as advance:
        costs = measure(runtime.dispatcher, runtime.bundle.golden, rounds=rounds, advance=advance)
    path = save(Calibration(conditions=runtime.conditions, rounds=rounds, costs=costs))
    typer.echo(describe_costs(costs))
    typer.echo(f"kept for {runtime.provider}, {runtime.precision}, {threads} thread(s): {path}", err=True)


@app.command()
def verify(
    bundle: BundlePath,
    provider: ProviderOption = "auto",
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Feed a bundle its golden clip and compare every graph's answer; exit code 3 if one deviates.

    With precision auto, every one that is meant for the provider is proven.
    """
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.errors import BundleError
    from xaimoe_runtime.providers import SessionFactory
    from xaimoe_runtime.runtime import Runtime
    from xaimoe_runtime.verify import verify as deviations

    opened, factory = Bundle.open(bundle, public_key), SessionFactory(provider, threads)
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
    import msgspec

    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.describe import describe

    manifest = Bundle.open(bundle, public_key).manifest
    typer.echo(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode() if json else describe(manifest))


def run() -> None:
    """Entry point of the console script."""
    sys.exit(app())
