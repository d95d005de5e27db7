"""The router: sparse, continuous gates that follow saliency, quality and band."""

from __future__ import annotations

import itertools

import msgspec
import numpy as np
import pytest
import torch
from data.configs import frontend_config
from data.noises import COLOURS, coloured
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xaimoe_audio.config import FINE_EXPERTS, HIGHBAND_EXPERTS, RouterConfig
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.model.glance import GLOBAL_CONTEXT, PATCH_CONTEXT
from xaimoe_audio.model.router import LEARNED_ATTRIBUTES, Router
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES, INDEX
from xaimoe_audio.spectrogram.frontend import Frontend

EXPERTS = tuple(FAMILIES)
PATCHES, K_MAX, MAX_PAIRS, FOCUS = 8, 2, 6, 16.0
UNSURE = (0.02, 0.2)
GOOD = {
    "snr": 20.0,
    "flatness": 0.3,
    "transient_rate": 0.0,
    "fmin_eff": 0.0,
    "fmax_eff": 8e3,
    "level": -30.0,
    "quality": 1.0,
}


def a_router(seed: int = 0, k_max: int = K_MAX, max_pairs: int = MAX_PAIRS, focus: float = FOCUS) -> Router:
    """A router whose opinion depends strongly on what it is given."""
    torch.manual_seed(seed)
    limits = RouterConfig(k_max=k_max, max_pairs=max_pairs, focus=focus, unsure=UNSURE)
    router = Router(EXPERTS, torch.ones(PATCHES, len(EXPERTS)), limits).eval()
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
    return saliency, torch.cat([context, torch.ones(batch, 1)], dim=1)  # the glance is not sure of any


def experts_used(gates: Tensor) -> Tensor:
    return (gates > 0).any(1).sum(1)


def pairs_used(gates: Tensor) -> Tensor:
    return (gates > 0).sum((1, 2))


@torch.no_grad()
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    k_max=st.integers(1, 8),
    max_pairs=st.integers(1, 64),
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
    assert drops > 2
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
    assert len(edges) > 0
    for edge in edges:
        there = rising[edge + 1][None]
        before, _ = router(saliency, context, there)
        torch.manual_seed(0)
        for _ in range(20):
            nudged = (tensor + 1e-6 * torch.sign(torch.randn_like(tensor)) for tensor in (saliency, context))
            after, _ = router(*nudged, there)
            assert (after - before).abs().max() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("fmax_eff", [0.0, 900.0, 1_999.0])
def test_a_clip_without_a_high_band_never_runs_the_highband_expert(fmax_eff: float) -> None:
    highband = [EXPERTS.index(name) for name in sorted(HIGHBAND_EXPERTS)]
    for gates in a_router()(*clips(64), attributes(64, fmax_eff=fmax_eff)):
        assert (gates[:, :, highband] == 0).all()
        assert (gates > 0).any()


@torch.no_grad()
def test_a_clip_with_a_high_band_may_run_the_highband_expert() -> None:
    for gates in a_router()(*clips(64), attributes(64, fmax_eff=4_000.0)):
        assert (gates[:, :, EXPERTS.index("HighbandGeneral")] > 0).any()


@torch.no_grad()
def test_low_quality_never_runs_the_expert_of_fine_resolution() -> None:
    fine = [EXPERTS.index(name) for name in sorted(FINE_EXPERTS)]
    low = a_router()(*clips(64), attributes(64, quality=0.02))
    high = a_router()(*clips(64), attributes(64))
    for noisy, clean in zip(low, high, strict=True):
        assert (noisy[:, :, fine] == 0).all()
        assert (clean[:, :, fine] > 0).any()


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
def test_the_router_learns_to_run_more_or_fewer_pairs_but_never_one_of_a_ruined_clip() -> None:
    router, (saliency, context) = a_router(), clips(64)
    counts = []
    for learned in (-10.0, 0.0, 10.0):
        router.thrift.bias.fill_(learned)
        counts.append(float(pairs_used(router(saliency, context, attributes(64))[0]).float().mean()))
        assert not router(saliency, context, attributes(64, quality=0.0))[0].any()
    assert counts[0] > counts[1] > counts[2] > 1


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
def test_a_clip_of_many_patches_has_gates_too() -> None:
    patches = 300
    limits = RouterConfig(k_max=2, max_pairs=40, focus=FOCUS, unsure=UNSURE)
    router = Router(EXPERTS, torch.ones(patches, len(EXPERTS)), limits).eval()
    saliency = torch.full((1, patches), 1 / patches)
    gates, dense = router(saliency, torch.ones(1, GLOBAL_CONTEXT + patches * PATCH_CONTEXT + 1), attributes())
    assert float(dense.sum()) == pytest.approx(1.0, rel=1e-4)
    assert torch.isfinite(gates).all()


@torch.no_grad()
def test_the_less_it_focuses_the_more_patches_are_heard() -> None:
    saliency, context = clips(64)
    heard = [
        int((a_router(max_pairs=PATCHES, focus=focus)(saliency, context, attributes(64))[0] > 0).any(2).sum())
        for focus in (16.0, 4.0, 1.0)
    ]
    assert heard == sorted(set(heard))


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
    limits = RouterConfig(k_max=1, max_pairs=4, focus=FOCUS, unsure=None)
    router = Router(("HighbandGeneral", "HarmonicExpert"), torch.ones(PATCHES, 2), limits)
    for gates in router(*clips(4), attributes(4, fmax_eff=500.0, quality=0.0)):
        assert torch.equal(gates, torch.zeros_like(gates))


@torch.no_grad()
def test_a_clip_that_the_glance_is_sure_of_is_left_to_it() -> None:
    router = a_router()
    saliency, context = clips(64)
    pairs = []
    for unsure in (0.0, UNSURE[0], 0.05, 0.1, UNSURE[1], 0.9):
        context[:, -1] = unsure
        gates, dense = router(saliency, context, attributes(64))
        pairs.append(float((gates > 0).sum((1, 2)).float().mean()))
        assert (dense.sum((1, 2)) - 1).abs().max() < 1e-5  # what is compatible stays so
    assert pairs[:2] == [0, 0]
    assert 0 < pairs[2] < pairs[3] < pairs[4] == pairs[5]


@torch.no_grad()
def test_gates_fade_as_the_glance_becomes_sure() -> None:
    router = a_router()
    saliency, context = clips(16)
    for unsure in (0.021, 0.06, 0.15):
        context[:, -1] = unsure
        before = router(saliency, context, attributes(16))[0]
        context[:, -1] = unsure + 1e-5
        assert (router(saliency, context, attributes(16))[0] - before).abs().max() < 2e-3


@torch.no_grad()
def test_in_training_experts_are_asked_about_every_clip() -> None:
    saliency, context = clips(8)
    context[:, -1] = 0.0
    router = a_router().train()
    assert ((router(saliency, context, attributes(8))[0] > 0).any(2).any(1)).all()
    always = a_router()
    always.config = msgspec.structs.replace(always.config, unsure=None)
    assert ((always(saliency, context, attributes(8))[0] > 0).any(2).any(1)).all()


@torch.no_grad()
@pytest.mark.parametrize(("quality", "trust"), [(1.0, 1.0), (0.35, 0.42 / 0.55), (0.1, 0.4), (0.0, 0.0)])
def test_low_quality_raises_both_bars(quality: float, trust: float) -> None:
    """In a clip of the best quality they are 0.05 and 0.02, in one of none 1; nothing is learned here."""
    router = a_router()
    router.thrift.weight.zero_()
    router.thrift.bias.zero_()
    expert_bar, pair_bar = router.bars(clips(1)[1], attributes(quality=quality))
    assert float(expert_bar) == pytest.approx(1 - 0.95 * trust, rel=1e-5)
    assert float(pair_bar) == pytest.approx(0.02**trust, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("colour", COLOURS)
def test_steady_noise_of_any_spectrum_raises_both_bars(colour: str) -> None:
    """The bars are 4 to 6 and 2 to 3 times as high as in a clean clip, so that fewer experts run, and one at least."""
    config, rng = frontend_config(frames=250), np.random.default_rng(0)
    noises = np.stack([coloured(colour, config.clip_samples, config.sample_rate, rng) for _ in range(16)])
    source = torch.tensor([[float(config.sample_rate), 0.0]]).expand(16, 2)
    measured = Frontend(config)(torch.from_numpy(noises.astype(np.float32)), source)[1]
    clean = measured.clone()
    clean[:, INDEX["quality"]] = 1.0
    router = a_router(k_max=8, max_pairs=64)
    router.thrift.weight.zero_()
    router.thrift.bias.zero_()
    saliency, context = clips(16)
    expert_bar, pair_bar = router.bars(context, measured)
    assert 0.2 < float(expert_bar.mean()) < 0.3
    assert 0.038 < float(pair_bar.mean()) < 0.055
    of_noise, of_clean = (experts_used(router(saliency, context, one)[0]).float() for one in (measured, clean))
    assert (of_noise >= 1).all() and (of_noise <= of_clean).all()
    assert of_noise.mean() < 0.75 * of_clean.mean()
    # Noise may be what there is to recognise: the experts of fine resolution are kept from ruined clips only.
    fine = [EXPERTS.index(expert) for expert in FINE_EXPERTS]
    assert (router.compatibility(measured)[:, fine] == 1).all()
