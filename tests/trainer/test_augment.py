"""Augmentation: what each one changes in a spectrogram, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from data import noise
from data.configs import frontend_config
from torch import Tensor

from xaimoe_audio.spectrogram import LogMel
from xaimoe_audio.spectrogram.attributes import BANDS, INDEX
from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT, Frontend
from xaimoe_audio.training.augment import (
    add_noise,
    added,
    band_limit,
    equalise,
    frequency_shift,
    level_jitter,
    mean_power,
    mix_between_classes,
    noise_clips,
    spec_augment,
    stretch,
    time_shift,
)
from xaimoe_audio.training.clips import Clips

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


@pytest.mark.parametrize("augment", [*GEOMETRIC, level_jitter, equalise])
def test_nothing_changes_at_zero(augment: Callable[[Tensor, float], Tensor]) -> None:
    spectrogram = torch.rand(4, 1, BINS, FRAMES)
    torch.testing.assert_close(augment(spectrogram, 0.0), spectrogram, atol=1e-4, rtol=0)


@pytest.mark.parametrize("augment", [*GEOMETRIC, level_jitter, equalise])
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


def test_equalise_raises_some_bands_and_lowers_others_for_the_whole_clip() -> None:
    curves = equalise(torch.zeros(64, 1, BINS, FRAMES), 0.5)[:, 0]
    assert torch.equal(curves, curves[:, :, :1].expand_as(curves))
    assert float(curves.abs().max()) <= 0.5
    assert float((curves.amax((1, 2)) - curves.amin((1, 2))).median()) > 0.4
    assert float(curves.diff(dim=1).abs().max()) < 0.1  # no band stands out of its neighbours
    high = torch.full((32, 1, BINS, FRAMES), SPECTROGRAM_LIMIT)
    assert float(equalise(high, 0.5).max()) == SPECTROGRAM_LIMIT


def test_spec_augment_masks_one_band_and_one_stretch_with_zero() -> None:
    masked = spec_augment(torch.ones(32, 1, BINS, FRAMES), masks=1)[:, 0] == 0
    rows, columns = masked.all(2).sum(1), masked.all(1).sum(1)
    assert 0 < int(rows.max()) <= BINS / 6 + 1
    assert 0 < int(columns.max()) <= FRAMES / 8 + 1
    wanted = BINS * FRAMES - (BINS - rows) * (FRAMES - columns)
    assert torch.equal(masked.sum((1, 2)), wanted)


# Of powers -----------------------------------------------------------------------------------------------------------

CONFIG = frontend_config()
RATE = CONFIG.sample_rate
CENTRES = LogMel(CONFIG).centres().float()


@pytest.fixture(scope="module")
def frontend() -> Frontend:
    return Frontend(CONFIG).eval()


@torch.no_grad()
def heard(frontend: Frontend, waveform: Tensor, targets: Tensor | None = None, rate: float = RATE) -> Clips:
    power, sums = frontend.frame(waveform)
    source = torch.tensor([[rate, 0.0]] * len(waveform))
    targets = torch.eye(len(waveform)) if targets is None else targets
    return Clips(power, sums, source, targets, torch.eye(len(waveform)))


def sounds(count: int = 2) -> Tensor:
    """Noises of very different levels."""
    return torch.stack(
        [torch.from_numpy(noise(CONFIG.clip_samples, seed, level=10.0 ** (-1 - seed % 3))) for seed in range(count)]
    )


@pytest.mark.parametrize("kind", ["mix", "noise", "band"])
def test_no_clip_changes_at_a_share_of_nothing(frontend: Frontend, kind: str) -> None:
    clips = heard(frontend, sounds(4))
    changed = {
        "mix": lambda: mix_between_classes(clips, 0.0, "single_label", CONFIG.hop, CENTRES),
        "noise": lambda: add_noise(clips, noise_clips(frontend, CONFIG), 0.0, CONFIG.hop, CENTRES),
        "band": lambda: band_limit(clips, frontend.window.backend.centres(), RATE, 0.0),
    }[kind]()
    for before, after in zip(clips, changed, strict=True):
        torch.testing.assert_close(after, before)


@torch.no_grad()
def test_the_share_of_a_sound_in_a_mixture_is_its_share_of_the_target(frontend: Frontend) -> None:
    """Whatever the levels of the two were: one tone's level over the other's follows the targets."""
    time = torch.arange(CONFIG.clip_samples) / RATE
    tones = torch.stack([0.5 * torch.sin(2 * torch.pi * 500 * time), 0.005 * torch.sin(2 * torch.pi * 4_000 * time)])
    clips = heard(frontend, tones)
    centres = frontend.window.backend.centres()
    bands = [int((centres - hz).abs().argmin()) for hz in (500, 4_000)]
    alone = [float(clips.power[i, band].mean() / clips.sums[i, BANDS].mean()) for i, band in enumerate(bands)]
    mixtures = 0
    for _ in range(12):
        mixed = mix_between_classes(clips, 1.0, "single_label", CONFIG.hop, CENTRES)
        for power, target, taught in zip(mixed.power, mixed.targets, mixed.taught, strict=True):
            if 0.05 < float(target[0]) < 0.95 and power[bands].min() > 0:
                amplitudes = [(float(power[band].mean()) / a) ** 0.5 for band, a in zip(bands, alone, strict=True)]
                assert amplitudes[0] / sum(amplitudes) == pytest.approx(float(target[0]), abs=0.02)
                assert torch.equal(taught, target)
                mixtures += 1
    assert mixtures > 4


@torch.no_grad()
def test_attributes_of_a_mixture_are_about_those_of_the_mixed_waveforms(frontend: Frontend) -> None:
    quiet, loud = noise(CONFIG.clip_samples, 1, level=0.05), noise(CONFIG.clip_samples, 2, level=0.05)
    loud[::4_000] += 0.9  # clicks
    clips = heard(frontend, torch.from_numpy(np.stack([quiet, loud])))
    while True:
        mixed = mix_between_classes(clips, 1.0, "single_label", CONFIG.hop, CENTRES)
        if 0.3 < float(mixed.targets[0, 0]) < 0.7:
            break
    ratio = float(mixed.targets[0, 0])
    powers = torch.square(torch.from_numpy(np.stack([quiet, loud]))).mean(1)
    weight = 1 / (1 + float(torch.sqrt(powers[0] / powers[1])) * (1 - ratio) / ratio)
    waveform = torch.from_numpy((weight * quiet + (1 - weight) * loud) / (weight**2 + (1 - weight) ** 2) ** 0.5)
    wanted = frontend.window(*frontend.frame(waveform[None]), clips.source[:1])[1][0]
    found = frontend.window(mixed.power[:1], mixed.sums[:1], mixed.source[:1])[1][0]
    for name, tolerance in (("snr", 2.0), ("level", 0.3), ("transient_rate", 0.1), ("flatness", 0.05)):
        assert float(found[INDEX[name]]) == pytest.approx(float(wanted[INDEX[name]]), abs=tolerance)


@torch.no_grad()
def test_several_classes_are_all_there_in_a_mixture(frontend: Frontend) -> None:
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    clips = heard(frontend, sounds(), targets)
    seen = {tuple(row) for _ in range(20) for row in _mixed_targets(clips)}
    assert seen == {(1.0, 0.0, 0.0), (0.0, 1.0, 1.0), (1.0, 1.0, 1.0)}


def _mixed_targets(clips: Clips) -> list[list[float]]:
    targets: list[list[float]] = mix_between_classes(clips, 1.0, "multi_label", CONFIG.hop, CENTRES).targets.tolist()
    return targets


@torch.no_grad()
def test_added_noise_lies_5_to_30_db_under_the_clip(frontend: Frontend) -> None:
    clips = heard(frontend, sounds(16))
    noisy = add_noise(clips, noise_clips(frontend, CONFIG), 1.0, CONFIG.hop, CENTRES)
    ratio = mean_power(noisy, CENTRES) / mean_power(clips, CENTRES)
    decibels = -10 * torch.log10(ratio - 1)
    assert 4.9 < decibels.min() < decibels.max() < 30.1
    assert decibels.std() > 2


@torch.no_grad()
@pytest.mark.parametrize("deviations", [0.7, 31.0])
def test_an_offset_of_the_recorder_changes_neither_mixture_nor_noise(frontend: Frontend, deviations: float) -> None:
    waveform = sounds(8)
    offset = waveform + deviations * waveform.std(1, keepdim=True)
    noises = noise_clips(frontend, CONFIG)
    found = []
    for given in (waveform, offset):
        torch.manual_seed(3)
        mixed = mix_between_classes(heard(frontend, given), 1.0, "single_label", CONFIG.hop, CENTRES)
        found.append(add_noise(mixed, noises, 1.0, CONFIG.hop, CENTRES))
    for part, plain in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(part, plain, rtol=5e-3, atol=1e-9)


@torch.no_grad()
def test_noise_lies_under_what_is_within_the_bands(frontend: Frontend) -> None:
    """A swell of 8 Hz, 30 dB over the sound, lies under fmin: it makes the noise no louder."""
    time = torch.arange(CONFIG.clip_samples) / RATE
    sound = sounds(16)
    swell = sound.std(1, keepdim=True) * 45 * torch.sin(2 * torch.pi * 8 * time)
    clips = heard(frontend, sound + swell)
    noisy = add_noise(clips, noise_clips(frontend, CONFIG), 1.0, CONFIG.hop, CENTRES)
    decibels = 10 * torch.log10(mean_power(heard(frontend, sound), CENTRES) / mean_power(noisy, CENTRES))
    added = 10 * torch.log10(10 ** (-decibels / 10) - 1)
    assert -30.2 < added.min() < added.max() < -4.8


@torch.no_grad()
def test_the_power_of_a_clip_is_that_within_its_bands(frontend: Frontend) -> None:
    """White noise reads its density, a tone its power over the width of the band, wherever it lies."""
    time = torch.arange(CONFIG.clip_samples) / RATE
    tones = torch.stack([torch.sin(2 * torch.pi * hz * time) for hz in (300.0, 1_000.0, 5_000.0)])
    found = mean_power(heard(frontend, torch.cat([sounds(1), tones])), CENTRES)[:, 0]
    assert float(found[0]) == pytest.approx(0.01, rel=0.05)
    assert found[1:].tolist() == pytest.approx([0.5] * 3, rel=0.1)


@torch.no_grad()
def test_a_band_limited_clip_is_like_one_that_was_resampled(frontend: Frontend) -> None:
    clips = heard(frontend, sounds(16))
    limited = band_limit(clips, frontend.window.backend.centres(), RATE, 1.0)
    _, attributes = frontend.window(limited.power, limited.sums, limited.source)
    native = limited.source[:, 0]
    assert (native < RATE).all() and (native >= RATE / 4).all()
    torch.testing.assert_close(attributes[:, INDEX["fmax_eff"]], native / 2, rtol=0, atol=RATE / 2 / BANDS)
    for power, rate in zip(limited.power, native, strict=True):
        above = frontend.window.backend.centres() >= rate / 2
        assert (power[above] == 0).all() and (power[~above] > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("gain", [1.0, 0.3])
def test_the_fourth_power_of_two_sounds_is_that_of_their_sum(frontend: Frontend, gain: float) -> None:
    """Independent sounds: (x + y)**4 is x**4 + 6 x**2 y**2 + y**4 on average. Gaussian noise stays Gaussian."""
    first, second = (torch.from_numpy(noise(CONFIG.clip_samples, seed, level=0.1))[None] for seed in (11, 12))
    a, b = heard(frontend, first), heard(frontend, second)
    one = torch.ones(1, 1)
    summed = added(a, one, b, gain**2 * one, CONFIG.hop).sums[0, BANDS:].mean(1)
    expected = heard(frontend, first + gain * second).sums[0, BANDS:].mean(1)
    assert summed.tolist() == pytest.approx(expected.tolist(), rel=0.06)
    square, fourth = (summed / CONFIG.hop).tolist()
    assert fourth / square**2 == pytest.approx(3, rel=0.06)
