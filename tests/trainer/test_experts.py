"""The experts: each family sees what it is made for, and is blind to what it should be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xaimoe_audio.config import DEFAULT_EXPERTS, FINE_EXPERTS, HIGHBAND_EXPERTS
from xaimoe_audio.model.descriptors import DESCRIPTORS
from xaimoe_audio.model.experts import FAMILIES, Expert, Front, Trunk, start_alike

EXPERTS = tuple(FAMILIES)


HEIGHT, WIDTH = 24, 24


def an_expert(name: str) -> Expert:
    torch.manual_seed(1)
    return Expert(Front(FAMILIES[name], height=HEIGHT, full_height=True, width=4), Trunk(width=4)).eval()


@torch.no_grad()
def answers(name: str, change: Tensor) -> tuple[Tensor, Tensor]:
    """Features of random patches as they are, and with ``change`` added to them."""
    torch.manual_seed(2)
    patches, position = torch.randn(6, 1, HEIGHT, WIDTH), torch.rand(6, 2)
    expert = an_expert(name)
    return expert(patches, position), expert(patches + change, position)


def in_rows(first: int, stop: int) -> Tensor:
    """Something random in some rows of the tile."""
    change = torch.zeros(6, 1, HEIGHT, WIDTH)
    change[:, :, first:stop] = torch.randn(6, 1, stop - first, WIDTH, generator=torch.Generator().manual_seed(5))
    return change


CHANGES = {
    "level": 3 * torch.ones(6, 1, 1, 1),
    "stationary": torch.randn(6, 1, HEIGHT, 1, generator=torch.Generator().manual_seed(3)),
    "broadband": torch.randn(6, 1, 1, WIDTH, generator=torch.Generator().manual_seed(4)),
    "lowest quarter": in_rows(0, 6),
    "low half": in_rows(0, 12),
    "high half": in_rows(12, 24),
}
BLIND = {
    "NoiseRobust_Broadband": {"level"},
    "NoiseRobust_LowFreq": {"level", "high half"},
    "NoiseRobust_HighFreq": {"level", "lowest quarter", "low half"},
    "TransientExpert": {"level", "stationary"},
    "HarmonicExpert": {"level", "broadband"},
    "FineFreqExpert": set(),
    "MidbandGeneral": {"lowest quarter"},
    "HighbandGeneral": {"lowest quarter", "low half"},
}


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("change", CHANGES)
def test_each_family_is_blind_to_what_it_should_be_and_to_nothing_else(name: str, change: str) -> None:
    before, after = answers(name, CHANGES[change])
    assert torch.allclose(before, after, atol=1e-5) == (change in BLIND[name])


def test_no_two_families_look_alike() -> None:
    looks = {(family.band, family.look, family.average, family.kernel, family.strides) for family in FAMILIES.values()}
    assert len(looks) == len(FAMILIES)


@pytest.mark.parametrize("name", EXPERTS)
@torch.no_grad()
def test_an_expert_knows_where_its_patch_lies(name: str) -> None:
    torch.manual_seed(0)
    expert, patch = an_expert(name), torch.randn(1, 1, HEIGHT, WIDTH)
    low, high = expert(patch, torch.tensor([[0.1, 0.5]])), expert(patch, torch.tensor([[0.9, 0.5]]))
    assert not torch.allclose(low, high)


@torch.no_grad()
@pytest.mark.parametrize("name", EXPERTS)
def test_an_expert_may_be_given_no_patch(name: str) -> None:
    assert an_expert(name)(torch.zeros(0, 1, HEIGHT, WIDTH), torch.zeros(0, 2)).shape == (0, 32)


@pytest.mark.parametrize("tile", [(24, 24), (64, 32), (40, 56)])
@pytest.mark.parametrize("full_height", [True, False])
def test_the_maps_of_all_families_have_one_size(tile: tuple[int, int], full_height: bool) -> None:
    patches = torch.zeros(2, 1, *tile)
    shapes = {Front(family, tile[0], full_height, width=4)(patches).shape for family in FAMILIES.values()}
    assert shapes == {(2, 8, tile[0] // 4, tile[1] // 4)}


def test_all_fronts_start_alike_each_with_its_own_kernel() -> None:
    fronts = {name: Front(family, HEIGHT, full_height=True, width=4) for name, family in FAMILIES.items()}
    start_alike(fronts.values(), width=4)
    square = fronts["MidbandGeneral"].body[1][0].weight
    assert torch.equal(fronts["NoiseRobust_Broadband"].body[1][0].weight, square)
    assert torch.equal(fronts["TransientExpert"].body[1][0].weight[..., 1:4], square)
    assert torch.equal(fronts["HarmonicExpert"].body[1][0].weight[:, :, 2:5], square)
    assert torch.allclose(fronts["FineFreqExpert"].body[1][0].weight[:, :, 1:4], square.sum(3, keepdim=True))
    pointwise = [front.body[2][2].weight for front in fronts.values()]
    assert all(torch.equal(one, pointwise[0]) for one in pointwise)
    assert len({one.data_ptr() for one in pointwise}) == len(FAMILIES)  # alike, not shared


def test_every_family_is_the_sibling_of_another_and_is_told_what_suits_it() -> None:
    for name, family in FAMILIES.items():
        assert family.sibling in set(FAMILIES) - {name}
        assert set(family.suits) <= set(DESCRIPTORS)
        assert any(weight > 0 for weight in family.suits.values()) or name == "NoiseRobust_Broadband"


def test_the_defaults_are_all_families() -> None:
    assert set(DEFAULT_EXPERTS) == set(FAMILIES)
    assert set(FAMILIES) >= HIGHBAND_EXPERTS | FINE_EXPERTS
