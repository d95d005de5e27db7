"""The options that several commands of the product share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from xaimoe_audio.config import SaliencyTeacher
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.schema import TaskKind

Device = Literal["auto", "cuda", "cpu"]
InferenceEngine = Literal["local", "ray"]

DatasetOption = Annotated[Path, typer.Option(help="Folder that the file paths in the table are relative to.")]
MetadataOption = Annotated[
    Path | None, typer.Option(help="Table filepath,split,label[,group]; default: metadata.csv in the dataset folder.")
]
CkptOption = Annotated[Path, typer.Option(help="The best.pt of a training run.")]
DeviceOption = Annotated[Device, typer.Option(help="Where PyTorch runs; auto takes CUDA if it is there.")]
TaskOption = Annotated[TaskKind, typer.Option(help="One class a recording, or any number.")]
AutoConfigOption = Annotated[
    bool, typer.Option(help="Let the policy choose by the dataset's profile, or take fixed defaults.")
]
EpochsOption = Annotated[
    int, typer.Option(min=1, help="Passes over the training split; early stopping may end sooner.")
]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Clips a step, of each process.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all randomness.")]
SampleRateOption = Annotated[int | None, typer.Option(help="Rate the model works at, in Hz.", show_default="by policy")]
FminOption = Annotated[
    float | None, typer.Option(help="Lower edge of the spectrogram, in Hz.", show_default="by policy")
]
FmaxOption = Annotated[float | None, typer.Option(help="Upper edge, in Hz.", show_default="half the sample rate")]
SpectrogramOption = Annotated[
    str | None, typer.Option(help="stft, logmel, logmel+pcen, cqt or fcwt.", show_default="by policy")
]
ExpertsOption = Annotated[
    str | None, typer.Option(help="Expert families, comma-separated.", show_default="all the dataset can use")
]
KMaxOption = Annotated[int | None, typer.Option(help="Most experts that one clip uses.", show_default="by budget")]
TileOption = Annotated[
    str | None,
    typer.Option(
        metavar="FxT", help="Tile in spectrogram cells, both multiples of 8 from 24.", show_default="all bands x32"
    ),
]
StrideOption = Annotated[
    str | None, typer.Option(metavar="FxT", help="Step from tile to tile.", show_default="the tile")
]
ClipOption = Annotated[
    float | None, typer.Option(help="Clip length in s.", show_default="by policy: the median, 0.5 to 5")
]
WidthOption = Annotated[
    int | None, typer.Option(help="Channels of an expert's first convolution.", show_default="by budget")
]
RateOption = Annotated[float | None, typer.Option(help="Peak of the learning rate.", show_default="by policy")]
SaliencyTeacherOption = Annotated[
    SaliencyTeacher | None, typer.Option(help="What the saliency is trained against.", show_default="gradxinput")
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
