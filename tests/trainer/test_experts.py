"""The experts: each family's view shows what it is made for and hides the rest; all start as copies of one network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xaimoe_audio.config import DEFAULT_EXPERTS, FINE_EXPERTS, HIGHBAND_EXPERTS
from xaimoe_audio.model.descriptors import DESCRIPTORS
from xaimoe_audio.model.experts import FAMILIES, Expert, Front, Trunk, first_layers, start_alike
from xaimoe_audio.model.pooling import POWER, as_summands, from_mean, mean_and_most
from xaimoe_runtime.grid import PatchGrid

EXPERTS = tuple(FAMILIES)


HEIGHT, WIDTH = 24, 24
GRID = PatchGrid(rows=HEIGHT, columns=WIDTH, tile=(HEIGHT, WIDTH), stride=(HEIGHT, WIDTH))


def a_front(name: str) -> Front:
    torch.manual_seed(1)
    return Front(FAMILIES[name], height=HEIGHT, full_height=True, width=4).eval()


def an_expert(name: str) -> Expert:
    return Expert(a_front(name), Trunk(width=4, grid=GRID)).eval()


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
    "NoiseRobust_LowFreq": {"high half"},
    "NoiseRobust_HighFreq": {"lowest quarter", "low half"},
    "TransientExpert": {"level", "stationary"},
    "HarmonicExpert": {"level", "broadband"},
    "FineFreqExpert": {"level", "broadband"},
    "MidbandGeneral": {"lowest quarter"},
    "HighbandGeneral": {"lowest quarter", "low half"},
}


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("change", CHANGES)
def test_each_family_has_a_view_that_is_blind_to_what_it_should_be(name: str, change: str) -> None:
    patches = torch.randn(6, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    view = a_front(name).view
    before, after = view(patches), view(patches + CHANGES[change])
    assert before.shape == patches.shape
    assert torch.allclose(before, after, atol=1e-5) == (change in BLIND[name])


def test_an_expert_of_noise_sees_it_steadied() -> None:
    patches = torch.randn(6, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    for name in ("NoiseRobust_LowFreq", "NoiseRobust_HighFreq", "FineFreqExpert"):
        front = a_front(name)
        assert front.view(patches)[:, :, front.rows].std() < 0.4


def test_no_two_families_look_alike() -> None:
    looks = {(family.band, family.look, family.kernel) for family in FAMILIES.values()}
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
    assert an_expert(name)(torch.zeros(0, 1, HEIGHT, WIDTH), torch.zeros(0, 2)).shape == (0, 64)


@pytest.mark.parametrize("tile", [(24, 24), (64, 32), (40, 56)])
@pytest.mark.parametrize("full_height", [True, False])
def test_the_maps_of_all_families_have_one_size(tile: tuple[int, int], full_height: bool) -> None:
    patches = torch.zeros(2, 1, *tile)
    shapes = {Front(family, tile[0], full_height, width=4)(patches).shape for family in FAMILIES.values()}
    assert shapes == {(2, 8, tile[0] // 4, tile[1] // 4)}


@torch.no_grad()
def test_all_fronts_start_as_copies_of_one_that_sees_the_patch_as_it_is() -> None:
    torch.manual_seed(0)
    generalist = first_layers(1, 4)
    for _ in range(3):
        generalist(torch.randn(4, 1, HEIGHT, WIDTH))  # its normalisation has seen something
    fronts = {name: a_front(name) for name in FAMILIES}
    start_alike(fronts.values(), generalist)
    patches = torch.randn(2, 1, HEIGHT, WIDTH)
    wanted = generalist.eval()(patches)
    for front in fronts.values():
        assert torch.allclose(front.eval()(patches), wanted, atol=1e-5)
    pointwise = [front.body[1][2].weight for front in fronts.values()]
    assert len({one.data_ptr() for one in pointwise}) == len(FAMILIES)  # alike, not shared


@torch.no_grad()
def test_where_tiles_overlap_the_cells_at_their_edges_are_left_to_their_neighbours() -> None:
    torch.manual_seed(0)
    grid = PatchGrid(rows=64, columns=128, tile=(64, 64), stride=(64, 32))
    trunk = Trunk(width=4, grid=grid).eval()
    maps, position = torch.randn(3, 8, 16, 16), torch.from_numpy(grid.positions())
    deep = trunk.meant(maps, position)
    assert deep.shape == (3, 32, 4, 4)
    found = trunk(maps, position)
    for patch, own in enumerate((slice(0, 3), slice(1, 3), slice(1, 4))):  # the ends of a clip have no neighbour
        wanted = as_summands(mean_and_most(deep[patch : patch + 1, :, :, own]))
        torch.testing.assert_close(found[patch : patch + 1], wanted)


def test_a_mean_of_summands_holds_the_mean_and_nearly_the_maximum() -> None:
    seen = torch.zeros(10, 4)
    seen[:, :2] = torch.arange(10.0)[:, None]  # the means of two channels
    seen[3, 2], seen[:, 3] = 6.0, 2.0  # a maximum in one place, and one in all
    answer = from_mean(as_summands(seen).mean(0, keepdim=True))[0]
    assert answer[0] == pytest.approx(4.5 + 6.0 * 0.1 ** (1 / POWER), rel=0.02)
    assert answer[1] == pytest.approx(4.5 + 2.0, rel=0.01)
    nothing = torch.zeros(1, 4, requires_grad=True)
    from_mean(nothing).sum().backward()
    assert from_mean(nothing).abs().max() < 1e-5
    assert nothing.grad is not None and torch.isfinite(nothing.grad).all()


def test_every_family_is_the_sibling_of_another_and_is_told_what_suits_it() -> None:
    for name, family in FAMILIES.items():
        assert family.sibling in set(FAMILIES) - {name}
        assert set(family.suits) <= set(DESCRIPTORS)
        assert any(weight > 0 for weight in family.suits.values()) or name == "NoiseRobust_Broadband"


def test_the_defaults_are_all_families() -> None:
    assert set(DEFAULT_EXPERTS) == set(FAMILIES)
    assert set(FAMILIES) >= HIGHBAND_EXPERTS | FINE_EXPERTS
