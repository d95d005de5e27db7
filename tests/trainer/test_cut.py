"""A cut budget in training, beside the runtime's."""

from __future__ import annotations

import numpy as np
import torch

from xaimoe_audio.training.cut import cut
from xaimoe_runtime.budget import opinions

CLIPS, PATCHES, EXPERTS = 40, 5, 4


def some_gates() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (CLIPS, PATCHES, EXPERTS)
    return torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)


def test_the_best_expert_of_each_patch_stays_first() -> None:
    gates = torch.tensor([[[0.5, 0.4], [0.1, 0.0], [0.2, 0.3]]])
    kept = [torch.nonzero(cut(gates, torch.tensor([pairs]))[0]).tolist() for pairs in range(6)]
    assert kept[0] == []
    assert kept[1] == [[0, 0]]
    assert kept[2] == [[0, 0], [2, 1]]
    assert kept[3] == [[0, 0], [1, 0], [2, 1]]
    assert kept[4] == [[0, 0], [0, 1], [1, 0], [2, 1]]
    assert kept[5] == [[0, 0], [0, 1], [1, 0], [2, 0], [2, 1]]


def test_a_pair_keeps_its_gate_or_loses_it_whole() -> None:
    gates = some_gates()
    pairs = torch.arange(CLIPS) % 12
    left = cut(gates, pairs)
    assert torch.equal(left[left > 0], gates[left > 0])
    assert torch.equal((left > 0).sum((1, 2)), torch.minimum(pairs, (gates > 0).sum((1, 2))))


def test_no_later_opinion_stays_where_an_earlier_one_of_the_clip_is_cut() -> None:
    gates = some_gates()
    left = cut(gates, torch.arange(CLIPS) % 12)
    rank = torch.from_numpy(opinions(np.asarray(gates)))
    lowest_cut = torch.where((gates > 0) & (left == 0), rank, EXPERTS).amin((1, 2))
    highest_kept = torch.where(left > 0, rank, -1).amax((1, 2))
    assert (highest_kept <= lowest_cut).all()
