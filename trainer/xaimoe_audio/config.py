"""What a model is: everything needed to rebuild it, as one record that fits into a checkpoint."""

from __future__ import annotations

from math import gcd
from typing import Annotated, Literal

import msgspec

from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.metadata import SPLITS as SPLITS
from xaimoe_runtime.metadata import Split as Split
from xaimoe_runtime.schema import TaskKind

Budget = Literal["accuracy", "latency"]
SaliencyTeacher = Literal["gradxinput", "gradcam", "both"]
"""Gradient x Input, Grad-CAM, or the mean of the two."""
ExplanationMethod = Literal["gradcam", "saliency", "gradxinput", "all"]

MIN_RATE, MAX_RATE = 2_000, 400_000
"""Sampling rates a model may have, in Hz."""
MIN_CLIP_S, MAX_CLIP_S = 0.1, 60.0
"""Length of a clip, in seconds."""
MAX_FFT = 1 << 16
"""Samples of the longest DFT."""
MAX_BINS = 1024
"""Bands of a spectrogram."""
MAX_FRAMES = 1 << 15
"""Frames of a clip."""
MAX_DFT_WEIGHTS = 21_000_000
"""Values of the largest matrix in the spectrogram's computation, in double precision some 170 MB."""
MAX_LABELS = 1 << 16
"""Classes of a model."""
MAX_EXPERTS = 64
"""Experts of a model."""
MAX_WIDTH = 256
"""Channels of an expert's first convolution."""

AttributesVersion = Literal[1, 2]
"""Definitions of the signal attributes; see ``spectrogram.attributes.SignalAttributes``."""
ATTRIBUTES_VERSION: AttributesVersion = 2
"""Definition that new models are built with."""

MIN_TILE, TILE_STEP = 24, 8
"""Smallest height and width of a tile, in spectrogram cells, and what both are a multiple of: of less, an expert's last
map would be a single cell."""


class FrontendConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The spectrogram and how it is computed."""

    sample_rate: Annotated[int, msgspec.Meta(ge=1, le=MAX_RATE)]
    """Rate the model works at, in Hz."""
    clip_samples: Annotated[int, msgspec.Meta(ge=1)]
    """Samples S of a clip, a whole number of hops."""
    spectrogram: Annotated[str, msgspec.Meta(max_length=200)]
    """Backend, by its name in ``spectrogram.BACKENDS``."""
    n_fft: Annotated[int, msgspec.Meta(ge=2, le=MAX_FFT)]
    """Length of the DFT."""
    win_length: Annotated[int, msgspec.Meta(ge=1)]
    """Samples a frame sees, at most ``n_fft``."""
    hop: Annotated[int, msgspec.Meta(ge=1)]
    """Samples from frame to frame."""
    bins: Annotated[int, msgspec.Meta(ge=1, le=MAX_BINS)]
    """Bands F."""
    fmin: float
    """Lower edge of the bands, in Hz."""
    fmax: float
    """Upper edge of the bands, in Hz."""
    attributes_version: AttributesVersion = 1
    """Definition of the signal attributes. Checkpoints written before the field existed were trained with the first."""

    def __post_init__(self) -> None:
        if not self.hop <= self.win_length <= self.n_fft:
            raise ValueError(
                f"frames: found a hop of {self.hop}, a window of {self.win_length} and a DFT of {self.n_fft} samples, "
                "expected none longer than the next"
            )
        most = 2 * MAX_CLIP_S * self.sample_rate
        if not self.win_length <= self.clip_samples <= most:
            raise ValueError(
                f"clip_samples: found {self.clip_samples}, expected {self.win_length} (a frame) to {most:.0f} "
                f"({2 * MAX_CLIP_S:g} s)"
            )
        if self.frames > MAX_FRAMES:
            raise ValueError(f"frames: found {self.frames}, expected at most {MAX_FRAMES}; raise the hop")
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise ValueError(
                f"fmin, fmax: found {self.fmin:g} and {self.fmax:g} Hz, expected 0 <= fmin < fmax <= "
                f"{self.sample_rate / 2:g} Hz"
            )
        row = gcd(self.n_fft, self.win_length, self.hop)
        weights = max(self.n_fft // row * self.win_length, (self.n_fft // 2 + 1) * self.bins)
        if weights > MAX_DFT_WEIGHTS:
            raise ValueError(
                f"n_fft, win_length, hop, bins: found {self.n_fft}, {self.win_length}, {self.hop} and {self.bins}, for "
                f"which a matrix has {weights} values, expected at most {MAX_DFT_WEIGHTS}; choose lengths with a "
                "larger common divisor, or shorter ones"
            )

    @property
    def frames(self) -> int:
        """Frames T of a clip; framing is not centred."""
        return (self.clip_samples - self.win_length) // self.hop + 1

    @property
    def clip_s(self) -> float:
        """Clip length in seconds."""
        return self.clip_samples / self.sample_rate


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many experts and pairs the router may choose."""

    k_max: Annotated[int, msgspec.Meta(ge=1, le=MAX_EXPERTS)]
    """Most experts that one clip uses."""
    max_pairs: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    """Most (patch, expert) pairs that one clip runs."""
    focus: Annotated[float, msgspec.Meta(ge=0, le=100)]
    """Power to which the saliency, over the best patch's, is raised before pairs are weighed. The more it is, the
    sooner the best patches get several experts, and the later a middling one gets its first."""
    unsure: tuple[float, float] | None
    """How unsure the glance is of its own answer, 0…1: up to the first it suffices, and no pair is run; from the second
    as many as the rest of the router allows. None: they always may."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole model."""

    task: TaskKind
    labels: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=1000)], ...], msgspec.Meta(max_length=MAX_LABELS)]
    frontend: FrontendConfig
    tile: tuple[int, int]
    """Tile height and width in cells of the spectrogram."""
    stride: tuple[int, int]
    """Step between tiles in cells of the spectrogram."""
    experts: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_EXPERTS)]
    """Expert families, by their names in ``model.experts.FAMILIES``."""
    router: RouterConfig
    expert_width: Annotated[int, msgspec.Meta(ge=2, le=MAX_WIDTH)]
    """Channels of an expert's first convolution; the stages after it have 2, 4 and 8 times as many."""
    detects_background: bool = False
    """Whether the glance recognises plain background noise, for which no expert is run. Checkpoints written before the
    field existed do not."""

    @property
    def features(self) -> int:
        """Length D of an expert's answer: a mean and a maximum of each of its last channels."""
        return 16 * self.expert_width

    @property
    def grid(self) -> PatchGrid:
        """Tiles on the spectrogram."""
        return PatchGrid(rows=self.frontend.bins, columns=self.frontend.frames, tile=self.tile, stride=self.stride)


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two model sizes that ``budget`` chooses between."""

    frame_s: float
    """Length of a frame in seconds, about; half of it is the longest hop."""
    bins: int
    """Bands of the spectrogram."""
    k_max: int
    """Most experts that a clip uses."""
    unsure: tuple[float, float]
    """How unsure the glance must be of its answer before any pair is run, and before all may be."""
    expert_width: int
    """Channels of an expert's first convolution."""


SIZES: dict[Budget, Size] = {
    "accuracy": Size(frame_s=0.064, bins=64, k_max=4, unsure=(0.02, 0.2), expert_width=16),
    "latency": Size(frame_s=0.04, bins=48, k_max=2, unsure=(0.05, 0.3), expert_width=12),
}

DEFAULT_SAMPLE_RATE = 16_000
DEFAULT_CLIP_S = 5.0
DEFAULT_HOP_S = 0.02
DEFAULT_SPECTROGRAM = "logmel"
DEFAULT_FMIN = 50.0
DEFAULT_EXPERTS = (
    *("NoiseRobust_Broadband", "TransientExpert", "HarmonicExpert", "MidbandGeneral"),
    *("HighbandGeneral", "FineFreqExpert", "NoiseRobust_LowFreq", "NoiseRobust_HighFreq"),
)
"""All families; of fewer, the first ones serve most kinds of sound."""
HIGHBAND_EXPERTS = frozenset({"HighbandGeneral", "NoiseRobust_HighFreq"})
"""Families that the router keeps from clips without a high band."""
FINE_EXPERTS = frozenset({"HarmonicExpert", "FineFreqExpert"})
"""Families of fine resolution, which the router keeps from clips of poor quality."""
DEFAULT_LEARNING_RATE = 4e-3
DEFAULT_SALIENCY_TEACHER: SaliencyTeacher = "gradxinput"


class Overrides(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Choices that the user makes instead of the library; ``None`` leaves a choice to it."""

    sample_rate: int | None = None
    """Rate the model works at, in Hz."""
    fmin: float | None = None
    """Lower edge of the spectrogram, in Hz."""
    fmax: float | None = None
    """Upper edge of the spectrogram, in Hz."""
    spectrogram: str | None = None
    """Backend of the spectrogram, by name."""
    experts: tuple[str, ...] | None = None
    """Expert families, by name."""
    k_max: int | None = None
    """Most experts that one clip uses."""
    tile: tuple[int, int] | None = None
    """Tile height and width, in cells of the spectrogram."""
    stride: tuple[int, int] | None = None
    """Step from tile to tile, in cells of the spectrogram."""
    clip_s: float | None = None
    """Clip length in seconds; rounded up to fill the patch grid."""
    expert_width: Annotated[int, msgspec.Meta(ge=2, le=MAX_WIDTH)] | None = None
    """Channels of an expert's first convolution."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    """Peak of the training's learning rate."""
    saliency_teacher: SaliencyTeacher | None = None
    """Explanation of the whole model's answer that the saliency is trained against."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] | None = None
    """Seed of all randomness."""
