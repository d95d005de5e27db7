"""Clipped samples by their position: a window's share is exact, and the same by every door."""

from __future__ import annotations

import numpy as np
import pytest
from data import write_wav
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xaimoe_audio.data.cache import AudioCache
from xaimoe_runtime.audio import Block, Window, array_block, clipped, windows
from xaimoe_runtime.clipping import CHUNK, ClippedSamples, native_position
from xaimoe_runtime.inference import cut, file_windows
from xaimoe_runtime.schema import AudioSpec

Floats = NDArray[np.float32]
RATE = 8_000
SPEC = AudioSpec(sample_rate=RATE, clip_samples=1_600, frame_hop=80, window_hop=800)


def added(mask: NDArray[np.bool_], sizes: list[int]) -> ClippedSamples:
    """Clipped samples that come in blocks of ``sizes``, over and over."""
    samples, start, i = ClippedSamples(), 0, 0
    while start < len(mask):
        samples.add(mask[start : start + sizes[i % len(sizes)]])
        start += sizes[i % len(sizes)]
        i += 1
    return samples


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_counts_are_exact_whatever_the_blocks(data: st.DataObject) -> None:
    frames = data.draw(st.integers(1, 3 * CHUNK))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    mask = rng.random(frames) < data.draw(st.sampled_from([0.0, 1e-4, 0.5, 1.0]))
    samples = added(mask, data.draw(st.lists(st.integers(1_000, 2 * CHUNK), min_size=1, max_size=4)))
    start = data.draw(st.integers(0, frames))
    stop = data.draw(st.integers(start, frames + 10))
    assert samples.count(start, stop) == np.count_nonzero(mask[start:stop])
    assert np.array_equal(samples.mask(start, min(stop, frames)), mask[start:stop])
    again = ClippedSamples.from_bytes(samples.to_bytes(), frames)
    assert again.count(start, stop) == samples.count(start, stop)
    samples.drop_before(start)
    assert samples.count(start, stop) == np.count_nonzero(mask[start:stop])


def test_memory_is_bounded_however_many_samples_are_clipped() -> None:
    samples = ClippedSamples()
    for i in range(200):
        samples.add(np.ones(CHUNK, np.bool_))
        samples.drop_before((i - 1) * CHUNK)
    assert len(samples._chunks) <= 2


def sound(seconds: float, rate: int, seed: int) -> Floats:
    """Noise in 16 bit that is clipped in some stretches."""
    rng = np.random.default_rng(seed)
    samples = 0.1 * rng.standard_normal(round(seconds * rate))
    for start in rng.uniform(0, seconds, 3):
        samples[round(start * rate) : round((start + 0.05) * rate)] *= 40
    return (np.round(np.clip(samples, -1, 1) * 32_767) / 32_768).astype(np.float32)


def by_blocks(samples: Floats, rate: int, sizes: list[int]) -> list[Window]:
    """The windows of samples at the model's rate that come in blocks of ``sizes``."""

    def blocks():  # type: ignore[no-untyped-def]
        start = 0
        while start < len(samples):
            for size in sizes:
                part = samples[start : start + size]
                if len(part):
                    yield Block(part[:, None], len(part), clipped(part)[:, None])
                start += size

    return list(windows(blocks(), SPEC, rate))


@pytest.mark.parametrize("rate", [RATE, 11_025, 44_100, 4_000])
@given(
    seconds=st.floats(0.05, 3.0),
    seed=st.integers(0, 999),
    sizes=st.lists(st.integers(1, 9_000), min_size=1, max_size=3),
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_have_the_same_clipping_rate_by_every_door(
    tmp_path_factory: pytest.TempPathFactory, rate: int, seconds: float, seed: int, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("doors")
    samples = sound(seconds, rate, seed)
    path = write_wav(folder / "a.wav", samples, rate, "PCM_16")
    by_array = cut(SPEC, samples, rate)[0][0]
    rates = [window.clipping_rate for window in by_array]
    edges = [
        [native_position(round(edge * RATE), RATE, rate) for edge in (window.start_s, window.end_s)]
        for window in by_array
    ]
    assert rates == [clipped(samples[start:stop]).mean() for start, stop in edges]  # exact
    assert rates == [window.clipping_rate for _, window in file_windows(path, SPEC)]
    recording = AudioCache(folder / "cache").load(path, RATE)
    assert rates == [window.clipping_rate for window in windows(recording.blocks(), SPEC, rate)]
    spans = [(round(window.start_s * RATE), round(window.end_s * RATE)) for window in by_array]
    assert rates == [recording.clipping_between(*span) for span in spans]
    assert recording.clipping_rate == clipped(samples).mean()
    if rate == RATE:
        assert rates == [window.clipping_rate for window in by_blocks(samples, rate, sizes)]


def test_a_batch_has_the_clipping_rates_of_its_rows() -> None:
    rows = np.stack([sound(1.0, RATE, seed) for seed in range(3)])
    batch, *_ = cut(SPEC, rows, RATE)
    alone = [list(windows([array_block(row, RATE, RATE)], SPEC, RATE)) for row in rows]
    assert [[w.clipping_rate for w in row] for row in batch] == [[w.clipping_rate for w in row] for row in alone]
    assert any(w.clipping_rate for row in batch for w in row)
