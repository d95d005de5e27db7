"""From choices to a model's configuration: where they are checked, and made to fit each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from xaimoe_audio.config import (
    ATTRIBUTES_VERSION,
    MAX_CLIP_S,
    MAX_RATE,
    MIN_CLIP_S,
    MIN_RATE,
    MIN_TILE,
    TILE_STEP,
    FrontendConfig,
    ModelConfig,
    RouterConfig,
)
from xaimoe_audio.policy.network import TILE_FRAMES, half_overlapping
from xaimoe_audio.spectrogram.framing import frame_lengths
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.schema import TaskKind


class ChecksFrontend(Protocol):
    """What must be known of a spectrogram backend."""

    def check(self, config: FrontendConfig, /) -> None:
        """Raises ConfigError for what the backend cannot do."""


def build(
    made: dict[str, Any],
    task: TaskKind,
    labels: tuple[str, ...],
    families: Collection[str],
    backends: Mapping[str, ChecksFrontend],
) -> ModelConfig:
    """The configuration of the model that was chosen; the clip is lengthened until tiles fill its spectrogram.

    Args:
        made: the values of a policy's choices.
        task: one class a recording, or any number.
        labels: class names.
        families: names of the expert families that there are.
        backends: the spectrogram backends that there are, by name.

    Raises:
        ConfigError: a choice is out of range or does not fit another.
    """
    check_choices(made, families, backends)
    rate, fmin, fmax, clip_s = made["sample_rate"], made["fmin"], made["fmax"], made["clip_s"]
    experts, k_max = made["experts"], made["k_max"]
    tile, stride, bins = tuple(made["tile"]), tuple(made["stride"]), made["bins"]
    n_fft, win_length, hop = frame_lengths(rate, made["frame_s"], made["hop_s"])
    steps = _steps(max(clip_s * rate - win_length, 0) / hop + 1, tile[1], stride[1])
    frames = tile[1] + steps * stride[1]
    clip_samples = -(-(win_length + (frames - 1) * hop) // hop) * hop
    if clip_samples > MAX_CLIP_S * rate:
        raise ConfigError(
            f"tile: found {tile[0]}x{tile[1]}, which makes a clip of {clip_samples / rate:.0f} s; "
            f"expected a width that fits into {MAX_CLIP_S:g} s"
        )
    frontend = FrontendConfig(
        sample_rate=rate,
        clip_samples=clip_samples,
        spectrogram=made["spectrogram"],
        n_fft=n_fft,
        win_length=win_length,
        hop=hop,
        bins=bins,
        fmin=float(fmin),
        fmax=float(fmax),
        attributes_version=ATTRIBUTES_VERSION,
    )
    backends[frontend.spectrogram].check(frontend)
    tiles = ((bins - tile[0]) // stride[0] + 1) * (steps + 1)
    return ModelConfig(
        task=task,
        labels=labels,
        frontend=frontend,
        tile=tile,
        stride=stride,
        experts=tuple(experts),
        router=RouterConfig(
            k_max=k_max,
            max_pairs=max(k_max, round(made["pair_share"] * tiles * len(experts))),
            focus=made["focus"],
            unsure=tuple(made["unsure"]),
        ),
        expert_width=made["expert_width"],
        detects_background=True,
    )


def check_choices(made: dict[str, Any], families: Collection[str], backends: Collection[str]) -> None:
    """Raises ConfigError for choices that are out of range or exclude each other, whatever the data.

    Choices that are not made yet stand in nobody's way; ``bins`` must be made.
    """
    rate = made.get("sample_rate", MAX_RATE)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ConfigError(f"sample_rate: found {rate} Hz, expected {MIN_RATE} to {MAX_RATE} Hz")
    fmin, fmax = made.get("fmin", 0.0), made.get("fmax", rate / 2)
    if not 0 <= fmin < fmax <= rate / 2:
        raise ConfigError(
            f"fmin, fmax: found {fmin:g} and {fmax:g} Hz, expected 0 <= fmin < fmax <= {rate / 2:g} Hz "
            f"(half the sample rate of {rate} Hz); lower fmax or raise sample_rate"
        )
    clip_s = made.get("clip_s", MIN_CLIP_S)
    if not MIN_CLIP_S <= clip_s <= MAX_CLIP_S:
        raise ConfigError(f"clip_s: found {clip_s:g} s, expected {MIN_CLIP_S:g} to {MAX_CLIP_S:g} s")
    if "spectrogram" in made and made["spectrogram"] not in backends:
        raise ConfigError(f"spectrogram: found {made['spectrogram']!r}, expected {', '.join(backends)}")
    experts = made.get("experts", tuple(families))
    unknown = sorted(set(experts) - set(families))
    if not experts or unknown or len(set(experts)) != len(experts):
        raise ConfigError(
            f"experts: found {', '.join(experts) or 'none'}; "
            f"expected different names out of {', '.join(sorted(families))}"
        )
    k_max = made.get("k_max", 1)
    if not 1 <= k_max <= len(experts):
        raise ConfigError(f"k_max: found {k_max}, expected 1 to {len(experts)}, the number of experts")
    tile = made.get("tile", (made["bins"], TILE_FRAMES))
    _check_tiles(tuple(tile), tuple(made.get("stride", half_overlapping(tile))), made["bins"])


def _steps(wanted_frames: float, tile: int, stride: int) -> int:
    """Tiles after the first that it takes to cover the frames."""
    return max(0, -int(-(wanted_frames - tile) // stride))


def _check_tiles(tile: tuple[int, ...], stride: tuple[int, ...], bins: int) -> None:
    for name, pair in (("tile", tile), ("stride", stride)):
        least, step = (MIN_TILE, TILE_STEP) if name == "tile" else (2, 2)
        if any(cells < least or cells % step for cells in pair):
            raise ConfigError(
                f"{name}: found {pair[0]}x{pair[1]}, expected two multiples of {step} spectrogram cells from {least} up"
            )
    if tile[0] > bins or (bins - tile[0]) % stride[0] or any(s > t for s, t in zip(stride, tile, strict=True)):
        raise ConfigError(
            f"tile, stride: found {tile[0]}x{tile[1]} every {stride[0]}x{stride[1]}, expected a stride no larger than "
            f"the tile, and tiles that fill the {bins} bands exactly"
        )
