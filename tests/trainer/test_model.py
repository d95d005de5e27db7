"""The network: sparse and continuous routing, exact dispatch, and experts that really see different things."""

from __future__ import annotations

import itertools

import pytest
import torch
from data import noise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaimoe_audio.checkpoint import load_checkpoint
from xaimoe_audio.config import ModelConfig, RouterConfig
from xaimoe_audio.model.experts import FAMILIES, Expert
from xaimoe_audio.model.glance import GLOBAL_CONTEXT, PATCH_CONTEXT
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.model.router import LEARNED_ATTRIBUTES, Router
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES, INDEX
from xaimoe_runtime.schema import ROUTINGS, Routing

EXPERTS = tuple(FAMILIES)
PATCHES, K_MAX, MAX_PAIRS = 8, 2, 6
GOOD = {
    "snr": 20.0,
    "flatness": 0.3,
    "transient_rate": 0.0,
    "fmin_eff": 0.0,
    "fmax_eff": 8e3,
    "level": -30.0,
    "quality": 1.0,
}


def a_router(seed: int = 0, k_max: int = K_MAX, max_pairs: int = MAX_PAIRS) -> Router:
    """A router whose opinion depends strongly on what it is given."""
    torch.manual_seed(seed)
    router = Router(EXPERTS, torch.ones(PATCHES, len(EXPERTS)), RouterConfig(k_max=k_max, max_pairs=max_pairs)).eval()
    with torch.no_grad():
        router.clip_affinity.weight.mul_(3)
        router.patch_affinity.weight.mul_(3)
    return router


def attributes(batch: int = 1, **changed: float) -> Tensor:
    values = torch.zeros(batch, len(ATTRIBUTES))
    for name, value in (GOOD | changed).items():
        values[:, INDEX[name]] = value
    return values


def clips(batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random saliency [B, P] and context [B, C]."""
    generator = torch.Generator().manual_seed(seed)
    saliency = torch.softmax(1.5 * torch.randn(batch, PATCHES, generator=generator), dim=1)
    context = torch.tanh(torch.randn(batch, GLOBAL_CONTEXT + PATCHES * PATCH_CONTEXT, generator=generator))
    return saliency, context


def waveforms(config: ModelConfig, count: int) -> tuple[Tensor, Tensor]:
    size = config.frontend.clip_samples
    time = torch.arange(size) / config.frontend.sample_rate
    sounds = [
        torch.from_numpy(noise(size, seed, level=10 ** (-(seed % 4) - 1)))
        + 0.3 * torch.sin(2 * torch.pi * 150 * (1 + seed % 40) * time) * (time % 0.5 < 0.1 * (1 + seed % 5))
        for seed in range(count)
    ]
    return torch.stack(sounds), torch.tensor([[16_000.0, 0.0]] * count)


def experts_used(gates: Tensor) -> Tensor:
    return (gates > 0).any(1).sum(1)


def pairs_used(gates: Tensor) -> Tensor:
    return (gates > 0).sum((1, 2))


# Dispatch ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("routing", ROUTINGS)
def test_dispatch_equals_running_every_expert_on_every_patch(
    model: MoEAudioModel, config: ModelConfig, routing: Routing
) -> None:
    routed = model.route(*model.frontend(*waveforms(config, 8)))
    gates = routed.gates_for(routing)
    assert (gates > 0).any() == (routing != "glance")
    for found, wanted in zip(
        model.mixture(routed.feature_map, gates), model.mixture_reference(routed.feature_map, gates), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**16), share=st.floats(0, 1), batch=st.integers(1, 3))
def test_dispatch_is_exact_for_any_gates(model: MoEAudioModel, seed: int, share: float, batch: int) -> None:
    torch.manual_seed(seed)
    grid, config = model.grid, model.config
    feature_map = torch.randn(batch, config.stem_channels, grid.rows, grid.columns)
    gates = torch.rand(batch, grid.count, len(config.experts))
    gates = gates * (torch.rand_like(gates) < share)
    for found, wanted in zip(
        model.mixture(feature_map, gates), model.mixture_reference(feature_map, gates), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tiles_are_the_cells_that_the_grid_says(model: MoEAudioModel) -> None:
    grid = model.grid
    feature_map = torch.arange(2 * grid.rows * grid.columns).float().reshape(1, 2, grid.rows, grid.columns)
    tiles = model.tiles(feature_map)[0]
    assert len(tiles) == grid.count > grid.shape[1] > 1
    for patch, (row, column) in enumerate(itertools.product(range(grid.shape[0]), range(grid.shape[1]))):
        top, left = row * grid.stride[0], column * grid.stride[1]
        wanted = feature_map[0, :, top : top + grid.tile[0], left : left + grid.tile[1]]
        assert torch.equal(tiles[patch], wanted)


@torch.no_grad()
def test_without_any_pair_the_answer_is_exactly_the_calibrated_prior(model: MoEAudioModel, config: ModelConfig) -> None:
    scores, routed = model(*waveforms(config, 4), "glance")
    assert torch.equal(scores, torch.softmax(routed.prior_logits / model.head.temperatures[0], dim=1))


@torch.no_grad()
def test_the_more_mass_the_more_the_experts_are_believed(model: MoEAudioModel) -> None:
    features, labels = model.config.features, len(model.config.labels)
    torch.manual_seed(0)
    answer, prior = torch.rand(1, features), torch.randn(1, labels)
    from_prior = torch.softmax(prior / model.head.temperatures[0], 1)
    distance = []
    for mass in (0.0, 1e-3, 0.1, 1.0):
        scores = model.head(mass * answer, torch.full((1, 1), mass), prior)
        distance.append(float((scores - from_prior).abs().sum()))
    assert distance[0] == 0
    assert distance == sorted(distance)


@torch.no_grad()
def test_a_clip_alone_gets_the_answer_it_gets_in_a_batch(model: MoEAudioModel, config: ModelConfig) -> None:
    waveform, source = waveforms(config, 64)
    together, _ = model(waveform, source)
    for i in (0, 13, 63):
        alone, _ = model(waveform[i : i + 1], source[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-5)


# Saliency ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_saliency_sums_to_one_and_differs_from_clip_to_clip(model: MoEAudioModel, config: ModelConfig) -> None:
    routed = model.route(*model.frontend(*waveforms(config, 8)))
    torch.testing.assert_close(routed.saliency.sum(1), torch.ones(8))
    assert routed.saliency.min() > 0
    assert (routed.saliency - routed.saliency.mean(0)).abs().max() > 1e-3


@torch.no_grad()
def test_saliency_of_a_spectrogram_on_its_floor_is_uniform(model: MoEAudioModel, config: ModelConfig) -> None:
    floor = torch.full((1, 1, config.frontend.bins, config.frontend.frames), -4.0)
    saliency, *_ = model.glance(floor)
    assert torch.equal(saliency, torch.full_like(saliency, 1 / model.grid.count))


@torch.no_grad()
def test_saliency_of_silence_is_uniform_in_a_trained_model(checkpoint) -> None:  # type: ignore[no-untyped-def]
    model = load_checkpoint(checkpoint).model
    silence = torch.zeros(1, model.config.frontend.clip_samples)
    routed = model.route(*model.frontend(silence, torch.tensor([[16_000.0, 0.0]])))
    uniform = torch.full_like(routed.saliency, 1 / model.grid.count)
    torch.testing.assert_close(routed.saliency, uniform, rtol=0, atol=1e-6)


# Router --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    k_max=st.integers(1, 4),
    max_pairs=st.integers(1, 32),
    quality=st.floats(0, 1),
    transient_rate=st.floats(-0.5, 3),
    fmax_eff=st.floats(0, 8_000),
)
def test_a_clip_never_uses_more_experts_or_pairs_than_allowed(
    seed: int, k_max: int, max_pairs: int, quality: float, transient_rate: float, fmax_eff: float
) -> None:
    given_attributes = attributes(16, quality=quality, transient_rate=transient_rate, fmax_eff=fmax_eff)
    gates, dense = a_router(seed, k_max, max_pairs)(*clips(16, seed), given_attributes)
    assert experts_used(gates).max() <= k_max
    assert pairs_used(gates).max() <= max_pairs
    for found in (gates, dense):
        assert torch.isfinite(found).all()
        assert found.min() >= 0
        assert found.sum((1, 2)).max() <= 1 + 1e-5
    assert not ((gates > 0) & (dense == 0)).any()


@torch.no_grad()
def test_gates_are_sparse_and_differ_from_clip_to_clip() -> None:
    gates, dense = a_router()(*clips(64), attributes(64))
    assert (dense > 0).all()
    assert 0 < pairs_used(gates).float().mean() <= MAX_PAIRS
    assert len({tuple(row) for row in (gates > 0).any(1).tolist()}) > 1


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), quality=st.floats(0, 1), transient_rate=st.floats(-0.5, 3))
def test_a_rounding_error_moves_no_gate_by_much(seed: int, quality: float, transient_rate: float) -> None:
    router, (saliency, context) = a_router(seed), clips(32, seed)
    given_attributes = attributes(32, quality=quality, transient_rate=transient_rate)
    torch.manual_seed(seed + 1)
    nudged = (saliency + 1e-6 * torch.randn_like(saliency), context + 1e-6 * torch.randn_like(context))
    before, dense_before = router(saliency, context, given_attributes)
    after, dense_after = router(*nudged, given_attributes)
    assert (after - before).abs().max() < 1e-3
    assert (dense_after - dense_before).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_a_pair_fades_out_before_it_is_dropped(seed: int) -> None:
    """From one clip to another in ever smaller steps: pairs come and go, but the jumps shrink with the steps."""

    def largest_jump(steps: int) -> tuple[float, int]:
        share = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
        (s0, c0), (s1, c1) = clips(1, seed), clips(1, seed + 100)
        low, high = attributes(quality=0.0, fmax_eff=1_500.0), attributes(transient_rate=2.0)
        mixed = [(1 - share) * a + share * b for a, b in ((s0, s1), (c0, c1), (low, high))]
        gates, _ = router(*mixed)
        drops = int(((gates[1:] > 0) != (gates[:-1] > 0)).sum())
        return float((gates[1:] - gates[:-1]).abs().max()), drops

    router = a_router(seed).double()
    coarse, drops = largest_jump(20_001)
    fine, _ = largest_jump(200_001)
    assert drops > 4
    assert fine < coarse / 4


@torch.no_grad()
def test_a_rounding_error_moves_no_gate_by_much_where_the_first_pair_fades_in() -> None:
    """The steepest place there is: quality rises until the router, which had nothing to run, runs its first pair."""
    steps, seed = 20_001, 3
    router, (saliency, context) = a_router(seed).double(), (tensor.double() for tensor in clips(1, seed))
    rising = attributes(steps, transient_rate=2.0, fmax_eff=1_500.0).double()
    rising[:, INDEX["quality"]] = torch.linspace(0, 1, steps)
    mass = router(saliency.repeat(steps, 1), context.repeat(steps, 1), rising)[0].sum((1, 2))
    (edges,) = torch.nonzero((mass[1:] > 0) & (mass[:-1] == 0), as_tuple=True)
    assert len(edges) == 1
    there = rising[edges + 1]
    before, _ = router(saliency, context, there)
    torch.manual_seed(0)
    for _ in range(20):
        nudged = (tensor + 1e-6 * torch.sign(torch.randn_like(tensor)) for tensor in (saliency, context))
        after, _ = router(*nudged, there)
        assert (after - before).abs().max() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("fmax_eff", [0.0, 900.0, 1_999.0])
def test_a_clip_without_a_high_band_never_runs_the_highband_expert(fmax_eff: float) -> None:
    highband = EXPERTS.index("HighbandGeneral")
    for gates in a_router()(*clips(64), attributes(64, fmax_eff=fmax_eff)):
        assert (gates[:, :, highband] == 0).all()
        assert (gates > 0).any()


@torch.no_grad()
def test_a_clip_with_a_high_band_may_run_the_highband_expert() -> None:
    for gates in a_router()(*clips(64), attributes(64, fmax_eff=4_000.0)):
        assert (gates[:, :, EXPERTS.index("HighbandGeneral")] > 0).any()


@torch.no_grad()
def test_low_quality_never_runs_the_expert_of_fine_resolution() -> None:
    harmonic = EXPERTS.index("HarmonicExpert")
    low = a_router()(*clips(64), attributes(64, quality=0.02))
    high = a_router()(*clips(64), attributes(64))
    for noisy, clean in zip(low, high, strict=True):
        assert (noisy[:, :, harmonic] == 0).all()
        assert (clean[:, :, harmonic] > 0).any()


def blind_to_quality() -> Router:
    """What the router learned must not hide what it was told."""
    router = a_router(max_pairs=PATCHES * len(EXPERTS))
    with torch.no_grad():
        router.clip_affinity.weight[:, GLOBAL_CONTEXT + LEARNED_ATTRIBUTES.index("quality")] = 0
    return router


@torch.no_grad()
def test_lower_quality_uses_no_more_pairs() -> None:
    router, (saliency, context) = blind_to_quality(), clips(64)
    counts = [pairs_used(router(saliency, context, attributes(64, quality=q))[0]) for q in (0.25, 0.5, 0.75, 1.0)]
    for lower, higher in itertools.pairwise(counts):
        assert (lower <= higher).all()
    assert counts[0].sum() < counts[-1].sum()


@torch.no_grad()
def test_lower_quality_uses_fewer_experts() -> None:
    router, (saliency, context) = blind_to_quality(), clips(256)
    low, high = (experts_used(router(saliency, context, attributes(256, quality=q))[0]) for q in (0.0, 1.0))
    assert low.float().mean() < high.float().mean()


@torch.no_grad()
def test_saliency_spread_over_many_patches_runs_more_pairs_than_saliency_on_one() -> None:
    router, (_, context) = a_router(max_pairs=PATCHES * len(EXPERTS)), clips(64)
    spread = torch.full((64, PATCHES), 1 / PATCHES)
    peaked = torch.softmax(8 * torch.eye(PATCHES)[:1].repeat(64, 1), dim=1)
    counts = [pairs_used(router(saliency, context, attributes(64))[0]).sum() for saliency in (peaked, spread)]
    assert counts[0] < counts[1]


@torch.no_grad()
def test_salient_patches_get_more_of_the_gates() -> None:
    saliency, context = clips(64)
    gates, _ = a_router()(saliency, context, attributes(64))
    most = saliency.argmax(1)
    share = gates.sum(2).gather(1, most[:, None]).sum() / gates.sum()
    assert share > 2 / PATCHES


@torch.no_grad()
def test_transients_raise_the_transient_experts_share() -> None:
    router, (saliency, context) = a_router(), clips(64)
    transient = EXPERTS.index("TransientExpert")
    with torch.no_grad():
        router.clip_affinity.weight[:, GLOBAL_CONTEXT + LEARNED_ATTRIBUTES.index("transient_rate")] = 0
    _, few = router(saliency, context, attributes(64, transient_rate=0.0))
    _, many = router(saliency, context, attributes(64, transient_rate=1.5))
    assert (many[:, :, transient].sum(1) > few[:, :, transient].sum(1)).all()


@torch.no_grad()
@pytest.mark.parametrize("name", ["clipping_rate", "fmin_eff", "level"])
def test_the_router_does_not_learn_the_recorder(name: str) -> None:
    router, given_clips = a_router(), clips(8)
    before, _ = router(*given_clips, attributes(8))
    after, _ = router(*given_clips, attributes(8, **{name: 0.7}))
    assert torch.equal(before, after)


@torch.no_grad()
def test_when_no_expert_suits_a_clip_no_pair_is_run() -> None:
    torch.manual_seed(0)
    router = Router(("HighbandGeneral", "HarmonicExpert"), torch.ones(PATCHES, 2), RouterConfig(k_max=1, max_pairs=4))
    for gates in router(*clips(4), attributes(4, fmax_eff=500.0, quality=0.0)):
        assert torch.equal(gates, torch.zeros_like(gates))


# Experts -------------------------------------------------------------------------------------------------------------


def an_expert(name: str) -> Expert:
    torch.manual_seed(1)
    return Expert(FAMILIES[name], channels=4, height=24, full_height=True, width=8, features=16).eval()


@torch.no_grad()
def answers(name: str, change: Tensor) -> tuple[Tensor, Tensor]:
    """Features of random patches as they are, and with ``change`` added to them."""
    torch.manual_seed(2)
    patches, position = torch.randn(6, 4, 24, 16), torch.rand(6, 2)
    expert = an_expert(name)
    return expert(patches, position), expert(patches + change, position)


LEVEL = 3 * torch.ones(6, 4, 1, 1)
STATIONARY = torch.randn(6, 4, 24, 1, generator=torch.Generator().manual_seed(3))
BROADBAND = torch.randn(6, 4, 1, 16, generator=torch.Generator().manual_seed(4))
LOW_HALF = torch.cat(
    [torch.randn(6, 4, 12, 16, generator=torch.Generator().manual_seed(5)), torch.zeros(6, 4, 12, 16)], 2
)
BLIND = {
    "NoiseRobust_Broadband": {"level"},
    "TransientExpert": {"level", "stationary"},
    "HarmonicExpert": {"level", "broadband"},
    "HighbandGeneral": {"low half"},
}
CHANGES = {"level": LEVEL, "stationary": STATIONARY, "broadband": BROADBAND, "low half": LOW_HALF}


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("change", CHANGES)
def test_each_family_is_blind_to_what_it_should_be_and_to_nothing_else(name: str, change: str) -> None:
    before, after = answers(name, CHANGES[change])
    assert torch.allclose(before, after, atol=1e-5) == (change in BLIND[name])


def test_no_two_families_look_alike() -> None:
    looks = {(family.band, family.look, family.kernel, family.strides) for family in FAMILIES.values()}
    assert len(looks) == len(FAMILIES)


@pytest.mark.parametrize("name", EXPERTS)
@torch.no_grad()
def test_an_expert_knows_where_its_patch_lies(name: str) -> None:
    torch.manual_seed(0)
    expert, patch = an_expert(name), torch.randn(1, 4, 24, 16)
    low, high = expert(patch, torch.tensor([[0.1, 0.5]])), expert(patch, torch.tensor([[0.9, 0.5]]))
    assert not torch.allclose(low, high)


@torch.no_grad()
@pytest.mark.parametrize("name", EXPERTS)
def test_an_expert_may_be_given_no_patch(name: str) -> None:
    assert an_expert(name)(torch.zeros(0, 4, 24, 16), torch.zeros(0, 2)).shape == (0, 16)
