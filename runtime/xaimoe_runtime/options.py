"""The options that several commands of the device share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xaimoe_runtime.costs import Percentile
from xaimoe_runtime.schema import PrecisionChoice, Routing

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that `xaimoe-audio export` wrote.")]
Paths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="PATH…", help="Recordings, folders of recordings, or patterns like 'a/**/*.wav'."),
]
ListsOption = Annotated[
    list[Path] | None, typer.Option("--list", help="Text file with a path in each line; may be given again.")
]
ProviderOption = Annotated[
    str,
    typer.Option(
        metavar="[auto|cpu|cuda|tensorrt|…]",
        help="Where to run, by ONNX Runtime's name; auto takes TensorRT if its engines were built, else CUDA, else the "
        "CPU.",
    ),
]
ProviderOptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--provider-option",
        metavar="NAME=VALUE",
        help="Of a provider that is named, as in device_id=1; may be repeated.",
    ),
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="Threads that one graph may use.")]
PrecisionOption = Annotated[
    PrecisionChoice, typer.Option(help="Of those that the bundle holds; auto takes what is meant for the provider.")
]
PublicKeyOption = Annotated[
    Path | None, typer.Option(help="Ed25519 public key in PEM; a bundle that its owner has not signed is refused.")
]
RoutingOption = Annotated[
    Routing,
    typer.Option(
        help="routed: the pairs the router chose; dense: all that are compatible; glance: none, the prior alone."
    ),
]
ChannelOption = Annotated[
    str, typer.Option(help="mix, each (a record for every channel), or the number of one, from 0.")
]
OneChannelOption = Annotated[str, typer.Option(help="mix, or the number of one, from 0.")]
HopOption = Annotated[float | None, typer.Option("--hop", help="Seconds from window to window; default: the bundle's.")]
MinScoreOption = Annotated[float, typer.Option(min=0, max=1, help='Answer "unknown" below this score.')]
OutOption = Annotated[
    Path | None, typer.Option(help="Write here instead of to stdout: JSON Lines (.jsonl), or a table (.csv, .parquet).")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a run to --out that was interrupted.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes that classify, each one file at a time.")]
BatchSizeOption = Annotated[
    int, typer.Option(min=1, help="Windows that are run at once; on a CPU, more than 1 gain nothing.")
]
TopKOption = Annotated[int | None, typer.Option(min=1, help="Labels with the best scores that a record has; all.")]
TraceOption = Annotated[
    bool, typer.Option("--trace", help="Records of windows, which say what was run on which patch, and why.")
]
FiguresOption = Annotated[
    Path | None,
    typer.Option(help="With --trace: draw here, of each recording's clearest window, the saliency and who heard what."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option("--budget-ms", min=0.001, help="Milliseconds for each window; pairs that do not fit are left out."),
]
PercentileOption = Annotated[Percentile, typer.Option(help="Of the graphs' costs, to plan a budget with.")]
MemoryOption = Annotated[
    int | None,
    typer.Option(
        "--memory-mb",
        min=1,
        help="Megabytes of data that a process may hold; a recording that needs more has an error.",
    ),
]
WindowsOption = Annotated[bool, typer.Option("--windows", help="Write a record for every window, too.")]
