"""The product's command line, ``xaimoe-audio``."""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from xaimoe_audio import options
from xaimoe_audio.config import Budget, ExplanationMethod, Split
from xaimoe_runtime import cli as device_cli
from xaimoe_runtime import options as device_options
from xaimoe_runtime.archive import command as archives
from xaimoe_runtime.console import CommandGroup, VersionOption, write_json
from xaimoe_runtime.decoder_noise import private_streams
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.help_pages import HelpPage, example, grouped
from xaimoe_runtime.schema import PrecisionChoice
from xaimoe_runtime.signals import interrupted_by_signals

if TYPE_CHECKING:
    from xaimoe_audio.classifier import MoEAudioClassifier

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train a saliency-routed mixture of experts on recordings, export it for a device, and classify with it.",
)
app.add_typer(device_cli.app, name="device", help="The commands of xaimoe-runtime, for the device.")


class TrainerHelpPage(HelpPage):
    """A help page with the groups of the trainer's options as well."""

    groups: ClassVar[dict[str, str]] = HelpPage.groups | grouped(
        {
            "Dataset": "--dataset --metadata --split --channel --task --allow-incomplete",
            "Recordings": "--audio --list --label --recordings --clips",
            "Training": "--epochs --budget --device --devices --nodes --seed --teacher --learning-rate "
            "--saliency-teacher --trials",
            "Model design": "--auto-config --sample-rate --fmin --fmax --spectrogram --experts --k-max --tile --stride "
            "--clip-s --expert-width",
            "Output": "--out --resume --force --explainability --windows --trace --figures --live --onnxruntime-web",
            "Model": "--ckpt --bundle --run --curve --precision --public-key --precision-plan --fused --licence "
            "--events --sign --triton",
            "Checks": "--score-tolerance --accuracy-tolerance",
            "Hardware and processes": "--engine --address --workers --batch-size --device --provider --memory-mb",
            "Explanation": "--method",
        }
    )


class RecordingsHelpPage(TrainerHelpPage):
    """A help page of a command that takes recordings and no dataset."""

    groups: ClassVar[dict[str, str]] = TrainerHelpPage.groups | {"--channel": "Recordings"}


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


@app.command(cls=TrainerHelpPage, epilog=example("xaimoe-audio profile --dataset data --out runs/profile"))
def profile(
    dataset: options.DatasetOption,
    out: Annotated[Path, typer.Option(help="Folder to write profile.json, profile.csv and profile.png to.")],
    metadata: options.MetadataOption = None,
    task: options.TaskOption = "single_label",
    channel: device_options.ChannelOption = "mix",
) -> None:
    """Measure a dataset: sampling rates, bands, noise, classes, and shortcuts for a model. Print a summary."""
    _need_training_packages()
    from xaimoe_audio.profiling import profile_dataset
    from xaimoe_audio.profiling.report import describe, write_profile
    from xaimoe_runtime.writing import check_folder_writable

    check_folder_writable(out)
    profiled = profile_dataset(dataset, metadata or dataset / "metadata.csv", task, channel)
    typer.echo(describe(profiled.profile))
    write_profile(profiled, out)
    if profiled.unreadable:
        raise typer.Exit(AudioError.exit_code)


@app.command(
    cls=TrainerHelpPage,
    epilog=example(
        "xaimoe-audio train --dataset data --out runs/exp1 --epochs 20",
        "xaimoe-audio train --dataset data --out runs/exp1 --tile 64x32 --stride 64x16 --force",
    ),
)
def train(
    dataset: options.DatasetOption,
    out: Annotated[Path, typer.Option(help="Folder to write the run to: checkpoints, settings, metrics, figures.")],
    metadata: options.MetadataOption = None,
    epochs: options.EpochsOption = 60,
    batch_size: options.BatchSizeOption = 16,
    task: options.TaskOption = "single_label",
    budget: Annotated[
        Budget, typer.Option(help="Size of the model: accuracy takes the larger one, latency the smaller one.")
    ] = "accuracy",
    auto_config: options.AutoConfigOption = True,
    device: options.DeviceOption = "auto",
    explainability: Annotated[
        Literal["gradcam"] | None,
        typer.Option(help="Explain eight test recordings after the training, in the folder explain of the run."),
    ] = None,
    channel: device_options.ChannelOption = "mix",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue the interrupted training in the run folder, or a finished one for more --epochs."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier training in the run folder once this one is whole.")
    ] = False,
    allow_incomplete: options.AllowIncompleteOption = False,
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
        Path | None,
        typer.Option(help="ONNX file of another audio classifier, to learn from its answers as well (distillation)."),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="Number of processes that train together on this machine, one for each GPU.")
    ] = 1,
    nodes: Annotated[
        int,
        typer.Option(
            min=1, help="Number of machines that train together; each runs this command under torchrun or SLURM."
        ),
    ] = 1,
    seed: options.SeedOption = 0,
) -> None:
    """Train a model on a folder of labelled recordings; end with a table of its scores and costs.

    Settings that are not given are chosen by the profile of the dataset; policy.json in the run folder gives reasons.
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
    with interrupted_by_signals():
        classifier = _classifier()(task, budget, auto_config, device, explainability, **overrides)
        classifier.fit(
            *(dataset, metadata, epochs, batch_size, out, channel, resume, devices, nodes),
            teacher=teacher,
            force=force,
            allow_incomplete=allow_incomplete,
        )
    typer.echo(f"wrote {out / 'best.pt'}", err=True)


@app.command(cls=TrainerHelpPage, epilog=example("xaimoe-audio tune --dataset data --out runs/tune --trials 20"))
def tune(
    dataset: options.DatasetOption,
    out: Annotated[Path, typer.Option(help="Folder of the search. A search that is there already is continued.")],
    metadata: options.MetadataOption = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Number of trainings, including those of a search that is continued.")
    ] = 20,
    epochs: options.EpochsOption = 60,
    batch_size: options.BatchSizeOption = 16,
    task: options.TaskOption = "single_label",
    budget: Annotated[
        Budget,
        typer.Option(
            help="Which trial is the best: accuracy takes the highest score, latency the cheapest within 0.01 of it."
        ),
    ] = "accuracy",
    device: options.DeviceOption = "auto",
    auto_config: options.AutoConfigOption = True,
    channel: device_options.ChannelOption = "mix",
    allow_incomplete: options.AllowIncompleteOption = False,
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
    """Search sizes and learning rate by complete trainings; print the outcome as one JSON object.

    The search varies experts, k-max, tile, expert width and learning rate, except those that are given as options.
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
    with interrupted_by_signals():
        classifier = _classifier()(task, budget, auto_config, device, **overrides)
        found = classifier.tune(
            *(dataset, metadata, trials, epochs, batch_size, out, channel),
            report=lambda line: typer.echo(line, err=True),
            allow_incomplete=allow_incomplete,
        )
    write_json(found)


@app.command(
    name="eval",
    cls=TrainerHelpPage,
    epilog=example("xaimoe-audio eval --dataset data --split test --ckpt runs/exp1/best.pt"),
)
def evaluate(
    dataset: options.DatasetOption,
    ckpt: options.CkptOption,
    metadata: options.MetadataOption = None,
    split: Annotated[Split, typer.Option(help="Split of the dataset to use.")] = "test",
    routing: options.CkptRoutingOption = None,
    channel: device_options.ChannelOption = "mix",
    pool: device_options.PoolOption = "mean",
    device: options.DeviceOption = "auto",
) -> None:
    """Measure a checkpoint on a split of a dataset; print the metrics as one JSON object."""
    classifier = _classifier().load(ckpt, device)
    write_json(classifier.evaluate(dataset, metadata, split, routing, channel, pool))


@app.command(
    cls=RecordingsHelpPage,
    epilog=example(
        "xaimoe-audio infer recordings --ckpt runs/exp1/best.pt --out answers.csv",
        "xaimoe-audio infer 'archive/**/*.flac' --bundle runs/exp1/bundle --workers 4",
    ),
)
def infer(
    paths: device_options.Paths = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Recording or folder of recordings. May be repeated.")
    ] = None,
    lists: device_options.ListsOption = None,
    ckpt: Annotated[
        Path | None, typer.Option(help="Checkpoint to classify with, in PyTorch: the best.pt of a training.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to classify with, in ONNX Runtime, as on the device.")
    ] = None,
    routing: options.RoutingOption = None,
    channel: device_options.ChannelOption = "mix",
    hop: options.HopOption = None,
    pool: device_options.PoolOption = "mean",
    min_score: device_options.MinScoreOption = 0.0,
    max_novelty: device_options.MaxNoveltyOption = 1.0,
    windows: device_options.WindowsOption = False,
    trace: device_options.TraceOption = False,
    figures: device_options.FiguresOption = None,
    top_k: device_options.TopKOption = None,
    out: device_options.OutOption = None,
    resume: device_options.ResumeOption = False,
    batch_size: device_options.BatchSizeOption = 1,
    workers: Annotated[
        int, typer.Option(min=1, help="With --bundle: number of processes; each classifies one file at a time.")
    ] = 1,
    memory_mb: device_options.MemoryOption = None,
    budget_ms: device_options.BudgetOption = None,
    percentile: device_options.PercentileOption = "p95",
    provider: device_options.ProviderOption = "auto",
    provider_option: device_options.ProviderOptionsOption = None,
    threads: Annotated[int, typer.Option(min=1, help="With --bundle: number of threads that one graph may use.")] = 1,
    precision: Annotated[
        PrecisionChoice, typer.Option(help="With --bundle: precision to use, out of those in the bundle.")
    ] = "auto",
    public_key: Annotated[
        Path | None,
        typer.Option(help="With --bundle: PEM file with an Ed25519 public key; an unsigned bundle is refused."),
    ] = None,
    engine: Annotated[
        options.InferenceEngine,
        typer.Option(help="With --bundle: where the --workers run: on this machine, or in a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="With --engine ray: address of the cluster, as in ray://host:10001.",
            show_default="a cluster on this machine",
        ),
    ] = None,
    device: Annotated[options.Device, typer.Option(help="With --ckpt: device for PyTorch.")] = "auto",
) -> None:
    """Classify recordings with a checkpoint or a bundle; write a JSON line for each, then a summary.

    A recording that cannot be used gets an error record, the others are classified, and the exit code is 1.
    """
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
        max_novelty=max_novelty,
        pool=pool,
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


@app.command(
    cls=RecordingsHelpPage,
    epilog=example("xaimoe-audio explain --audio call.wav --ckpt runs/exp1/best.pt --out runs/exp1/call"),
)
def explain(
    audio: Annotated[Path, typer.Option(help="Recording to explain.")],
    ckpt: options.CkptOption,
    out: Annotated[Path, typer.Option(help="Folder to write the figures and explain.json to.")],
    method: Annotated[
        ExplanationMethod,
        typer.Option(
            metavar="METHOD",
            help="Attribution method: gradcam, gradxinput, all, or saliency: no more than the saliency that steers the "
            "router, which is always drawn.",
        ),
    ] = "gradcam",
    label: Annotated[str | None, typer.Option(help="Label to explain.", show_default="the best answer")] = None,
    channel: device_options.OneChannelOption = "mix",
    device: options.DeviceOption = "auto",
) -> None:
    """Explain an answer: which parts of a recording support it, and which experts ran on them.

    The numbers are printed as JSON.
    """
    write_json(_classifier().load(ckpt, device).explain(audio, method, out, label, channel))


@app.command(
    cls=TrainerHelpPage,
    epilog=example("xaimoe-audio faithfulness --dataset data --ckpt runs/exp1/best.pt --recordings 20"),
)
def faithfulness(
    dataset: options.DatasetOption,
    ckpt: options.CkptOption,
    metadata: options.MetadataOption = None,
    split: Annotated[Split, typer.Option(help="Split of the dataset to use.")] = "test",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write faithfulness.json and its figure to.", show_default="no files")
    ] = None,
    recordings: Annotated[
        int, typer.Option(min=1, help="Number of recordings to measure on; each takes a few seconds.")
    ] = 40,
    channel: device_options.ChannelOption = "mix",
    device: options.DeviceOption = "auto",
) -> None:
    """Measure how faithful explanations are: does the answer depend on what they mark? Print a table."""
    figures = _classifier().load(ckpt, device).faithfulness(dataset, metadata, split, out, recordings, channel)
    from xaimoe_audio.faithfulness import table

    typer.echo(table(figures))


@app.command(
    cls=TrainerHelpPage,
    epilog=example("xaimoe-audio report --run runs/exp1 --bundle runs/exp1/bundle --out report.html"),
)
def report(
    run: Annotated[Path, typer.Option(help="Run folder of a finished training.")],
    out: Annotated[Path, typer.Option(help="HTML file to write; it needs no network.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle of the run's model, to list its graphs and time them here.")
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(help="JSON file that xaimoe-runtime calibrate --curve wrote, to draw accuracy by budget."),
    ] = None,
    clips: Annotated[int, typer.Option(min=0, help="Number of test recordings to show in detail.")] = 30,
    dataset: Annotated[
        Path | None, typer.Option(help="Folder of the dataset, if it has moved since the training.")
    ] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="Table of the dataset, if it has moved since the training.")
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Put the model into the page, to classify recordings in the browser; needs a bundle with --fused.",
        ),
    ] = False,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            help="With --live: folder of the unpacked npm package onnxruntime-web.", show_default="downloaded once"
        ),
    ] = None,
    device: options.DeviceOption = "auto",
) -> None:
    """Write an HTML page about a run: dataset, settings, results, experts, and test clips to listen to and inspect."""
    _need_training_packages()
    from xaimoe_audio.report import write_report

    for note in write_report(run, out, bundle, curve, clips, dataset, metadata, live, onnxruntime_web, device):
        typer.echo(note, err=True)
    typer.echo(f"wrote {out}", err=True)


@app.command(
    cls=TrainerHelpPage,
    epilog=example("xaimoe-audio export --ckpt runs/exp1/best.pt --out runs/exp1/bundle --precision fp32,int8"),
)
def export(
    ckpt: options.CkptOption,
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to; the report goes to OUT.export.json.")],
    precision: Annotated[
        str, typer.Option(help="Precisions of the bundle, comma-separated: fp32, int8 (for CPUs), fp16 (for GPUs).")
    ] = "fp32",
    fused: Annotated[
        bool, typer.Option("--fused", help="Also write the whole model as one graph, for hosts without Python.")
    ] = False,
    dataset: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a dataset to calibrate and to measure on.",
            show_default="the dataset of the training, if it is still there",
        ),
    ] = None,
    metadata: options.MetadataOption = None,
    channel: device_options.ChannelOption = "mix",
    precision_plan: Annotated[
        Path | None,
        typer.Option(
            help="precision_plan.json of an earlier export, perhaps edited, that fixes the precision of each graph."
        ),
    ] = None,
    sign: Annotated[
        Path | None, typer.Option(help="PEM file with an Ed25519 private key to sign the bundle with.")
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(help="Folder to write a model repository for NVIDIA Triton to.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the model, for its card, as in CC-BY-4.0.")] = None,
    events: Annotated[
        Path | None, typer.Option(help="JSON file with event settings for streams; docs/streams.md describes it.")
    ] = None,
    score_tolerance: Annotated[float, typer.Option(help="Maximum difference of a score from PyTorch's.")] = 1e-4,
    accuracy_tolerance: Annotated[float, typer.Option(help="Maximum loss of accuracy by a precision.")] = 0.005,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier bundle once the new one is whole.")
    ] = False,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs and check it against PyTorch; print the report as JSON."""
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


@app.command(cls=TrainerHelpPage, epilog=example("xaimoe-audio demo --budget latency --out runs/demo"))
def demo(
    dataset: Annotated[
        Path | None, typer.Option(help="Folder of labelled recordings.", show_default="synthetic sonar scenes")
    ] = None,
    metadata: options.MetadataOption = None,
    out: Annotated[Path, typer.Option(help="Folder to write the run, the bundle and the predictions to.")] = Path(
        "runs/demo"
    ),
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Maximum number of passes over the training split.",
            show_default="by the number of training clips",
        ),
    ] = None,
    budget: Annotated[
        Budget, typer.Option(help="Size of the model: accuracy takes the larger one, latency the smaller one.")
    ] = "accuracy",
    device: options.DeviceOption = "auto",
    seed: options.SeedOption = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier demo or training in the folder once this one is whole.")
    ] = False,
) -> None:
    """Try everything: train, export, verify, classify the test split routed and dense, and print one table."""
    _classifier()
    from xaimoe_audio.demo import run_demo

    with interrupted_by_signals():
        table = run_demo(dataset, metadata, out, epochs, budget, device, seed, force)
    typer.echo(table)


def run() -> None:
    """Entry point of the console script."""
    with private_streams():
        sys.exit(app())
