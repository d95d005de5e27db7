"""From choices to a configuration: what makes no sense is refused, and what is built fits together."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from data.configs import model_config
from hypothesis import given, settings
from hypothesis import strategies as st

from xaimoe_audio.config import Budget, ModelConfig
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.grid import PatchGrid


def size(duration_s: float = 1.0, budget: Budget = "accuracy", **overrides: Any) -> ModelConfig:
    return model_config(budget, facts={"duration": duration_s}, **overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"sample_rate": 1_000}, "sample_rate: found 1000 Hz, expected 2000 to 400000 Hz"),
        ({"sample_rate": 0}, "sample_rate: found 0 Hz"),
        (
            {"sample_rate": 16_000, "fmax": 9_000.0},
            "fmin, fmax: found 50 and 9000 Hz, expected 0 <= fmin < fmax <= 8000 Hz",
        ),
        ({"fmin": 0.0, "spectrogram": "cqt"}, "fmin: found 0 Hz, expected more than 0 Hz for spectrogram cqt"),
        ({"fmin": 0.0, "spectrogram": "fcwt"}, "fmin: found 0 Hz, expected more than 0 Hz for spectrogram fcwt"),
        ({"fmin": 4_000.0, "fmax": 3_000.0}, "fmin, fmax: found 4000 and 3000 Hz"),
        ({"fmin": -1.0}, "fmin, fmax: found -1"),
        ({"fmin": float("nan")}, "fmin, fmax: found nan"),
        ({"clip_s": 0.01}, "clip_s: found 0.01 s, expected 0.1 to 60 s"),
        ({"clip_s": 61.0}, "clip_s: found 61 s"),
        ({"clip_s": float("nan")}, "clip_s: found nan"),
        ({"fmin": 2.0, "spectrogram": "cqt"}, "fmin: found 2 Hz, at which a filter of spectrogram cqt lasts"),
        ({"fmin": 0.5, "spectrogram": "fcwt"}, "expected no longer than the clip of 1"),
        ({"k_max": 0}, "k_max: found 0, expected 1 to 8"),
        ({"k_max": 3, "experts": ("TransientExpert", "HarmonicExpert")}, "k_max: found 3, expected 1 to 2"),
        ({"spectrogram": "mfcc"}, "spectrogram: found 'mfcc', expected cqt, fcwt, logmel, logmel+pcen, stft"),
        ({"experts": ("Sonar",)}, "experts: found Sonar; expected different names out of FineFreqExpert"),
        ({"experts": ("TransientExpert", "TransientExpert")}, "experts: found TransientExpert, TransientExpert"),
        ({"experts": ()}, "experts: "),
        ({"tile": (63, 32)}, "tile: found 63x32, expected two multiples of 8"),
        ({"tile": (0, 32)}, "tile: found 0x32"),
        ({"tile": (128, 32)}, "tile, stride: found 128x32"),
        ({"tile": (48, 32)}, "tile, stride: found 48x32 every 48x16"),
        ({"stride": (64, 64)}, "tile, stride: found 64x32 every 64x64"),
        ({"stride": (64, 31)}, "stride: found 64x31, expected two multiples of 2"),
    ],
)
def test_an_override_that_makes_no_sense_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        size(**overrides)
    assert message in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(
    duration_s=st.floats(0.01, 100),
    budget=st.sampled_from(["accuracy", "latency"]),
    rate=st.one_of(st.none(), st.integers(2_000, 400_000)),
    tile=st.sampled_from([None, (24, 24), (32, 32), (32, 64)]),
    overlapping=st.booleans(),
    clip_s=st.one_of(st.none(), st.floats(0.1, 20)),
)
def test_a_clip_fills_the_patch_grid_exactly(
    duration_s: float,
    budget: Budget,
    rate: int | None,
    tile: tuple[int, int] | None,
    overlapping: bool,
    clip_s: float | None,
) -> None:
    if tile:
        budget = "latency" if tile[0] == 24 else "accuracy"  # 48 bands, or 64
    stride = (tile[0] // 2, tile[1] // 2) if tile and overlapping else None
    fmin = 50.0 if rate is None else min(50.0, rate / 4)
    config = size(duration_s, budget, sample_rate=rate, fmin=fmin, tile=tile, stride=stride, clip_s=clip_s)
    frontend, grid = config.frontend, config.grid  # the grid refuses tiles that do not fill it
    frames = config.tile[1] + (grid.shape[1] - 1) * config.stride[1]
    assert frontend.frames == frames == grid.columns
    assert frontend.clip_samples % frontend.hop == 0
    span = frontend.win_length + (frames - 1) * frontend.hop
    assert span <= frontend.clip_samples < span + frontend.hop
    wanted = min(max(duration_s, 0.5), 5.0) if clip_s is None else clip_s
    assert frontend.clip_s >= wanted - frontend.hop / frontend.sample_rate
    assert frontend.hop % 32 == 0
    assert frontend.win_length % 32 == 0
    assert frontend.n_fft == frontend.win_length
    assert 1 <= config.router.max_pairs <= grid.count * len(config.experts)


def test_the_budgets_are_two_sizes() -> None:
    accurate, fast = size(budget="accuracy"), size(budget="latency")
    assert accurate.frontend.bins > fast.frontend.bins
    frame_s, shorter = (config.frontend.win_length / config.frontend.sample_rate for config in (accurate, fast))
    assert frame_s > shorter
    assert accurate.router.k_max > fast.router.k_max
    assert accurate.expert_width > fast.expert_width
    assert accurate.features > fast.features


def test_overrides_are_taken_as_they_are() -> None:
    config = size(
        sample_rate=32_000,
        fmin=100.0,
        fmax=12_000.0,
        experts=("TransientExpert",),
        k_max=1,
        stride=(32, 16),
        tile=(32, 32),
    )
    assert (config.frontend.sample_rate, config.frontend.fmin, config.frontend.fmax) == (32_000, 100.0, 12_000.0)
    assert (config.experts, config.router.k_max) == (("TransientExpert",), 1)
    assert (config.tile, config.stride) == ((32, 32), (32, 16))


def test_the_upper_edge_is_half_the_rate_by_default() -> None:
    assert size(sample_rate=8_000).frontend.fmax == 4_000


@pytest.mark.parametrize(("duration_s", "low", "high"), [(0.05, 0.5, 0.8), (3.0, 3.0, 3.6), (600.0, 5.0, 5.7)])
def test_the_clip_is_as_long_as_the_typical_recording_within_limits(duration_s: float, low: float, high: float) -> None:
    assert low - 0.02 <= size(duration_s).frontend.clip_s <= high


def test_a_model_survives_the_way_through_json() -> None:
    config = size(tile=(32, 24))
    assert msgspec.json.decode(msgspec.json.encode(config), type=ModelConfig) == config


@pytest.mark.parametrize(("rows", "columns"), [(63, 96), (64, 100), (16, 96)])
def test_a_grid_that_does_not_cover_the_map_is_refused(rows: int, columns: int) -> None:
    with pytest.raises(ValueError, match="do not cover"):
        PatchGrid(rows=rows, columns=columns, tile=(32, 32), stride=(32, 32))


def test_every_cell_of_the_map_lies_in_a_tile() -> None:
    grid = size(2.5, tile=(32, 32), stride=(16, 8)).grid
    seen = np.zeros((grid.rows, grid.columns), bool)
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            top, left = row * grid.stride[0], column * grid.stride[1]
            seen[top : top + grid.tile[0], left : left + grid.tile[1]] = True
    assert seen.all()
