"""The product's command line, ``xaimoe-audio``."""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from xaimoe_audio import options
from xaimoe_audio.config import Budget, ExplanationMethod, Split
from xaimoe_runtime import cli as device_cli
from xaimoe_runtime import options as device_options
from xaimoe_runtime.archive import command as archives
from xaimoe_runtime.console import CommandGroup, VersionOption, write_json
from xaimoe_runtime.decoder_noise import private_streams
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.schema import PrecisionChoice

if TYPE_CHECKING:
    from xaimoe_audio.classifier import MoEAudioClassifier

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train a saliency-routed mixture of experts on recordings, export it for a device, and classify with it.",
)
app.add_typer(device_cli.app, name="device", help="The device's own commands, as `xaimoe-runtime` has them.")

TRAINING_PACKAGES = (
    "torch",
    "torchaudio",
    "lightning",
    "torchmetrics",
    "pandas",
    "sklearn",
    "matplotlib",
    "onnx",
    "onnxscript",
    "onnxslim",
)


def _need_training_packages() -> None:
    """Names the command that installs what is missing."""
    if any(find_spec(package) is None for package in TRAINING_PACKAGES):
        raise ConfigError(
            'this command needs the training packages; install them with: pip install "xai-moe-audio[train,cpu]"'
        )


def _classifier() -> type[MoEAudioClassifier]:
    """The classifier's class, or the command that installs what it needs."""
    _need_training_packages()
    from xaimoe_audio.classifier import MoEAudioClassifier

    return MoEAudioClassifier


@app.callback()
def main(version: VersionOption = False) -> None:
    """Options that stand before a command."""


@app.command()
def profile(
    dataset: options.DatasetOption,
    out: Annotated[Path, typer.Option(help="Folder for profile.json, profile.csv and profile.png.")],
    metadata: options.MetadataOption = None,
    task: options.TaskOption = "single_label",
    channel: device_options.ChannelOption = "mix",
) -> None:
    """Measure a dataset: rates, bands, noise, classes, and what a model could cheat with; a summary on stdout."""
    _need_training_packages()
    from xaimoe_audio.profiling import profile_dataset
    from xaimoe_audio.profiling.report import describe, write_profile

    profiled = profile_dataset(dataset, metadata or dataset / "metadata.csv", task, channel)
    typer.echo(describe(profiled.profile))
    write_profile(profiled, out)
    if profiled.unreadable:
        raise typer.Exit(AudioError.exit_code)


@app.command()
def train(
    dataset: options.DatasetOption,
    out: Annotated[Path, typer.Option(help="Run folder.")],
    metadata: options.MetadataOption = None,
    epochs: options.EpochsOption = 60,
    batch_size: options.BatchSizeOption = 16,
    task: options.TaskOption = "single_label",
    budget: Annotated[Budget, typer.Option(help="The larger or the smaller of two model sizes.")] = "accuracy",
    auto_config: options.AutoConfigOption = True,
    device: options.DeviceOption = "auto",
    explainability: Annotated[
        Literal["gradcam"] | None, typer.Option(help="Explanations of eight test recordings, under OUT/explain.")
    ] = None,
    channel: device_options.ChannelOption = "mix",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from last.pt in the run folder.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier training in the run folder once this one is whole.")
    ] = False,
    sample_rate: options.SampleRateOption = None,
    fmin: options.FminOption = None,
    fmax: options.FmaxOption = None,
    spectrogram: options.SpectrogramOption = None,
    experts: options.ExpertsOption = None,
    k_max: options.KMaxOption = None,
    tile: options.TileOption = None,
    stride: options.StrideOption = None,
    clip_s: options.ClipOption = None,
    expert_width: options.WidthOption = None,
    learning_rate: options.RateOption = None,
    saliency_teacher: options.SaliencyTeacherOption = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Another audio classifier as an ONNX file, to learn from as well.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Processes that train together on this machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that train together, each running this command.")] = 1,
    seed: options.SeedOption = 0,
) -> None:
    """Train on a folder of labelled recordings."""
    overrides = options.overrides(
        sample_rate=sample_rate,
        fmin=fmin,
        fmax=fmax,
        spectrogram=spectrogram,
        experts=experts,
        k_max=k_max,
        tile=tile,
        stride=stride,
        clip_s=clip_s,
        expert_width=expert_width,
        learning_rate=learning_rate,
        saliency_teacher=saliency_teacher,
        seed=seed,
    )
    classifier = _classifier()(task, budget, auto_config, device, explainability, **overrides)
    classifier.fit(
        *(dataset, metadata, epochs, batch_size, out, channel, resume, devices, nodes), teacher=teacher, force=force
    )
    typer.echo(f"wrote {out / 'best.pt'}", err=True)


@app.command()
def tune(
    dataset: options.DatasetOption,
    out: Annotated[Path, typer.Option(help="Folder of the search; one that is there is gone on with.")],
    metadata: options.MetadataOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Trainings there are to be in the end.")] = 20,
    epochs: options.EpochsOption = 60,
    batch_size: options.BatchSizeOption = 16,
    task: options.TaskOption = "single_label",
    budget: Annotated[Budget, typer.Option(help="What counts more in the end, score or compute.")] = "accuracy",
    device: options.DeviceOption = "auto",
    auto_config: options.AutoConfigOption = True,
    channel: device_options.ChannelOption = "mix",
    sample_rate: options.SampleRateOption = None,
    fmin: options.FminOption = None,
    fmax: options.FmaxOption = None,
    spectrogram: options.SpectrogramOption = None,
    experts: options.ExpertsOption = None,
    k_max: options.KMaxOption = None,
    tile: options.TileOption = None,
    stride: options.StrideOption = None,
    clip_s: options.ClipOption = None,
    expert_width: options.WidthOption = None,
    learning_rate: options.RateOption = None,
    saliency_teacher: options.SaliencyTeacherOption = None,
    seed: options.SeedOption = 0,
) -> None:
    """Search sizes and learning rate by whole trainings; the outcome is one JSON object on stdout.

    What is given as an option is not searched.
    """
    overrides = options.overrides(
        sample_rate=sample_rate,
        fmin=fmin,
        fmax=fmax,
        spectrogram=spectrogram,
        experts=experts,
        k_max=k_max,
        tile=tile,
        stride=stride,
        clip_s=clip_s,
        expert_width=expert_width,
        learning_rate=learning_rate,
        saliency_teacher=saliency_teacher,
        seed=seed,
    )
    classifier = _classifier()(task, budget, auto_config, device, **overrides)
    write_json(
        classifier.tune(
            dataset, metadata, trials, epochs, batch_size, out, channel, lambda line: typer.echo(line, err=True)
        )
    )


@app.command(name="eval")
def evaluate(
    dataset: options.DatasetOption,
    ckpt: options.CkptOption,
    metadata: options.MetadataOption = None,
    split: Annotated[Split, typer.Option(help="Which split.")] = "test",
    routing: device_options.RoutingOption = "routed",
    channel: device_options.ChannelOption = "mix",
    device: options.DeviceOption = "auto",
) -> None:
    """Measure a checkpoint on a split; one JSON object on stdout."""
    classifier = _classifier().load(ckpt, device)
    write_json(classifier.evaluate(dataset, metadata, split, routing, channel))


@app.command()
def infer(
    paths: device_options.Paths = None,
    audio: Annotated[list[Path] | None, typer.Option(help="Recording or folder; may be given again.")] = None,
    lists: device_options.ListsOption = None,
    ckpt: Annotated[Path | None, typer.Option(help="The best.pt of a training run; answers with PyTorch.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="A bundle; answers with ONNX Runtime, as on the device.")] = None,
    routing: device_options.RoutingOption = "routed",
    channel: device_options.ChannelOption = "mix",
    hop: device_options.HopOption = None,
    min_score: device_options.MinScoreOption = 0.0,
    windows: device_options.WindowsOption = False,
    trace: device_options.TraceOption = False,
    figures: device_options.FiguresOption = None,
    top_k: device_options.TopKOption = None,
    out: device_options.OutOption = None,
    resume: device_options.ResumeOption = False,
    batch_size: device_options.BatchSizeOption = 1,
    workers: Annotated[int, typer.Option(min=1, help="With --bundle: processes that classify.")] = 1,
    memory_mb: device_options.MemoryOption = None,
    budget_ms: device_options.BudgetOption = None,
    percentile: device_options.PercentileOption = "p95",
    provider: device_options.ProviderOption = "auto",
    provider_option: device_options.ProviderOptionsOption = None,
    threads: Annotated[int, typer.Option(min=1, help="With --bundle: threads that one graph may use.")] = 1,
    precision: Annotated[PrecisionChoice, typer.Option(help="With --bundle: one of those that it holds.")] = "auto",
    public_key: Annotated[Path | None, typer.Option(help="With --bundle: of the one who must have signed it.")] = None,
    engine: Annotated[
        options.InferenceEngine,
        typer.Option(help="With --bundle: processes of this machine, or of a Ray cluster (--workers of them)."),
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, as in ray://host:10001; one of this machine's own if none.")
    ] = None,
    device: Annotated[options.Device, typer.Option(help="With --ckpt: where PyTorch runs.")] = "auto",
) -> None:
    """Classify recordings with a checkpoint or a bundle; one JSON line for each, then a summary."""
    recordings = [*(audio or []), *(paths or [])]
    if (ckpt is None) == (bundle is None) or not (recordings or lists):
        raise ConfigError("infer: expected recordings (--audio A, or paths) and either --ckpt R/best.pt or --bundle B")
    for_bundle = {
        "--provider": provider != "auto",
        "--provider-option": provider_option,
        "--precision": precision != "auto",
        "--public-key": public_key,
        "--budget-ms": budget_ms,
        "--percentile": percentile != "p95",
        "--threads": threads != 1,
        "--workers": workers != 1,
        "--engine": engine != "local",
        "--address": address,
        "--figures": figures,
        "--memory-mb": memory_mb,
    }
    if bundle is None and (given := [name for name, is_given in for_bundle.items() if is_given]):
        raise ConfigError(f"infer: found {', '.join(given)} with --ckpt; expected --bundle")
    if bundle is not None and device != "auto":
        raise ConfigError("infer: found --device with --bundle; expected --provider")
    if memory_mb is not None and engine == "ray":
        raise ConfigError("--memory-mb: found --engine ray, whose workers have Ray's own limits; leave it out")
    if address is not None and engine != "ray":
        raise ConfigError("--address: found an address of a Ray cluster, expected --engine ray as well")
    from xaimoe_runtime.archive.paths import find_recordings
    from xaimoe_runtime.archive.run import OpenBundle, fingerprint, here
    from xaimoe_runtime.files import FileClassifier, FileOptions
    from xaimoe_runtime.providers import parse_options

    archives.check_out(out, resume, trace)
    archives.check_figures(figures, trace, channel, budget_ms)
    how = FileOptions(
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
    found = find_recordings(recordings, lists or [])
    if bundle is not None:
        told = parse_options(provider_option)
        make = OpenBundle(bundle, how, percentile, provider, threads, precision, public_key, told, memory_mb)
        answering = archives.locally(workers)
        if engine == "ray":
            from xaimoe_audio.scaling import on_ray

            answering = on_ray(workers, address)
        archives.classify_with_bundle(make, found, out, resume, answering, figures)
        return
    assert ckpt is not None
    classifier = FileClassifier(_classifier().load(ckpt, device).engine, how)
    identity = fingerprint(classifier, hashlib.sha256(ckpt.read_bytes()).hexdigest())
    archives.classify(classifier, here(classifier), found, out, resume, identity)


@app.command()
def explain(
    audio: Annotated[Path, typer.Option(help="The recording.")],
    ckpt: options.CkptOption,
    out: Annotated[Path, typer.Option(help="Folder for the figures and explain.json.")],
    method: Annotated[
        ExplanationMethod, typer.Option(help="saliency: what steers the router, without another method.")
    ] = "gradcam",
    label: Annotated[str | None, typer.Option(help="To be explained.", show_default="the best one")] = None,
    channel: device_options.OneChannelOption = "mix",
    device: options.DeviceOption = "auto",
) -> None:
    """Show what in a recording spoke for the answer, and which experts heard it; the numbers are JSON on stdout."""
    write_json(_classifier().load(ckpt, device).explain(audio, method, out, label, channel))


@app.command()
def faithfulness(
    dataset: options.DatasetOption,
    ckpt: options.CkptOption,
    metadata: options.MetadataOption = None,
    split: Annotated[Split, typer.Option(help="Which split.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder for faithfulness.json and its figure.", show_default="no files")
    ] = None,
    recordings: Annotated[int, typer.Option(min=1, help="How many are judged; a few seconds each.")] = 40,
    channel: device_options.ChannelOption = "mix",
    device: options.DeviceOption = "auto",
) -> None:
    """Judge the explanations: does the answer hang on what they name? A table on stdout."""
    figures = _classifier().load(ckpt, device).faithfulness(dataset, metadata, split, out, recordings, channel)
    from xaimoe_audio.faithfulness import table

    typer.echo(table(figures))


@app.command()
def report(
    run: Annotated[Path, typer.Option(help="Folder of a finished training.")],
    out: Annotated[Path, typer.Option(help="The page, one HTML file that needs no network.")],
    bundle: Annotated[Path | None, typer.Option(help="Of the run's model: its graphs, and their times here.")] = None,
    curve: Annotated[Path | None, typer.Option(help="What calibrate --data D --curve FILE wrote.")] = None,
    clips: Annotated[int, typer.Option(min=0, help="Test recordings to look into.")] = 30,
    dataset: Annotated[Path | None, typer.Option(help="Folder of the recordings, if they have moved.")] = None,
    metadata: Annotated[Path | None, typer.Option(help="Their table, if it has moved.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="With a bundle that has the fused graph: the page classifies recordings.")
    ] = False,
    onnxruntime_web: Annotated[
        Path | None, typer.Option(help="With --live: the npm package, unpacked.", show_default="fetched once")
    ] = None,
    device: options.DeviceOption = "auto",
) -> None:
    """Write a page about a run: data, choices, results, experts, and clips to hear and to look into."""
    _need_training_packages()
    from xaimoe_audio.report import write_report

    for note in write_report(run, out, bundle, curve, clips, dataset, metadata, live, onnxruntime_web, device):
        typer.echo(note, err=True)
    typer.echo(f"wrote {out}", err=True)


@app.command()
def export(
    ckpt: options.CkptOption,
    out: Annotated[Path, typer.Option(help="Folder of the bundle; what was found goes to OUT.export.json.")],
    precision: Annotated[str, typer.Option(help="fp32, int8 (for CPUs), fp16 (for GPUs), comma-separated.")] = "fp32",
    fused: Annotated[bool, typer.Option("--fused", help="The whole line as one graph, too.")] = False,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Recordings to calibrate and to measure on.", show_default="the model's, if still there"),
    ] = None,
    metadata: options.MetadataOption = None,
    channel: device_options.ChannelOption = "mix",
    precision_plan: Annotated[
        Path | None, typer.Option(help="The precision_plan.json of an export: obeyed instead of choosing.")
    ] = None,
    sign: Annotated[Path | None, typer.Option(help="Ed25519 private key in PEM to sign the bundle with.")] = None,
    triton: Annotated[Path | None, typer.Option(help="Folder for a model repository of NVIDIA's Triton.")] = None,
    licence: Annotated[str | None, typer.Option(help="Of the model, for its card, as in CC-BY-4.0.")] = None,
    events: Annotated[
        Path | None, typer.Option(help="JSON with the event settings that streams go by, as in docs/streams.md.")
    ] = None,
    score_tolerance: Annotated[float, typer.Option(help="Most that a score may differ from PyTorch's.")] = 1e-4,
    accuracy_tolerance: Annotated[float, typer.Option(help="Accuracy that a precision may lose.")] = 0.005,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs and check it against PyTorch; the report is JSON on stdout."""
    classifier = _classifier().load(ckpt, "cpu")
    found = classifier.export(
        out,
        precision,
        fused,
        dataset,
        metadata,
        channel,
        precision_plan,
        sign,
        triton,
        licence,
        events,
        force,
        score_tolerance,
        accuracy_tolerance,
    )
    write_json(found)
    typer.echo(f"wrote {out} and {out.with_name(f'{out.name}.export.json')}", err=True)


@app.command()
def demo(
    dataset: Annotated[
        Path | None, typer.Option(help="Folder of labelled recordings.", show_default="made-up sonar scenes")
    ] = None,
    metadata: options.MetadataOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the run, the bundle and the predictions.")] = Path("runs/demo"),
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training split.", show_default="by its size")
    ] = None,
    budget: Annotated[Budget, typer.Option(help="The larger or the smaller of two model sizes.")] = "accuracy",
    device: options.DeviceOption = "auto",
    seed: options.SeedOption = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier demo or training in the folder once this one is whole.")
    ] = False,
) -> None:
    """The whole line: train, export, verify, classify the test split routed and dense, and one table at the end."""
    _classifier()
    from xaimoe_audio.demo import run_demo

    typer.echo(run_demo(dataset, metadata, out, epochs, budget, device, seed, force))


def run() -> None:
    """Entry point of the console script."""
    with private_streams():
        sys.exit(app())
