"""Augmentation: what each one changes in a spectrogram, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT
from xaimoe_audio.training.augment import frequency_shift, level_jitter, spec_augment, stretch, time_shift

BINS, FRAMES = 48, 96
GEOMETRIC: list[Callable[[Tensor, float], Tensor]] = [stretch, time_shift, frequency_shift]


def dot(batch: int = 16, bin_: int = 20, frame: int = 50) -> Tensor:
    """One bright spot on a dark ground."""
    spectrogram = torch.zeros(batch, 1, BINS, FRAMES)
    spectrogram[:, :, bin_ - 1 : bin_ + 2, frame - 1 : frame + 2] = 1.0
    return spectrogram


def place(spectrogram: Tensor) -> Tensor:
    """Row and column of each spot's centre of mass, [B, 2]."""
    weight = spectrogram[:, 0] / spectrogram[:, 0].sum((1, 2), keepdim=True)
    rows = (weight.sum(2) * torch.arange(BINS)).sum(1)
    columns = (weight.sum(1) * torch.arange(FRAMES)).sum(1)
    return torch.stack([rows, columns], dim=1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("augment", [*GEOMETRIC, level_jitter])
def test_nothing_changes_at_zero(augment: Callable[[Tensor, float], Tensor]) -> None:
    spectrogram = torch.rand(4, 1, BINS, FRAMES)
    torch.testing.assert_close(augment(spectrogram, 0.0), spectrogram, atol=1e-4, rtol=0)


@pytest.mark.parametrize("augment", [*GEOMETRIC, level_jitter])
def test_clips_of_a_batch_are_changed_each_in_its_own_way(augment: Callable[[Tensor, float], Tensor]) -> None:
    changed = augment(dot(), 0.2)
    assert changed.shape == (16, 1, BINS, FRAMES)
    assert len({tuple(one.flatten().tolist()) for one in changed}) > 8


def test_time_shift_turns_the_clip_around_and_keeps_every_cell() -> None:
    changed = time_shift(dot(frame=2), 0.15)
    assert torch.allclose(changed.sum((1, 2, 3)), torch.tensor(9.0))
    assert torch.equal(changed.sum(3), dot().sum(3))
    moved = (changed[:, 0].sum(1).argmax(1) - 1) % FRAMES
    assert int(torch.minimum(moved, FRAMES - moved).max()) <= 0.15 * FRAMES + 2


def test_frequency_shift_moves_up_or_down_and_leaves_time_alone() -> None:
    moved = place(frequency_shift(dot(), 0.05)) - place(dot())
    assert float(moved[:, 0].abs().max()) == 2  # 0.05 of 48 rows
    assert {-2.0, 2.0} <= set(moved[:, 0].round().tolist())
    assert float(moved[:, 1].abs().max()) < 1e-4


def test_stretch_widens_or_narrows_by_no_more_than_asked() -> None:
    two = dot(64, frame=30) + dot(64, frame=66)
    changed = stretch(two, 0.15)[:, 0].sum(1)
    left = (changed[:, :48] * torch.arange(48)).sum(1) / changed[:, :48].sum(1)
    right = (changed[:, 48:] * torch.arange(48, 96)).sum(1) / changed[:, 48:].sum(1)
    ratio = (right - left) / 36
    assert 0.85 < float(ratio.min()) < 0.95
    assert 1.05 < float(ratio.max()) < 1.18


def test_stretch_fills_the_edge_with_the_edge() -> None:
    constant = torch.full((16, 1, BINS, FRAMES), 0.7)
    torch.testing.assert_close(stretch(constant, 0.3), constant)


def test_level_jitter_keeps_within_the_limits_of_a_spectrogram() -> None:
    high = torch.full((32, 1, BINS, FRAMES), SPECTROGRAM_LIMIT)
    assert float(level_jitter(high, 0.5).max()) == SPECTROGRAM_LIMIT
    offset = level_jitter(torch.zeros(64, 1, BINS, FRAMES), 0.5)[:, 0, 0, 0]
    assert -0.5 <= float(offset.min()) < -0.3
    assert 0.3 < float(offset.max()) <= 0.5


def test_spec_augment_masks_one_band_and_one_stretch_with_zero() -> None:
    masked = spec_augment(torch.ones(32, 1, BINS, FRAMES), masks=1)[:, 0]
    rows, columns = (masked == 0).all(2).sum(1), (masked == 0).all(1).sum(1)
    assert 0 < int(rows.max()) <= BINS / 6 + 1
    assert 0 < int(columns.max()) <= FRAMES / 8 + 1
    wanted = BINS * FRAMES - (BINS - rows) * (FRAMES - columns)
    assert torch.equal((masked == 0).sum((1, 2)), wanted)
