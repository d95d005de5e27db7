"""What a model is: everything needed to rebuild it, as one record that fits into a checkpoint."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.schema import TaskKind

Budget = Literal["accuracy", "latency"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

STEM_STRIDE = 2
"""The shared stem halves the spectrogram in frequency and in time; tiles must be whole in its cells."""
MIN_TILE = 16
"""Smallest height and width of a tile, in spectrogram cells; of less, an expert's last map would be a single cell."""
MAX_CLIP_S = 60.0
MIN_HOP_FACTOR = 32
"""The matrix DFT works on rows of gcd(n_fft, hop) samples; under 32 it grows slow."""


class FrontendConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The spectrogram and how it is computed."""

    sample_rate: int
    """Rate the model works at, in Hz."""
    clip_samples: int
    """Samples S of a clip, a whole number of hops."""
    spectrogram: str
    """Backend, by its name in ``spectrogram.BACKENDS``."""
    n_fft: int
    """Length of the DFT."""
    win_length: int
    """Samples a frame sees, at most ``n_fft``."""
    hop: int
    """Samples from frame to frame."""
    bins: int
    """Bands F."""
    fmin: float
    """Lower edge of the bands, in Hz."""
    fmax: float
    """Upper edge of the bands, in Hz."""

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

    k_max: int
    """Most experts that one clip uses."""
    max_pairs: int
    """Most (patch, expert) pairs that one clip runs."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole model."""

    task: TaskKind
    labels: tuple[str, ...]
    frontend: FrontendConfig
    tile: tuple[int, int]
    """Tile height and width in cells of the spectrogram."""
    stride: tuple[int, int]
    """Step between tiles in cells of the spectrogram."""
    experts: tuple[str, ...]
    """Expert families, by their names in ``model.experts.FAMILIES``."""
    router: RouterConfig
    stem_channels: int
    """Channels of the feature map that the glance and the experts share."""
    expert_width: int
    """Channels of an expert's first stage; later stages have twice and four times as many."""
    features: int
    """Length D of an expert's answer."""

    @property
    def grid(self) -> PatchGrid:
        """Tiles on the stem's feature map."""
        step = STEM_STRIDE
        return PatchGrid(
            rows=self.frontend.bins // step,
            columns=self.frontend.frames // step,
            tile=(self.tile[0] // step, self.tile[1] // step),
            stride=(self.stride[0] // step, self.stride[1] // step),
        )


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two model sizes that ``budget`` chooses between."""

    n_mels: int
    k_max: int
    pair_share: float
    """Share of all (patch, expert) pairs that a clip may run at most."""
    stem_channels: int
    expert_width: int
    features: int


SIZES: dict[Budget, Size] = {
    "accuracy": Size(n_mels=64, k_max=3, pair_share=0.3, stem_channels=24, expert_width=32, features=96),
    "latency": Size(n_mels=48, k_max=2, pair_share=0.2, stem_channels=16, expert_width=24, features=64),
}

DEFAULT_SAMPLE_RATE = 16_000
DEFAULT_FMIN = 50.0
DEFAULT_EXPERTS = ("NoiseRobust_Broadband", "TransientExpert", "HarmonicExpert", "HighbandGeneral")


class Overrides(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Choices that the user makes instead of the library; ``None`` leaves a choice to it."""

    sample_rate: int | None = None
    """Rate the model works at, in Hz."""
    fmin: float | None = None
    """Lower edge of the spectrogram, in Hz."""
    fmax: float | None = None
    """Upper edge of the spectrogram, in Hz."""
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
    seed: int | None = None
    """Seed of all randomness."""


def choose(
    budget: Budget,
    task: TaskKind,
    labels: tuple[str, ...],
    typical_duration_s: float,
    families: frozenset[str],
    overrides: Overrides,
) -> ModelConfig:
    """Sizes a model for clips that typically last ``typical_duration_s`` seconds.

    The clip length is that duration kept within 0.5…5 s. Clips up to 2 s get frames every 10 ms, longer ones every
    20 ms; tiles are as high as the spectrogram and 32 frames wide. ``families`` are the expert names that exist.

    Raises:
        ConfigError: a choice in ``overrides`` is out of range or does not fit another.
    """
    size = SIZES[budget]
    rate = DEFAULT_SAMPLE_RATE if overrides.sample_rate is None else overrides.sample_rate
    if not 2_000 <= rate <= 400_000:
        raise ConfigError(f"sample_rate: found {rate} Hz, expected 2000 to 400000 Hz")
    fmin = DEFAULT_FMIN if overrides.fmin is None else overrides.fmin
    fmax = rate / 2 if overrides.fmax is None else overrides.fmax
    if not 0 <= fmin < fmax <= rate / 2:
        raise ConfigError(
            f"fmin, fmax: found {fmin:g} and {fmax:g} Hz, expected 0 <= fmin < fmax <= {rate / 2:g} Hz "
            f"(half the sample rate of {rate} Hz); lower fmax or raise sample_rate"
        )
    clip_s = min(max(typical_duration_s, 0.5), 5.0) if overrides.clip_s is None else overrides.clip_s
    if not 0.1 <= clip_s <= MAX_CLIP_S:
        raise ConfigError(f"clip_s: found {clip_s:g} s, expected 0.1 to {MAX_CLIP_S:g} s")
    if overrides.seed is not None and not 0 <= overrides.seed < 2**32:
        raise ConfigError(f"seed: found {overrides.seed}, expected 0 to {2**32 - 1}")
    n_fft = _power_of_two(0.064 * rate)
    hop = _hop(rate * (0.01 if clip_s <= 2 else 0.02), n_fft)
    tile = overrides.tile or (size.n_mels, 32)
    stride = overrides.stride or tile
    _check_tiles(tile, stride, size.n_mels)
    wanted = max(clip_s * rate - n_fft, 0) / hop + 1
    steps = max(0, -int(-(wanted - tile[1]) // stride[1]))
    frames = tile[1] + steps * stride[1]
    span = n_fft + (frames - 1) * hop
    clip_samples = -(-span // hop) * hop
    if clip_samples > MAX_CLIP_S * rate:
        raise ConfigError(
            f"tile: found {tile[0]}x{tile[1]}, which makes a clip of {clip_samples / rate:.0f} s; "
            f"expected a width that fits into {MAX_CLIP_S:g} s"
        )
    experts = DEFAULT_EXPERTS if overrides.experts is None else overrides.experts
    unknown = sorted(set(experts) - families)
    if not experts or unknown or len(set(experts)) != len(experts):
        raise ConfigError(
            f"experts: found {', '.join(experts) or 'none'}; "
            f"expected different names out of {', '.join(sorted(families))}"
        )
    k_max = min(size.k_max, len(experts)) if overrides.k_max is None else overrides.k_max
    if not 1 <= k_max <= len(experts):
        raise ConfigError(f"k_max: found {k_max}, expected 1 to {len(experts)}, the number of experts")
    frontend = FrontendConfig(
        sample_rate=rate, clip_samples=clip_samples, n_fft=n_fft, hop=hop, n_mels=size.n_mels, fmin=fmin, fmax=fmax
    )
    tiles = ((size.n_mels - tile[0]) // stride[0] + 1) * (steps + 1)
    max_pairs = max(1, round(size.pair_share * tiles * len(experts)))
    return ModelConfig(
        task=task,
        labels=labels,
        frontend=frontend,
        tile=tile,
        stride=stride,
        experts=experts,
        router=RouterConfig(k_max=k_max, max_pairs=max_pairs),
        stem_channels=size.stem_channels,
        expert_width=size.expert_width,
        features=size.features,
    )


def _check_tiles(tile: tuple[int, int], stride: tuple[int, int], n_mels: int) -> None:
    for name, pair in (("tile", tile), ("stride", stride)):
        least = MIN_TILE if name == "tile" else STEM_STRIDE
        if any(cells < least or cells % STEM_STRIDE for cells in pair):
            raise ConfigError(
                f"{name}: found {pair[0]}x{pair[1]}, expected two even numbers of spectrogram cells from {least} up"
            )
    if tile[0] > n_mels or (n_mels - tile[0]) % stride[0] or any(s > t for s, t in zip(stride, tile, strict=True)):
        raise ConfigError(
            f"tile, stride: found {tile[0]}x{tile[1]} every {stride[0]}x{stride[1]}, expected a stride no larger than "
            f"the tile, and tiles that fill the {n_mels} mel bands exactly"
        )


def _power_of_two(samples: float) -> int:
    n = 256
    while n < samples:
        n *= 2
    return n


def _hop(samples: float, n_fft: int) -> int:
    """The multiple of ``MIN_HOP_FACTOR`` nearest to ``samples``, at most half a frame."""
    factor = MIN_HOP_FACTOR
    return min(max(factor, round(samples / factor) * factor), n_fft // 2)
