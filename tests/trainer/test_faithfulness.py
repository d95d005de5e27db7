"""Scores of a saliency's faithfulness: known answers, and the right side of random."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from xaimoe_audio.config import ModelConfig
from xaimoe_audio.training.faithfulness import area, cells, deletion_insertion, rank_correlation


def test_rank_correlation_is_spearmans() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(5, 9), torch.rand(5, 9)
    b[0, :4] = b[0, 0]  # ties
    wanted = [spearmanr(x, y).statistic for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert rank_correlation(a, b).tolist() == pytest.approx(wanted, abs=1e-5)


def test_rank_correlation_with_a_uniform_map_is_nothing() -> None:
    assert rank_correlation(torch.full((1, 6), 1 / 6), torch.rand(1, 6)).item() == 0


def test_cells_are_those_that_the_chosen_patches_have_in_their_middle(config: ModelConfig) -> None:
    grid = config.grid
    chosen = torch.zeros(1, grid.count, dtype=torch.bool)
    chosen[0, grid.shape[1] + 1] = True  # second row, second column
    found = cells(chosen, config)[0, 0]
    assert found.shape == (config.frontend.bins, config.frontend.frames)
    (height, width), (down, right) = config.tile, config.stride
    left = right + (width - right) // 2
    assert found.sum() == height * right
    assert found[down : down + height, left : left + right].all()


def test_all_patches_are_all_cells(config: ModelConfig) -> None:
    assert cells(torch.ones(2, config.grid.count, dtype=torch.bool), config).all()
    each = [cells(one[None], config) for one in torch.eye(config.grid.count, dtype=torch.bool)]
    assert torch.equal(sum(each), torch.ones(each[0].shape, dtype=torch.int))  # type: ignore[arg-type]


def test_a_map_that_knows_where_the_answer_lies_beats_one_that_does_not(config: ModelConfig) -> None:
    """The score is the share of patch 3 that is left; the best map names it first, the worst last."""
    count = config.grid.count
    spectrogram = torch.ones(1, 1, config.frontend.bins, config.frontend.frames)
    place = cells(torch.eye(count, dtype=torch.bool)[3:4], config).float()

    def score(masked: Tensor) -> Tensor:
        return ((masked + 4) / 5 * place).sum((1, 2, 3)) / place.sum()  # from 0 for silence to 1

    best = torch.eye(count)[3:4]
    deleted, inserted = map(area, deletion_insertion(score, spectrogram, best, config))
    assert (deleted.item(), inserted.item()) == pytest.approx((1 / 8, 7 / 8))
    deleted, inserted = map(area, deletion_insertion(score, spectrogram, 1 - best, config))
    assert (deleted.item(), inserted.item()) == pytest.approx((7 / 8, 1 / 8))


def test_what_is_removed_is_silent_and_silence_stays_so(config: ModelConfig) -> None:
    silent = torch.full((1, 1, config.frontend.bins, config.frontend.frames), -4.0)
    seen: list[Tensor] = []

    def score(masked: Tensor) -> Tensor:
        seen.append(masked)
        return masked.mean((1, 2, 3))

    deletion_insertion(score, silent, torch.rand(1, config.grid.count), config)
    assert len(seen) == 8
    assert all(torch.equal(one, silent) for one in seen)
    seen.clear()
    deletion_insertion(score, torch.ones_like(silent), torch.rand(1, config.grid.count), config)
    assert {value for one in seen for value in one.unique().tolist()} == {-4.0, 1.0}
