"""The routed dispatch: it runs the chosen pairs alone and still gives the sum over all pairs, as PyTorch does."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from xaimoe_audio.checkpoint import Checkpoint, load_checkpoint
from xaimoe_audio.engine import TorchEngine
from xaimoe_runtime import Runtime
from xaimoe_runtime.mixing import mix, on_host
from xaimoe_runtime.schema import ROUTINGS, Routing

Floats = NDArray[np.float32]
Clips = tuple[Floats, Floats]


@pytest.fixture(scope="module")
def trained(checkpoint: Path) -> Checkpoint:
    return load_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def engine(trained: Checkpoint) -> TorchEngine:
    return TorchEngine.of(trained, torch.device("cpu"))


def glance(runtime: Runtime, clips: Clips) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Answers of the frontend and of the saliency graph."""
    line = runtime.dispatcher
    heard = line.frontend(waveform=clips[0], source=clips[1])
    return heard, line.saliency(spectrogram=heard["spectrogram"])


def patch_source(runtime: Runtime, clips: Clips) -> Floats:
    heard, seen = glance(runtime, clips)
    return seen["feature_map"] if runtime.manifest.patches.source == "feature_map" else heard["spectrogram"]


def mixture_of(runtime: Runtime, source: Floats, gates: Floats) -> Floats:
    """What the dispatch makes of them."""
    mixing = runtime.dispatcher.mixing(source, gates)
    mix(mixing, gates)
    return on_host(mixing.mixture)


def mixture_over_all_pairs(runtime: Runtime, source: Floats, gates: Floats) -> Floats:
    """Every expert on every patch of every clip, one clip at a time, weighted by the gates."""
    line = runtime.dispatcher
    patches = np.arange(line.grid.count)
    mixture = np.zeros((len(gates), runtime.manifest.features))
    for clip in range(len(gates)):
        tiles = line.grid.gather(source, np.full_like(patches, clip), patches)
        for e, expert in enumerate(line.experts):
            features = expert(patches=tiles, position=line.positions)["features"]
            mixture[clip] += (gates[clip, :, e, None].astype(float) * features).sum(0)
    return mixture.astype(np.float32)


@pytest.mark.parametrize("routing", ["routed", "dense"])
def test_the_mixture_is_the_sum_over_all_pairs(runtime: Runtime, clips: Clips, routing: Routing) -> None:
    gates = runtime.run(*clips, routing).gates
    source = patch_source(runtime, clips)
    wanted = mixture_over_all_pairs(runtime, source, gates)
    scale = np.abs(wanted).max()
    assert scale > 0
    np.testing.assert_allclose(mixture_of(runtime, source, gates), wanted, atol=1e-4 * scale)


def test_any_choice_of_pairs_is_summed(runtime: Runtime, clips: Clips) -> None:
    waveform, source = clips[0][:6], clips[1][:6]
    features = patch_source(runtime, (waveform, source))
    rng = np.random.default_rng(1)
    gates = rng.random((6, runtime.dispatcher.grid.count, len(runtime.experts)), np.float32)
    gates *= rng.random(gates.shape) < 0.3
    gates[2] = 0  # a clip without a pair
    gates[:, :, 1] = 0  # an expert without a pair
    found = mixture_of(runtime, features, gates)
    np.testing.assert_allclose(found, mixture_over_all_pairs(runtime, features, gates), atol=1e-5)
    assert not found[2].any()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_answers_are_those_of_pytorch(runtime: Runtime, engine: TorchEngine, clips: Clips, routing: Routing) -> None:
    found, wanted = runtime.run(*clips, routing), engine.run(*clips, routing)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    np.testing.assert_allclose(found.gates, wanted.gates, atol=1e-4)
    np.testing.assert_allclose(found.saliency, wanted.saliency, atol=1e-4)


def test_the_experts_change_the_answer(runtime: Runtime, clips: Clips) -> None:
    """By more than the parity's tolerance; else parity would say nothing about the dispatch."""
    scores = {routing: runtime.run(*clips, routing).scores for routing in ROUTINGS}
    assert np.abs(scores["routed"] - scores["glance"]).max() > 1e-4
    assert np.abs(scores["dense"] - scores["glance"]).max() > 1e-4


def test_a_glance_is_exactly_the_calibrated_prior(runtime: Runtime, clips: Clips) -> None:
    _, seen = glance(runtime, clips)
    prior = seen["prior_logits"]
    scores = runtime.run(*clips, "glance").scores
    nothing = {
        "mixture": np.zeros((len(prior), runtime.manifest.features), np.float32),
        "mass": np.zeros((len(prior), 1), np.float32),
    }
    assert np.array_equal(scores, runtime.dispatcher.head(**nothing, prior_logits=prior)["scores"])
    powers = np.exp((prior - prior.max(1, keepdims=True)) / runtime.task.temperatures[0])
    np.testing.assert_allclose(scores, powers / powers.sum(1, keepdims=True), atol=1e-6)


def test_a_glance_runs_no_pair(runtime: Runtime, clips: Clips) -> None:
    outputs = runtime.run(*clips, "glance")
    assert outputs.gates.shape == (16, runtime.dispatcher.grid.count, len(runtime.experts))
    assert not outputs.gates.any()
    assert not outputs.pairs.any()


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_clip_is_answered_alike_alone_and_in_a_batch(runtime: Runtime, clips: Clips, routing: Routing) -> None:
    batch = runtime.run(*clips, routing).scores
    alone = [runtime.run(clips[0][i : i + 1], clips[1][i : i + 1], routing).scores[0] for i in range(16)]
    np.testing.assert_allclose(np.stack(alone), batch, atol=1e-5)


def test_routed_gates_keep_to_the_limits(runtime: Runtime, trained: Checkpoint, clips: Clips) -> None:
    limits = trained.info.model.router
    gates = runtime.run(*clips, "routed").gates
    assert gates.any()
    assert (gates >= 0).all()
    assert (gates.sum((1, 2)) <= 1 + 1e-5).all()
    assert (np.count_nonzero(gates.any(1), axis=1) <= limits.k_max).all()
    assert (np.count_nonzero(gates, axis=(1, 2)) <= limits.max_pairs).all()


def test_dense_gates_hold_every_routed_pair_and_sum_to_at_most_one(runtime: Runtime, clips: Clips) -> None:
    dense, routed = runtime.run(*clips, "dense").gates, runtime.run(*clips, "routed").gates
    assert (dense >= 0).all()
    assert (dense.sum((1, 2)) <= 1 + 1e-5).all()
    assert (dense[routed > 0] > 0).all()
    assert np.count_nonzero(dense) > np.count_nonzero(routed)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_silence_is_looked_at_evenly_and_answered(runtime: Runtime, routing: Routing) -> None:
    silence = np.zeros((1, runtime.audio.clip_samples), np.float32)
    outputs = runtime.run(silence, np.array([[runtime.audio.sample_rate, 0]], np.float32), routing)
    np.testing.assert_allclose(outputs.saliency, 1 / runtime.dispatcher.grid.count, rtol=1e-6)
    assert np.isfinite(outputs.attributes).all()
    assert outputs.scores.sum() == pytest.approx(1, abs=1e-5)


def test_every_stage_is_timed(runtime: Runtime, clips: Clips) -> None:
    ms = runtime.run(*clips, "routed").ms
    assert list(ms) == ["frontend", "saliency", "router", "experts", "head"]
    assert all(spent >= 0 for spent in ms.values())


def test_threads_may_share_one_runtime(runtime: Runtime, clips: Clips) -> None:
    def answer(i: int) -> Floats:
        return runtime.run(clips[0][i : i + 1], clips[1][i : i + 1], "dense").scores

    alone = [answer(i) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(answer, [*range(16)] * 3))
    np.testing.assert_allclose(np.stack(together), np.stack(alone * 3), atol=1e-6)


@pytest.mark.parametrize("buckets", [(64,), (1, 2, 4), (5,)])
def test_batches_that_are_filled_up_or_cut_give_the_same_answers(
    runtime: Runtime, clips: Clips, buckets: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where every new size of a batch costs time."""
    wanted = runtime.run(*clips, "dense").scores
    sizes: list[int] = []
    for expert in runtime.dispatcher.experts:
        call = expert.session.run

        def count(names: list[str], inputs: dict[str, Floats], call: Any = call) -> Any:
            sizes.append(len(inputs["patches"]))
            return call(names, inputs)

        monkeypatch.setattr(expert, "session", SimpleNamespace(run=count))
    monkeypatch.setattr(runtime.dispatcher, "buckets", buckets)
    np.testing.assert_allclose(runtime.run(*clips, "dense").scores, wanted, atol=1e-5)
    assert sizes
    assert set(sizes) <= set(buckets)


def test_on_a_cpu_batches_are_as_large_as_they_are(runtime: Runtime) -> None:
    assert runtime.dispatcher.buckets == ()
    assert len(runtime.manifest.buckets) > 1
