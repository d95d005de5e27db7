"""What training and validation hear is what the frontend makes of the recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data import noise, write_wav
from data.configs import model_config
from numpy.typing import NDArray

from xaimoe_audio.data.cache import Recording
from xaimoe_audio.data.dataset import LabelledRecording, load_dataset
from xaimoe_audio.engine import audio_spec
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.spectrogram.frontend import FrameStage
from xaimoe_audio.training import clips as clips_module
from xaimoe_audio.training.clips import TrainingClips, ValidationWindows
from xaimoe_runtime.audio import fill_clip

RATE = 8_000
SHORT = 1_000


def a_model(spectrogram: str) -> MoEAudioModel:
    torch.manual_seed(0)
    model = MoEAudioModel(model_config("latency", sample_rate=RATE, clip_s=0.5, spectrogram=spectrogram, fmin=200.0))
    return model.eval()


@pytest.fixture(scope="module", params=["logmel", "cqt"])
def model(request: pytest.FixtureRequest) -> MoEAudioModel:
    return a_model(request.param)


@pytest.fixture
def long(model: MoEAudioModel) -> NDArray[np.float32]:
    return noise(round(3.2 * model.config.frontend.clip_samples))


@pytest.fixture
def items(model: MoEAudioModel, long: NDArray[np.float32], tmp_path: Path) -> list[LabelledRecording]:
    """A recording of 3.2 clips and one much shorter than a clip, whose samples were clipped."""
    write_wav(tmp_path / "long.wav", long, RATE)
    short = noise(SHORT, seed=1)
    short[:250] = 1.0
    write_wav(tmp_path / "short.wav", short, RATE)
    rows = ["filepath,split,label", "long.wav,train,boat", "short.wav,train,rain"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    found = load_dataset(tmp_path, tmp_path / "metadata.csv", "single_label", RATE, required=("train",))
    return list(found.items)


TARGETS = np.eye(2, dtype=np.float32)


def test_a_long_recording_gives_a_clip_for_every_clip_length(
    model: MoEAudioModel, items: list[LabelledRecording]
) -> None:
    clips = TrainingClips(items, TARGETS, model)
    assert [clips[i].targets.argmax().item() for i in range(len(clips))] == [0, 0, 0, 0, 1]


@torch.no_grad()
def test_clips_are_what_the_frontend_hears_at_random_places(
    model: MoEAudioModel, items: list[LabelledRecording], long: NDArray[np.float32]
) -> None:
    """They start at a whole number of hops, or anywhere if they are computed anew."""
    config = model.config.frontend
    clips = TrainingClips(items, TARGETS, model)
    torch.manual_seed(0)
    step = config.hop if clips.streamable else 1
    starts = range(0, len(long) - config.clip_samples + 1, step)
    found = set()
    for _ in range(4):
        state = torch.get_rng_state()
        clip = clips[0]
        torch.set_rng_state(state)
        places = len(starts) if not clips.streamable else clips.kept[0][0].shape[1] - config.frames + 1
        start = int(torch.randint(places, ())) * step
        power, sums = model.frontend.frame(torch.from_numpy(long[start : start + config.clip_samples])[None])
        torch.testing.assert_close(clip.power, power[0], rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(clip.sums, sums[0], rtol=1e-4, atol=1e-9)
        found.add(start)
    assert len(found) > 1


@torch.no_grad()
def test_a_short_recording_is_repeated_to_fill_the_clip(model: MoEAudioModel, items: list[LabelledRecording]) -> None:
    clip = TrainingClips(items, TARGETS, model)[4]
    samples = np.array(items[1].recording.samples())
    filled = fill_clip(samples, model.config.frontend.clip_samples)
    power, _ = model.frontend.frame(torch.from_numpy(filled)[None])
    torch.testing.assert_close(clip.power, power[0], rtol=1e-4, atol=1e-9)
    assert clip.source.tolist() == [RATE, 0.25]
    assert clip.taught.shape == (0,)


def test_a_clip_comes_with_what_a_teacher_says(model: MoEAudioModel, items: list[LabelledRecording]) -> None:
    taught = np.array([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3]], np.float32)
    clips = TrainingClips(items, TARGETS, model, taught)
    assert clips[0].taught.tolist() == pytest.approx(taught[0])
    assert clips[4].taught.tolist() == pytest.approx(taught[1])


@torch.no_grad()
def test_frames_that_are_not_kept_are_computed_again(
    model: MoEAudioModel, items: list[LabelledRecording], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = TrainingClips(items, TARGETS, model)
    monkeypatch.setattr(clips_module, "KEPT_BYTES", 0)
    fresh = TrainingClips(items, TARGETS, model)
    assert kept.kept and not fresh.kept
    for wanted, found in zip(kept[4], fresh[4], strict=True):
        assert torch.equal(wanted, found)


@torch.no_grad()
def test_chunks_of_a_long_recording_join_without_a_seam(
    items: list[LabelledRecording], long: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_model("logmel")
    whole = TrainingClips(items, TARGETS, model).kept[0]
    monkeypatch.setattr(clips_module, "CHUNK", 7)
    for wanted, found in zip(whole, TrainingClips(items, TARGETS, model).kept[0], strict=True):
        assert wanted.shape == found.shape
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-9)


@torch.no_grad()
def test_no_more_than_a_chunk_of_a_long_recording_is_in_memory(
    items: list[LabelledRecording], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_model("logmel")
    whole = TrainingClips(items, TARGETS, model).kept[0]
    frontend, seen = model.config.frontend, list[int]()
    samples, frame = Recording.samples, FrameStage.forward

    def read(self: Recording, start: int = 0, count: int | None = None) -> NDArray[np.float32]:
        assert count is not None and count <= frontend.clip_samples
        return samples(self, start, count)

    def framed(self: FrameStage, waveform: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(waveform.shape[1])
        return frame(self, waveform)

    monkeypatch.setattr(Recording, "samples", read)
    monkeypatch.setattr(FrameStage, "forward", framed)
    monkeypatch.setattr(clips_module, "CHUNK", 20)
    found = TrainingClips(items, TARGETS, model).kept[0]
    for one, other in zip(whole, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-9)
    assert len(seen) > 4 and max(seen[:-1]) == 19 * frontend.hop + frontend.win_length


@pytest.mark.parametrize("room", [0, 20_000, 2**30])
@torch.no_grad()
def test_validation_hears_every_window_in_every_epoch(
    model: MoEAudioModel, items: list[LabelledRecording], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips_module, "KEPT_BYTES", room)
    windows = ValidationWindows(items, TARGETS, model)
    first, second = list(windows), list(windows)
    assert len(first) == len(second) == 5
    assert windows.whole == (room == 2**30)
    assert len(windows.kept) == (5 if windows.whole else 0)  # what is not read is not kept
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    assert [window[3:] for window in first] == [window[3:] for window in second]
    assert [window[4] for window in first] == [0, 0, 0, 0, 1]  # whose it is
    waveform = np.array(items[0].recording.samples()[: audio_spec(model.config).clip_samples])
    spectrogram, attributes = model.frontend(torch.from_numpy(waveform)[None], torch.tensor([[float(RATE), 0.0]]))
    torch.testing.assert_close(first[0][0], spectrogram[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first[0][1], attributes[0], rtol=1e-3, atol=1e-3)
