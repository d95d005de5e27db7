"""The options that several commands of the device share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xaimoe_runtime.costs import Percentile
from xaimoe_runtime.schema import Pool, PrecisionChoice, Routing

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that xaimoe-audio export wrote.")]
Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PATH…", help="Recordings, folders of recordings, or patterns in quotes, as in 'a/**/*.wav'."
    ),
]
ListsOption = Annotated[
    list[Path] | None,
    typer.Option("--list", help="Text file with the path of a recording in each line. May be repeated."),
]
ProviderOption = Annotated[
    str,
    typer.Option(
        metavar="[auto|cpu|cuda|tensorrt|…]",
        help="ONNX Runtime execution provider. auto takes TensorRT if its engines were built, else CUDA, else the CPU.",
    ),
]
ProviderOptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--provider-option",
        metavar="NAME=VALUE",
        help="Option for the provider that --provider names, as in device_id=1. May be repeated.",
    ),
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Number of threads that one graph may use.")]
PrecisionOption = Annotated[
    PrecisionChoice,
    typer.Option(
        help="Precision to use, out of those in the bundle. auto takes the one that is meant for the provider."
    ),
]
PublicKeyOption = Annotated[
    Path | None,
    typer.Option(
        help="PEM file with an Ed25519 public key. A bundle that is not signed with its private key is refused."
    ),
]
ROUTING_HELP = (
    "Which (patch, expert) pairs run. routed: those that the router chooses; dense: all compatible ones; "
    "glance: none, the glance answers alone."
)
RoutingOption = Annotated[Routing | None, typer.Option(help=ROUTING_HELP, show_default="from the bundle")]
ChannelOption = Annotated[
    str,
    typer.Option(help="Channel to use: mix (the mean of all), each (every channel on its own), or a number, from 0."),
]
OneChannelOption = Annotated[str, typer.Option(help="Channel to use: mix (the mean of all), or a number, from 0.")]
HOP_HELP = "Seconds from the start of a window to the start of the next."
HopOption = Annotated[float | None, typer.Option("--hop", help=HOP_HELP, show_default="from the bundle")]
MinScoreOption = Annotated[float, typer.Option(min=0, max=1, help='Answer "unknown" if no score reaches this.')]
MaxNoveltyOption = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help='Answer "unknown" if the novelty is above this. Such a window of a stream opens no event, either.',
    ),
]
PoolOption = Annotated[
    Pool,
    typer.Option(
        help="How the scores of windows become those of a recording: their mean; max, the largest of each label; top3, "
        "the mean of the three largest; lse, a smooth maximum. Silence has no vote."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="File to write instead of stdout: JSON Lines (.jsonl), or a table (.csv, .parquet).")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run that writes to --out.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Number of processes; each classifies one file at a time.")]
BatchSizeOption = Annotated[
    int, typer.Option(min=1, help="Number of windows that run at once. On a CPU more than 1 saves no time.")
]
TopKOption = Annotated[
    int | None, typer.Option(min=1, help="Keep only this many of the best scores in each record.", show_default="all")
]
TraceOption = Annotated[
    bool,
    typer.Option(
        "--trace",
        help="Write a record for every window with its signal attributes, saliency, pairs run, gates and times.",
    ),
]
FiguresOption = Annotated[
    Path | None,
    typer.Option(
        help="With --trace: folder for figures of each recording's clearest window: saliency, routing, patch grid."
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        "--budget-ms",
        min=0.001,
        help="Time for each window in milliseconds. Pairs that do not fit into it are left out.",
    ),
]
PercentileOption = Annotated[
    Percentile, typer.Option(help="Percentile of the measured costs that a budget is planned with.")
]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        "--memory-mb",
        min=1,
        help="Memory limit of each process for data, in megabytes. A recording that needs more gets an error record.",
    ),
]
WindowsOption = Annotated[bool, typer.Option("--windows", help="Also write a record for every window.")]
