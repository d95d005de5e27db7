"""The detector of background noise: it is fitted on noise, costs no right answers, and closes the gates."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch
from data import noise, write_wav
from data.configs import model_config
from torch import Tensor

from xaimoe_audio.data.dataset import Data, load_dataset
from xaimoe_audio.model.glance import Glance
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training import background
from xaimoe_audio.training.background import SPECTRA, Spectrum, fit_background, noise_clips
from xaimoe_audio.training.normalise import fit_normalisation

RATE = 8_000
CPU = torch.device("cpu")


def a_model() -> MoEAudioModel:
    torch.manual_seed(1)
    return MoEAudioModel(model_config("latency", ("high", "low"), sample_rate=RATE, clip_s=0.5)).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data]:
    """Pulsed tones, which no steady noise looks like."""
    folder, rows = tmp_path_factory.mktemp("pulses"), ["filepath,split,label"]
    time = np.arange(RATE) / RATE
    for i in range(32):
        hz = (400 if i % 2 else 2_500) + 20 * i
        pulses = 0.3 * np.sin(2 * np.pi * hz * time) * (time % 0.2 < 0.05) + noise(RATE, i, 1e-3)
        write_wav(folder / f"{i}.wav", pulses.astype(np.float32), RATE)
        rows.append(f"{i}.wav,{'train' if i < 20 else 'val'},{'low' if i % 2 else 'high'}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    found = load_dataset(folder, folder / "metadata.csv", "single_label", RATE)
    return dict(found.with_targets(("high", "low")))  # type: ignore[arg-type]


def asked(model: MoEAudioModel, waveform: Tensor) -> Tensor:
    """Which clips run any pair, [B]; the glance is never sure of its answer."""
    with torch.no_grad():
        spectrogram, attributes = model.frontend(waveform, torch.tensor([[float(RATE), 0.0]] * len(waveform)))
        return (model.route(spectrogram, attributes).gates > 0).flatten(1).any(1)


def clips_of(data: Data, model: MoEAudioModel) -> Tensor:
    size = model.config.frontend.clip_samples
    return torch.from_numpy(np.stack([np.array(item.recording.samples()[:size]) for item in data[0]]))


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_noise_has_the_spectra_of_background_and_ends_with_a_recordings_band(spectrum: Spectrum) -> None:
    config = model_config("latency", sample_rate=RATE, clip_s=0.5).frontend
    found = noise_clips(config, spectrum, 2_000, 16, np.random.default_rng(0))
    assert found.shape == (16, config.clip_samples) and found.dtype == np.float32
    levels = 10 * np.log10(np.mean(found.astype(np.float64) ** 2, axis=1))
    assert ((levels > -45.1) & (levels < -19.9)).all()
    power = np.abs(np.fft.rfft(found)) ** 2
    frequency = np.fft.rfftfreq(config.clip_samples, 1 / RATE)
    assert power[:, frequency > 2_100].sum() < 1e-6 * power.sum()
    low, high = ((frequency > a) & (frequency < b) for a, b in ((100, 300), (1_500, 1_900)))
    assert (power[:, low].mean(1) > power[:, high].mean(1)).mean() > 0.8
    assert np.array_equal(found, noise_clips(config, spectrum, 2_000, 16, np.random.default_rng(0)))
    assert not np.array_equal(found, noise_clips(config, spectrum, 2_000, 16, np.random.default_rng(1)))


def test_noise_asks_no_expert_and_recordings_do_as_before(data: dict[str, Data]) -> None:
    model = a_model()
    fit_normalisation(model, data["train"][0], CPU)
    sounds = clips_of(data["val"], model)
    rng = np.random.default_rng(99)
    fresh = torch.from_numpy(
        np.concatenate([noise_clips(model.config.frontend, spectrum, RATE / 2, 64, rng) for spectrum in SPECTRA])
    )
    assert asked(model, sounds).all() and asked(model, fresh).all()
    fit_background(model, data["train"][0], data["val"], CPU)
    assert asked(model, fresh).float().mean() < 0.1
    assert asked(model, sounds).all()


def test_the_detector_changes_no_answer_of_the_glance(data: dict[str, Data]) -> None:
    model = a_model()
    waveform = clips_of(data["val"], model)
    source = torch.tensor([[float(RATE), 0.0]] * len(waveform))
    with torch.no_grad():
        before = model.route(*model.frontend(waveform, source))
        fit_background(model, data["train"][0], data["val"], CPU)
        after = model.route(*model.frontend(waveform, source))
    assert torch.equal(before.prior_logits, after.prior_logits)
    assert torch.equal(before.saliency, after.saliency)
    assert torch.equal(before.gates_dense, after.gates_dense)


@pytest.mark.parametrize(("wrong", "most"), [(0, 1.0), (40, 0.05)])
def test_noise_is_recognised_only_as_far_as_right_answers_stay(wrong: int, most: float) -> None:
    """100 recordings that look like noise, of which ``wrong`` are right with experts only."""
    draw = np.random.default_rng(0)
    unseen = draw.normal(0, 1, 2_000).astype(np.float32)
    easier = unseen - 1
    logits = np.sort(draw.normal(0, 1, 100)).astype(np.float32)
    with_experts = np.tile(np.float32([0.9, 0.1]), (100, 1))
    without = with_experts.copy()
    without[draw.permutation(100)[:wrong]] = [0.1, 0.9]
    targets = np.tile(np.float32([1, 0]), (100, 1))
    sounding, owners = np.ones(100, np.float32), np.arange(100)
    threshold = background._threshold(
        [easier, unseen],
        background._Validation(logits, with_experts, without, sounding, owners, targets, "single_label"),
    )
    recognised = float((unseen < threshold).mean())
    if wrong:
        assert recognised < most + 0.05
    else:
        assert recognised == pytest.approx(background.RECALL, abs=0.01)
    lost = (logits < threshold) & (without[:, 0] < 0.5)
    assert float(lost.mean()) <= background.MAX_ACCURACY_LOSS


def test_pairs_fade_in_over_the_detectors_ramp(data: dict[str, Data]) -> None:
    """The last value of the context is how unsure the glance is, times the detector's ramp from 0 to 1."""
    model = a_model()
    glance = model.glance
    waveform = clips_of(data["val"], model)
    source = torch.tensor([[float(RATE), 0.0]] * len(waveform))
    with torch.no_grad():
        spectrogram, _ = model.frontend(waveform, source)
        features = glance.background_features(spectrogram)
        plain = glance(spectrogram)[1][:, -1]
        glance.background_weight.copy_(torch.randn(features.shape[1]) / features.std() / 8)
        logits = features @ glance.background_weight
        glance.background_bias.fill_(float(0.5 - logits.median()))
        found = glance(spectrogram)[1][:, -1]
    ramp = torch.clamp(logits + glance.background_bias, 0, 1)
    assert ramp.min() < 0.5 <= ramp.max()
    torch.testing.assert_close(found, plain * ramp)


def test_checkpoints_from_before_have_no_detector(data: dict[str, Data]) -> None:
    config = model_config("latency", ("high", "low"), sample_rate=RATE, clip_s=0.5)
    old = MoEAudioModel(msgspec.structs.replace(config, detects_background=False))
    assert not any("background" in name for name in old.state_dict())
    assert isinstance(old.glance, Glance)
    fit_background(old, data["train"][0], data["val"], CPU)
    assert not any("background" in name for name in old.state_dict())
