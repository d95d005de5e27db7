"""The cache of decoded audio: named by content, capped in size, and never trusted when a write was interrupted."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from data import noise, write_wav

from xaimoe_audio.data import cache
from xaimoe_audio.data.cache import AudioCache
from xaimoe_audio.data.dataset import windows_of
from xaimoe_runtime.audio import windows
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.inference import file_windows
from xaimoe_runtime.schema import AudioSpec

RATE = 16_000
ENTRY_GB = 16_000 * 4 / 1e9
"""One second of audio at ``RATE``."""


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, in order."""
    paths: list[Path] = []
    original = cache.read_blocks

    def spy(recording, rate, channel="mix"):  # type: ignore[no-untyped-def]
        paths.append(getattr(recording, "path", recording))
        return original(recording, rate, channel)

    monkeypatch.setattr(cache, "read_blocks", spy)
    return paths


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """One second of noise."""
    return write_wav(tmp_path / "a.wav", noise(RATE))


def test_the_second_load_does_not_decode(recording: Path, tmp_path: Path, decoded: list[Path]) -> None:
    first = AudioCache(tmp_path / "cache").load(recording, RATE)
    again = AudioCache(tmp_path / "cache").load(recording, RATE)
    assert decoded == [recording]
    np.testing.assert_array_equal(first.samples(), again.samples())
    assert (again.native_rate, again.length) == (first.native_rate, first.length)


def test_a_renamed_file_is_found(recording: Path, tmp_path: Path, decoded: list[Path]) -> None:
    store = AudioCache(tmp_path / "cache")
    store.load(recording, RATE)
    store.load(recording.rename(tmp_path / "other.wav"), RATE)
    assert len(decoded) == 1


def test_a_changed_file_is_decoded_again(recording: Path, tmp_path: Path, decoded: list[Path]) -> None:
    store = AudioCache(tmp_path / "cache")
    before = store.load(recording, RATE).samples()
    after = store.load(write_wav(recording, noise(RATE, seed=1)), RATE).samples()
    assert len(decoded) == 2
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(("rate", "channel"), [(8_000, "mix"), (RATE, 0)])
def test_another_rate_or_channel_is_another_entry(
    recording: Path, tmp_path: Path, decoded: list[Path], rate: int, channel: int | str
) -> None:
    store = AudioCache(tmp_path / "cache")
    store.load(recording, RATE)
    assert store.load(recording, rate, channel).length == rate
    assert len(decoded) == 2


def test_the_oldest_entries_go_when_the_cap_is_reached(tmp_path: Path, decoded: list[Path]) -> None:
    paths = [write_wav(tmp_path / f"{i}.wav", noise(RATE, seed=i)) for i in range(3)]
    earlier = AudioCache(tmp_path / "cache", cap_gb=2.5 * ENTRY_GB)
    for age, path in zip((200, 100), paths, strict=False):
        kept = earlier.load(path, RATE).cached
        assert kept is not None
        os.utime(kept, (kept.stat().st_mtime - age,) * 2)
    later = AudioCache(tmp_path / "cache", cap_gb=2.5 * ENTRY_GB)
    later.load(paths[2], RATE)
    decoded.clear()
    later.load(paths[1], RATE)
    assert decoded == []
    later.load(paths[0], RATE)
    assert decoded == [paths[0]]


def test_the_cap_is_never_exceeded(tmp_path: Path) -> None:
    store = AudioCache(tmp_path / "cache", cap_gb=2 * ENTRY_GB)
    for i in range(5):
        store.load(write_wav(tmp_path / f"{i}.wav", noise(RATE, seed=i)), RATE)
    assert sum(path.stat().st_size for path in store.folder.glob("*.npy")) <= store.cap


def test_what_does_not_fit_is_decoded_at_each_use(recording: Path, tmp_path: Path, decoded: list[Path]) -> None:
    loaded = AudioCache(tmp_path / "cache", cap_gb=0).load(recording, RATE)
    assert loaded.cached is None
    np.testing.assert_allclose(loaded.samples(), noise(RATE), atol=1e-7)
    loaded.samples()
    assert len(decoded) == 3


def test_entries_in_use_are_not_dropped_for_new_ones(tmp_path: Path) -> None:
    store = AudioCache(tmp_path / "cache", cap_gb=1.5 * ENTRY_GB)
    first = store.load(write_wav(tmp_path / "a.wav", noise(RATE)), RATE)
    second = store.load(write_wav(tmp_path / "b.wav", noise(RATE, seed=1)), RATE)
    assert first.cached is not None
    assert first.cached.is_file()
    assert second.cached is None


@pytest.mark.parametrize("content", [None, b"", b'{"native_rate": 160'])
def test_an_interrupted_write_is_no_entry(
    recording: Path, tmp_path: Path, decoded: list[Path], content: bytes | None
) -> None:
    store = AudioCache(tmp_path / "cache")
    store.load(recording, RATE)
    (entry,) = store.folder.glob("*.json")
    entry.unlink()
    if content is not None:
        entry.write_bytes(content)
    again = AudioCache(tmp_path / "cache").load(recording, RATE)
    assert len(decoded) == 2
    assert again.length == RATE


def test_samples_that_are_gone_are_decoded_again(recording: Path, tmp_path: Path, decoded: list[Path]) -> None:
    store = AudioCache(tmp_path / "cache")
    store.load(recording, RATE)
    (samples,) = store.folder.glob("*.npy")
    samples.unlink()
    assert AudioCache(tmp_path / "cache").load(recording, RATE).length == RATE
    assert len(decoded) == 2


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.6])
@pytest.mark.parametrize("native", [8_000, 16_000, 22_050])
@pytest.mark.parametrize("cap_gb", [0.0, 1.0])
def test_blocks_give_the_windows_of_the_file(tmp_path: Path, seconds: float, native: int, cap_gb: float) -> None:
    samples = noise(round(seconds * native), level=0.4)
    samples[: len(samples) // 3] *= 4  # clipped in the first third only
    path = write_wav(tmp_path / "a.wav", np.clip(samples, -1, 1), native)
    spec = AudioSpec(sample_rate=RATE, clip_samples=12_800, frame_hop=160, window_hop=6_400)
    loaded = AudioCache(tmp_path / "cache", cap_gb).load(path, RATE)
    cut = list(windows(loaded.blocks(), spec, loaded.native_rate))
    wanted = [window for _, window in file_windows(path, spec)]
    assert len(cut) == len(wanted) > 0
    for found, window in zip(cut, wanted, strict=True):
        np.testing.assert_array_equal(found.samples, window.samples)
        assert (found.start_s, found.end_s, found.source) == (window.start_s, window.end_s, window.source)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("cap_gb", [0.0, 1.0])
def test_windows_keep_the_resolution_of_the_file(tmp_path: Path, subtype: str, cap_gb: float) -> None:
    """What counts as silence depends on it, in training as on a device."""
    path = write_wav(tmp_path / "a.wav", noise(8_000), RATE, subtype=subtype)
    spec = AudioSpec(sample_rate=RATE, clip_samples=12_800, frame_hop=160, window_hop=6_400)
    for _ in range(2):  # decoded, then from the cache
        item = SimpleNamespace(recording=AudioCache(tmp_path / "cache", cap_gb).load(path, RATE))
        assert [window.encoding for _, window in windows_of([item], spec)] == [subtype]  # type: ignore[list-item]


def test_clipping_is_counted_on_native_samples(tmp_path: Path) -> None:
    samples = 0.1 * np.ones(8_000, np.float32)
    samples[:2_000] = 1.0
    loaded = AudioCache(tmp_path / "cache").load(write_wav(tmp_path / "a.wav", samples, 8_000), RATE)
    assert loaded.clipping_rate == pytest.approx(0.25)


def test_the_cap_is_set_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAIMOE_CACHE_GB", "2.5")
    assert AudioCache(tmp_path).cap == 2_500_000_000
    monkeypatch.setenv("XAIMOE_CACHE_GB", "plenty")
    with pytest.raises(ConfigError, match="XAIMOE_CACHE_GB: found 'plenty', expected a number of gigabytes"):
        AudioCache(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/audio: the audio cache cannot be made there .* set XAIMOE_CACHE"):
        AudioCache(tmp_path / "file")


@pytest.mark.parametrize("cap_gb", [0.0, 1.0])
@pytest.mark.parametrize(
    ("start", "count"), [(0, 5), (7_990, 20), (8_000, 8_000), (23_900, 500), (30_000, 5), (3, None)]
)
def test_a_part_of_a_recording_is_read_alone(tmp_path: Path, cap_gb: float, start: int, count: int | None) -> None:
    path = write_wav(tmp_path / "a.wav", noise(24_000))
    loaded = AudioCache(tmp_path / "cache", cap_gb).load(path, 8_000)
    whole = loaded.samples()
    assert len(whole) == loaded.length == 12_000
    wanted = whole[start:] if count is None else whole[start : start + count]
    np.testing.assert_array_equal(loaded.samples(start, count), wanted)


def test_an_entry_is_a_numpy_file(recording: Path, tmp_path: Path) -> None:
    loaded = AudioCache(tmp_path / "cache").load(recording, RATE)
    assert loaded.cached is not None
    np.testing.assert_array_equal(np.load(loaded.cached), noise(RATE))


def test_an_entry_that_was_cut_is_decoded_again(recording: Path, tmp_path: Path) -> None:
    loaded = AudioCache(tmp_path / "cache").load(recording, RATE)
    assert loaded.cached is not None
    with loaded.cached.open("r+b") as file:
        file.truncate(1000)
    np.testing.assert_array_equal(loaded.samples(), noise(RATE))
    np.testing.assert_array_equal(np.concatenate([block.samples[:, 0] for block in loaded.blocks()]), noise(RATE))


class FullDisk:
    """A file on a disk that is full after so many writes."""

    def __init__(self, file: Any, writes: int) -> None:
        self.file, self.writes = file, writes

    def write(self, data: bytes) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(data))

    def seek(self, place: int) -> None:
        self.file.seek(place)


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Whenever it is full: at the header, in the middle of the recording, or as the header is written."""
    replacing = cache.replacing

    @contextmanager
    def full(path: Path) -> Iterator[Any]:
        with replacing(path) as file:
            yield FullDisk(file, writes)

    monkeypatch.setattr(cache, "replacing", full)
    path = write_wav(tmp_path / "a.wav", noise(2 * RATE))
    store = AudioCache(tmp_path / "cache")
    loaded = store.load(path, RATE)
    assert loaded.cached is None
    assert list(store.folder.iterdir()) == []
    np.testing.assert_array_equal(loaded.samples(), noise(2 * RATE))
    monkeypatch.setattr(cache, "replacing", replacing)
    assert store.load(path, RATE).cached is not None


def test_a_recording_that_outgrows_the_cap_leaves_nothing_behind(tmp_path: Path, decoded: list[Path]) -> None:
    store = AudioCache(tmp_path / "cache", cap_gb=2.5 * ENTRY_GB)
    assert store.load(write_wav(tmp_path / "long.wav", noise(4 * RATE)), RATE).cached is None
    assert len(decoded) == 1  # its length is known all the same
    assert list(store.folder.iterdir()) == []
    assert store.load(write_wav(tmp_path / "short.wav", noise(2 * RATE, seed=1)), RATE).cached is not None


def test_a_broken_recording_leaves_nothing_behind(tmp_path: Path) -> None:
    samples = noise(3 * RATE)
    samples[-1] = np.nan
    store = AudioCache(tmp_path / "cache", cap_gb=4 * ENTRY_GB)
    with pytest.raises(AudioError, match="NaN"):
        store.load(write_wav(tmp_path / "nan.wav", samples), RATE)
    assert list(store.folder.iterdir()) == []
    assert store.load(write_wav(tmp_path / "good.wav", noise(3 * RATE)), RATE).cached is not None


@pytest.mark.parametrize("cap_gb", [0.0, 1.0])
def test_memory_does_not_grow_with_the_recording(tmp_path: Path, cap_gb: float) -> None:
    """Case 33: a recording was held whole, twice."""
    path = write_wav(tmp_path / "long.wav", noise(100 * RATE), subtype="PCM_16")
    store = AudioCache(tmp_path / "cache", cap_gb)
    whole = 100 * RATE * 4
    tracemalloc.start()
    loaded = store.load(path, RATE)
    for block in loaded.blocks():
        assert len(block.samples) <= cache.BLOCK_SAMPLES
    assert len(loaded.samples(50 * RATE, RATE)) == RATE
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole / 4
