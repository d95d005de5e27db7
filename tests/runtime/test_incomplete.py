"""What the doors say about recordings of which a part could not be decoded."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from data.damaged import encoded, id3, mp3, tone, wav, write
from msgspec import UNSET
from numpy.typing import NDArray

from xaimoe_audio.data.cache import AudioCache
from xaimoe_audio.profiling.measure import measure
from xaimoe_runtime import AudioError, console
from xaimoe_runtime.files import FileClassifier
from xaimoe_runtime.inference import file_windows
from xaimoe_runtime.records import ErrorRecord, ResultRecord, SummaryRecord, is_failure
from xaimoe_runtime.result import Outputs
from xaimoe_runtime.runtime import FileResults
from xaimoe_runtime.schema import AudioSpec, TaskSpec
from xaimoe_runtime.streams.sources import FileSource, Trouble

Floats = NDArray[np.float32]
RATE = 16_000
SOUND = tone(3.0)


class LoudnessEngine:
    """An engine without a model: one score is the windows' level."""

    task = TaskSpec(kind="single_label", labels=("loud", "calm"), thresholds=(0.5, 0.5), temperatures=(1.0, 1.0))
    audio = AudioSpec(sample_rate=RATE, clip_samples=RATE, frame_hop=160, window_hop=RATE)
    provider = name = "none"
    experts: tuple[str, ...] = ("only",)
    attribute_names: tuple[str, ...] = ()
    usual = ()
    pairs_possible = 1
    routing = "routed"

    def run(self, waveform: Floats, source: Floats, routing: str) -> Outputs:
        loud = np.minimum(np.abs(waveform).mean(1), 1)
        none = np.zeros((len(waveform), 1, 1), np.float32)
        scores = np.stack([loud, 1 - loud], 1).astype(np.float32)
        return Outputs(scores, np.zeros((len(waveform), 0), np.float32), none[:, :, 0] + 1, none, {}, none)


@pytest.fixture
def cut_short(tmp_path: Path) -> Path:
    """A WAV of two seconds whose header states three."""
    return write(tmp_path / "cut.wav", wav(SOUND)[: 44 + 4 * RATE])


def test_records_say_what_was_decoded_stated_and_missing(tmp_path: Path, cut_short: Path) -> None:
    whole = write(tmp_path / "whole.wav", wav(SOUND))
    unfinished = write(tmp_path / "unfinished.wav", wav(SOUND, 0))
    broken = write(tmp_path / "broken.wav", b"no sound")
    files = [whole, unfinished, cut_short, broken]
    one, two, three, four, summary = FileClassifier(LoudnessEngine()).records(files)  # type: ignore[arg-type]
    assert isinstance(one, ResultRecord) and isinstance(two, ResultRecord) and isinstance(three, ResultRecord)
    assert (one.complete, one.missing_s, one.decoded_s, one.note) == (True, 0.0, UNSET, UNSET)
    assert (two.complete, two.missing_s, two.decoded_s, two.promised_s) == (True, 0.0, 3.0, 0.0)
    assert "never finished" in str(two.note)
    assert (three.complete, three.missing_s, three.decoded_s, three.promised_s) == (False, 1.0, 2.0, 3.0)
    assert (three.end_s, three.windows) == (2.0, 2) and "cut short" in str(three.note)
    assert isinstance(four, ErrorRecord) and isinstance(summary, SummaryRecord)
    assert (summary.files, summary.errors, summary.incomplete, summary.audio_s) == (4, 1, 1, 8.0)
    assert [is_failure(record) for record in (one, two, three, four, summary)] == [False, False, True, True, False]


def test_each_channel_of_an_incomplete_recording_says_so_and_the_file_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.wav", wav(np.repeat(SOUND, 2), channels=2)[: 44 + 8 * RATE])
    *records, summary = FileClassifier(LoudnessEngine(), channel="each").records([path])  # type: ignore[arg-type]
    assert [(record.channel, record.missing_s) for record in records] == [(0, 1.0), (1, 1.0)]  # type: ignore[union-attr]
    assert summary.incomplete == 1  # type: ignore[union-attr]


def test_incomplete_recordings_count_as_failures_of_a_run(tmp_path: Path, cut_short: Path) -> None:
    records = FileClassifier(LoudnessEngine()).records([cut_short])  # type: ignore[arg-type]
    assert console.write_records(records, tmp_path / "out.jsonl") == 1
    assert '"complete":false' in (tmp_path / "out.jsonl").read_text()


def test_results_of_a_file_end_with_its_completeness_and_a_warning(
    cut_short: Path, caplog: pytest.LogCaptureFixture
) -> None:
    windows = file_windows(cut_short, LoudnessEngine.audio)
    results = FileResults(cut_short, windows, (window for window in windows))  # type: ignore[misc]
    next(results)
    assert results.completeness is None
    with caplog.at_level(logging.WARNING, logger="xaimoe_runtime"):
        assert len(list(results)) == 1
        assert list(results) == []
    assert results.completeness is not None and results.completeness.missing_s == 1.0
    (message,) = caplog.messages
    assert message == (
        f"{cut_short}: incomplete: decoded 2.00 s of 3.00 s that its header states; 1.00 s are missing "
        "(cut short: the file ends before its header says)"
    )


def test_a_stream_of_a_file_ends_with_what_is_missing(cut_short: Path) -> None:
    blocks = FileSource(cut_short).read()
    frames = 0
    with pytest.raises(AudioError, match=r"cut\.wav: incomplete: .* 1\.00 s are missing"):
        for block in blocks:
            assert not isinstance(block, Trouble)
            frames += len(block)
    assert frames == 2 * RATE


@pytest.mark.parametrize("cap_gb", [0.0, 1.0])
def test_training_learns_that_a_recording_is_incomplete(tmp_path: Path, cut_short: Path, cap_gb: float) -> None:
    for _ in range(2):  # decoded, then from the cache
        loaded = AudioCache(tmp_path / "cache", cap_gb).load(cut_short, RATE)
        assert (loaded.complete, loaded.missing_s, loaded.length) == (False, 1.0, 2 * RATE)
        assert "cut short" in loaded.message
    whole = AudioCache(tmp_path / "cache").load(write(tmp_path / "whole.wav", wav(SOUND)), RATE)
    assert (whole.complete, whole.missing_s, whole.message) == (True, 0.0, "")


def test_training_and_profiling_use_all_of_a_recording_with_a_wrong_header(tmp_path: Path) -> None:
    sound = tone(6.0)
    sound[: 3 * RATE] = 0
    made = {
        "a.mp3": mp3(sound, RATE, info=False),
        "b.wav": wav(sound, 0),
        "c.ogg": encoded(sound[: 3 * RATE], kind="OGG") + encoded(sound[3 * RATE :], kind="OGG"),
        "d.mp3": mp3(sound[: 3 * RATE], RATE) + id3() + mp3(sound[3 * RATE :], RATE),
    }
    for name, data in made.items():
        path = write(tmp_path / name, data)
        loaded = AudioCache(tmp_path / "cache").load(path, RATE)
        assert loaded.complete and loaded.length / RATE == pytest.approx(6.0, abs=0.2), name
        profile = measure(path)
        assert profile.whole and profile.duration_s == pytest.approx(6.0, abs=0.2), name


def test_a_profile_says_that_a_recording_is_incomplete(cut_short: Path) -> None:
    profile = measure(cut_short)
    assert not profile.whole and profile.duration_s == 2.0
