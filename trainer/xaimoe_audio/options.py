"""The options that several commands of the product share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xaimoe_audio.config import SaliencyTeacher
from xaimoe_runtime import options as device_options
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.schema import Routing, TaskKind

Device = Literal["auto", "cuda", "cpu"]
InferenceEngine = Literal["local", "ray"]

DatasetOption = Annotated[
    Path, typer.Option(help="Folder of the dataset; the file paths in its table are relative to it.")
]
MetadataOption = Annotated[
    Path | None,
    typer.Option(
        help="CSV table with the columns filepath, split and label, and optionally group.",
        show_default="metadata.csv in the dataset folder",
    ),
]
CkptOption = Annotated[Path, typer.Option(help="Checkpoint: the best.pt of a training.")]
DeviceOption = Annotated[
    Device, typer.Option(help="Device for PyTorch. auto takes CUDA if there is a GPU, else the CPU.")
]
TaskOption = Annotated[
    TaskKind,
    typer.Option(
        metavar="TASK", help="single_label: each recording has one class; multi_label: any number of classes."
    ),
]
RoutingOption = Annotated[
    Routing | None,
    typer.Option(help=device_options.ROUTING_HELP, show_default="routed, or what the bundle says"),
]
CkptRoutingOption = Annotated[Routing | None, typer.Option(help=device_options.ROUTING_HELP, show_default="routed")]
HopOption = Annotated[
    float | None,
    typer.Option("--hop", help=device_options.HOP_HELP, show_default="the clip's length, or what the bundle says"),
]
AutoConfigOption = Annotated[
    bool, typer.Option(help="Choose settings by the profile of the dataset, or take fixed defaults.")
]
EpochsOption = Annotated[
    int,
    typer.Option(
        min=1, help="Maximum number of passes over the training split; training stops earlier if it no longer improves."
    ),
]
BatchSizeOption = Annotated[
    int, typer.Option(min=1, help="Clips in a training step, for each process.", rich_help_panel="Training")
]
AllowIncompleteOption = Annotated[
    bool,
    typer.Option(
        "--allow-incomplete",
        help="Also train on recordings of which a part cannot be decoded. Without this flag, one of them stops the "
        "training before it begins.",
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of all random numbers, 0 to 4294967295.")]
SampleRateOption = Annotated[
    int | None, typer.Option(help="Sampling rate of the model in Hz, 2000 to 400000.", show_default="by the profile")
]
FminOption = Annotated[
    float | None, typer.Option(help="Lower edge of the spectrogram in Hz.", show_default="by the profile")
]
FmaxOption = Annotated[
    float | None,
    typer.Option(
        help="Upper edge of the spectrogram in Hz; at most half the sampling rate.", show_default="by the profile"
    ),
]
SpectrogramOption = Annotated[
    str | None,
    typer.Option(help="Kind of spectrogram: stft, logmel, logmel+pcen, cqt or fcwt.", show_default="by the profile"),
]
ExpertsOption = Annotated[
    str | None,
    typer.Option(
        help="Expert families to use, comma-separated; the README lists them.",
        show_default="all that the dataset can use",
    ),
]
KMaxOption = Annotated[
    int | None,
    typer.Option(help="Maximum number of experts that a clip uses.", show_default="4, with --budget latency 2"),
]
TileOption = Annotated[
    str | None,
    typer.Option(
        metavar="FxT",
        help="Size of a tile: bands x frames of the spectrogram, which has 64 bands (48 with --budget latency). "
        "Both are multiples of 8, at least 24. Tiles must fill all bands exactly.",
        show_default="all bands x 64 frames, 32 for short clips",
    ),
]
StrideOption = Annotated[
    str | None,
    typer.Option(
        metavar="FxT",
        help="Step from a tile to the next: bands x frames, both even, at most the tile's. With half the tile's "
        "frames neighbours overlap by half.",
        show_default="the tile's bands x half its frames",
    ),
]
ClipOption = Annotated[
    float | None,
    typer.Option(
        help="Length of a clip in seconds, 0.1 to 60; lengthened until tiles fill it.",
        show_default="median length of the recordings, within 0.5 to 5",
    ),
]
WidthOption = Annotated[
    int | None,
    typer.Option(
        help="Channels of an expert's first convolution, 2 to 256.", show_default="16, with --budget latency 12"
    ),
]
RateOption = Annotated[float | None, typer.Option(help="Highest learning rate of the schedule.", show_default="0.004")]
SaliencyTeacherOption = Annotated[
    SaliencyTeacher | None,
    typer.Option(
        metavar="METHOD",
        help="Attribution method that the saliency is trained to predict: gradxinput, gradcam or both.",
        show_default="gradxinput",
    ),
]


def overrides(
    *, experts: str | None, tile: str | None, stride: str | None, **others: float | str | None
) -> dict[str, Any]:
    """The overrides as keywords of the classifier; those that are text of more than one thing are taken apart.

    Raises:
        ConfigError: a tile or a stride is not FxT.
    """
    families = tuple(name.strip() for name in experts.split(",")) if experts is not None else None
    return others | {"experts": families, "tile": _cells(tile, "--tile"), "stride": _cells(stride, "--stride")}


def _cells(text: str | None, flag: str) -> tuple[int, int] | None:
    """``FxT`` as two numbers of spectrogram cells."""
    if text is None:
        return None
    freq, _, time = text.partition("x")
    if not (freq.isdecimal() and time.isdecimal()):
        raise ConfigError(f"{flag}: found {text!r}, expected FxT, height and width in spectrogram cells, as in 64x32")
    return int(freq), int(time)
