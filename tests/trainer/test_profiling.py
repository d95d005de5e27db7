"""The profiler: what it says of datasets whose answer is known."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from data import noise, real_data, write_wav
from data.recordings import RATE, dataset, kinds, profiled, tone

from xaimoe_audio.profiling import most_important, profile_dataset
from xaimoe_audio.profiling.bands import BAND_CENTRES
from xaimoe_audio.profiling.measure import measure
from xaimoe_audio.profiling.record import file_profile
from xaimoe_audio.profiling.report import describe, write_profile
from xaimoe_runtime.errors import AudioError, DatasetError


@pytest.fixture
def small(tmp_path: Path) -> Path:
    rows = [(f"{label}{i}", "train" if i < 4 else "val", label, f"{label}{i}") for label in "ab" for i in range(6)]
    audio = {
        row[0]: (noise(RATE, seed) if row[2] == "a" else tone() + noise(RATE, seed, 1e-3), RATE)
        for seed, row in enumerate(rows)
    }
    return dataset(tmp_path, rows, **audio)


# A dataset -----------------------------------------------------------------------------------------------------------


def test_the_profile_counts_and_spreads_by_split_and_class(small: Path) -> None:
    profile = profiled(small)
    assert profile.classes == {"a": 6, "b": 6}
    assert (profile.fs_mode, profile.fs_unique) == (RATE, {"16000": 12})
    assert {name: part.files for name, part in profile.by_split.items()} == {"train": 8, "val": 4}
    assert all(profile.by_class[name].spread["snr"].q50 < 0 for name in "ab")  # noise and a tone, both steady
    assert profile.overall.spread["duration_s"].min == profile.overall.spread["duration_s"].max == 1.0
    assert profile.imbalance == 1.0
    assert set(profile.sounds) == {"a", "b"}
    for sound in profile.sounds.values():
        assert len(sound.third_octaves) == len(sound.contrast) == len(BAND_CENTRES)


def test_a_second_run_gives_the_same_profile(small: Path) -> None:
    assert profiled(small) == profiled(small)


def test_the_digest_tells_the_dataset_and_not_where_it_lies_or_how_its_rows_are_ordered(
    small: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digest = profiled(small).dataset_sha256
    moved = Path(shutil.copytree(small, tmp_path_factory.mktemp("moved") / "elsewhere"))
    head, *rows = (moved / "metadata.csv").read_text().splitlines()
    (moved / "metadata.csv").write_text("\n".join([head, *reversed(rows)]))
    assert profiled(moved).dataset_sha256 == digest
    for changed in ("a0.wav,train,b,a0", "a0.wav,val,a,a0", "a0.wav,train,a,other"):
        (moved / "metadata.csv").write_text("\n".join([head, changed, *rows[1:]]))
        assert profiled(moved).dataset_sha256 != digest
    write_wav(small / "a0.wav", noise(RATE, seed=77))
    assert profiled(small).dataset_sha256 != digest


def test_of_two_equally_frequent_rates_the_higher_one_is_the_mode(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), ("b", "val", "x", "")]
    profile = profiled(dataset(tmp_path, rows, a=(noise(8_000), 8_000), b=(noise(44_100), 44_100)))
    assert (profile.fs_mode, profile.fs_unique) == (44_100, {"8000": 1, "44100": 1})


def test_a_rate_that_tells_the_label_is_a_strong_shortcut(tmp_path: Path) -> None:
    rows = [(f"{label}{i}", "train", label, f"{label}{i}") for label in "ab" for i in range(10)]
    audio = {
        name: (noise(4_000, seed), 8_000 if label == "a" else 16_000) for seed, (name, _, label, _) in enumerate(rows)
    }
    profile = profiled(dataset(tmp_path, rows, **audio))
    by_name = {shortcut.condition: shortcut for shortcut in profile.shortcuts}
    assert by_name["sample_rate"].balanced_accuracy == 1.0
    assert by_name["sample_rate"].chance == 0.5
    assert "sampling rate alone is a strong predictor" in by_name["sample_rate"].message
    assert by_name["level"].message == ""
    assert "shortcut" in kinds(profile)


def test_chance_in_a_small_dataset_is_no_shortcut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    told = 0
    for trial in range(8):
        folder = tmp_path / str(trial)
        folder.mkdir()
        rows = [(f"f{i}", "train", "ab"[i % 2], "") for i in range(14)]
        audio = {
            row[0]: (noise(int(rng.integers(500, 4_000)), i, float(rng.uniform(0.01, 0.3))), RATE)
            for i, row in enumerate(rows)
        }
        told += "shortcut" in kinds(profiled(dataset(folder, rows, **audio)))
    assert told <= 1


def test_shortcuts_follow_the_conditions_though_the_samples_are_the_same(tmp_path: Path) -> None:
    rows = [(f"{label}{i}", "train", label, "") for label in "ab" for i in range(10)]
    samples = {name: noise(4_000, seed) for seed, (name, *_) in enumerate(rows)}
    folder = dataset(tmp_path, rows, **{n: (s, 8_000 if n[0] == "a" else 16_000) for n, s in samples.items()})
    assert "shortcut" in kinds(profiled(folder))
    assert "shortcut" not in kinds(profiled(dataset(tmp_path, rows, **{n: (s, 16_000) for n, s in samples.items()})))


def test_recordings_of_one_group_are_never_parted_when_shortcuts_are_sought(tmp_path: Path) -> None:
    """Each group has its own level; within a group it tells the label, across groups it does not."""
    rng = np.random.default_rng(0)
    rows, audio = [], {}
    for group in range(12):
        label, level = "ab"[group % 2], float(10 ** rng.uniform(-3, -0.5))
        for i in range(4):
            name = f"g{group}_{i}"
            rows.append((name, "train", label, f"group{group}"))
            audio[name] = (noise(2_000, 10 * group + i, level), RATE)
    profile = profiled(dataset(tmp_path, rows, **audio))
    level_alone = next(shortcut for shortcut in profile.shortcuts if shortcut.condition == "level")
    assert level_alone.balanced_accuracy < 0.75


def test_shortcuts_of_several_labels_are_sought_class_by_class(tmp_path: Path) -> None:
    rows = [(f"f{i}", "train", ("a|b" if i % 2 else "a") if i < 12 else "b", "") for i in range(20)]
    audio = {name: (noise(4_000 if "a" in label else 8_000, i), RATE) for i, (name, _, label, _) in enumerate(rows)}
    profile = profiled(dataset(tmp_path, rows, **audio), "multi_label")
    duration = next(shortcut for shortcut in profile.shortcuts if shortcut.condition == "duration_s")
    assert duration.chance == 0.5
    assert duration.balanced_accuracy > 0.7


def test_the_same_audio_in_two_splits_or_under_two_labels_is_found(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), ("b", "val", "x", ""), ("c", "train", "y", ""), ("d", "val", "y", "")]
    same, other = noise(4_000, 1), noise(4_000, 2)
    folder = dataset(tmp_path, rows, a=(same, RATE), b=(same, RATE), c=(other, RATE), d=(same, RATE))
    found = {warning.kind: warning.message for warning in profiled(folder).warnings}
    assert (
        "row 2 a.wav, row 3 b.wav, row 5 d.wav: the same audio with split train, val"
        in found["duplicate_across_splits"]
    )
    assert "with label x, y" in found["duplicate_across_labels"]


def test_duplicates_that_differ_alike_are_one_warning(tmp_path: Path) -> None:
    rows = [(f"{split}{i}", split, "x", "") for i in range(8) for split in ("train", "val")]
    audio = {name: (noise(2_000, int(name[-1])), RATE) for name, *_ in rows}
    found = [w.message for w in profiled(dataset(tmp_path, rows, **audio)).warnings if "same audio" in w.message]
    assert len(found) == 1
    assert "and 11 more: the same audio with split train, val" in found[0]


def test_a_terminal_gets_the_first_warnings_of_each_kind(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), *((f"b{i}", f"fold{i}", "x", "") for i in range(9))]
    folder = dataset(tmp_path, rows, a=(noise(4_000), RATE), **{f"b{i}": (noise(100), RATE) for i in range(9)})
    profile = profiled(folder)
    lines = most_important(profile.warnings)
    assert sum("expected train, val or test" in warning.message for warning in profile.warnings) == 9
    assert "more of this kind (defect), all in profile.json" in lines[5]
    assert len([line for line in lines if "expected train, val or test" in line]) <= 5


def test_equal_defects_are_one_warning(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), *((f"gone{i}", "val", "x", "") for i in range(9))]
    profile = profiled(dataset(tmp_path, rows, a=(noise(4_000), RATE)))
    (message,) = (warning.message for warning in profile.warnings if "does not exist" in warning.message)
    assert message.startswith("rows 3-11: does not exist under")
    assert "(9 rows): gone0.wav, gone1.wav" in message


def test_defects_of_the_table_are_printed_before_a_recording_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[str] = []

    def measured(*_: object) -> None:
        before.append(capsys.readouterr().err)
        raise AudioError("not measured here")

    monkeypatch.setattr("xaimoe_audio.profiling.profile.file_profile", measured)
    rows = [("a", "train", "x", ""), ("b", "train", "X", ""), ("gone", "val", "x", "")]
    folder = dataset(tmp_path, rows, a=(noise(4_000), RATE), b=(noise(4_000, 1), RATE))
    with pytest.raises(DatasetError, match="not measured here"):
        profiled(folder)
    assert "row 4: gone.wav: does not exist" in "".join(before)
    assert "labels look alike: 'X' (row 3), 'x' (row 2)" in "".join(before)


def test_labels_that_look_alike_are_a_warning_of_the_profile(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), ("b", "val", "X", ""), ("c", "train", "X", "")]
    profile = profiled(dataset(tmp_path, rows, **{name: (noise(4_000), RATE) for name in "abc"}))
    assert "similar_labels" in kinds(profile)


def test_recordings_of_no_class_belong_to_the_dataset_but_to_no_class(tmp_path: Path) -> None:
    """Case 29: background, with several labels a recording."""
    rows = [(f"f{i}", "train", ("x", "", "y", "x|y", "")[i % 5], "") for i in range(20)] + [("v", "val", "", "")]
    audio = {name: (noise(8_000 if label else 4_000, i), RATE) for i, (name, _, label, _) in enumerate(rows)}
    audio["v"] = audio["f0"]
    folder = dataset(tmp_path, rows, **audio)
    found = profile_dataset(folder, folder / "metadata.csv", "multi_label")
    profile = found.profile
    assert found.defects.listed() == []
    assert profile.classes == {"x": 8, "y": 8}
    assert set(profile.by_class) == set(profile.sounds) == {"x", "y"}
    assert profile.overall.files == 21 and profile.imbalance == 1.0
    duration = next(shortcut for shortcut in profile.shortcuts if shortcut.condition == "duration_s")
    assert duration.chance == 0.5  # each class is told from the rest, background included
    assert "row 2 f0.wav, row 22 v.wav: the same audio with label (no class), x" in [
        w.message for w in profile.warnings
    ]
    write_profile(found, tmp_path / "out")
    assert "NaN" not in (tmp_path / "out" / "profile.json").read_text()


def test_every_channel_is_measured_where_every_one_is_heard(tmp_path: Path) -> None:
    """The channels cancel each other in the mixture."""
    rows = [("a", "train", "x", ""), ("b", "val", "x", "")]
    sound = np.stack([noise(4_000), -noise(4_000)], axis=1)
    folder = dataset(tmp_path, rows, a=(sound, RATE), b=(sound, RATE))
    mixed = profile_dataset(folder, folder / "metadata.csv", "single_label").profile
    assert "if their channels cancel each other, choose one by --channel" in mixed.warnings[0].message
    each = profile_dataset(folder, folder / "metadata.csv", "single_label", "each").profile
    assert (each.overall.files, "silent" in kinds(each)) == (4, False)


def test_a_recording_that_is_silent_for_long_is_told(tmp_path: Path) -> None:
    samples = np.concatenate([noise(RATE), np.zeros(29 * RATE, np.float32)])
    found = profiled(dataset(tmp_path, [("a", "train", "x", "")], a=(samples, RATE)))
    told = next(warning.message for warning in found.warnings if warning.kind == "mostly_silent")
    assert told.startswith("row 2 a.wav: silent for more than half of the time")


@pytest.mark.parametrize("label", ["$\\frac$", "$a_b$", "_x", "日本", "a" * 60])
def test_a_class_may_have_any_name(tmp_path: Path, label: str, recwarn: pytest.WarningsRecorder) -> None:
    write_wav(tmp_path / "a.wav", noise(4_000))
    with (tmp_path / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("filepath", "split", "label"), ("a.wav", "train", label)])
    found = profile_dataset(tmp_path, tmp_path / "metadata.csv", "single_label")
    write_profile(found, tmp_path / "out")
    assert (tmp_path / "out" / "profile.png").is_file()
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    table = describe(found.profile).splitlines()
    rows = table[next(i for i, line in enumerate(table) if line.startswith("class")) :][:2]
    assert len(rows[0]) == len(rows[1])


def test_silent_and_clipped_recordings_are_named_but_silence_is_no_duplicate(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), ("b", "val", "y", ""), ("c", "train", "y", ""), ("d", "val", "x", "")]
    silent, loud = np.zeros(4_000, np.float32), np.sign(noise(4_000)).astype(np.float32)
    folder = dataset(tmp_path, rows, a=(silent, RATE), b=(silent, RATE), c=(loud, RATE), d=(noise(4_000), RATE))
    found = {warning.kind: warning.message for warning in profiled(folder).warnings}
    assert found["silent"].startswith("row 2 a.wav, row 3 b.wav: silent")
    assert found["clipped"].startswith("row 4 c.wav: more than 1 %")
    assert "duplicate_across_splits" not in found


def test_groups_that_leak_and_files_that_cannot_be_read_are_told_and_the_rest_is_profiled(tmp_path: Path) -> None:
    rows = [("a", "train", "x", "g"), ("b", "val", "x", "g"), ("c", "train", "x", ""), ("d", "train", "x", "")]
    folder = dataset(tmp_path, rows, a=(noise(4_000), RATE), b=(noise(4_000, 1), RATE))
    (folder / "c.wav").write_text("not audio")
    found = profile_dataset(folder, folder / "metadata.csv", "single_label")
    messages = "; ".join(warning.message for warning in found.profile.warnings)
    assert found.profile.overall.files == 2
    for said in (
        "group 'g': is in the splits train, val",
        "row 4: c.wav: not readable as audio",
        "row 5: d.wav: does not",
    ):
        assert said in messages
    with pytest.raises(DatasetError, match="3 defect"):
        found.defects.raise_if_any()


def test_one_class_that_is_much_larger_is_told(tmp_path: Path) -> None:
    rows = [(f"f{i}", "train", "x" if i else "y", "") for i in range(12)] + [("v", "val", "x", "")]
    audio = {row[0]: (noise(2_000, i), RATE) for i, row in enumerate(rows)}
    assert "imbalance" in kinds(profiled(dataset(tmp_path, rows, **audio)))


# Bad input -----------------------------------------------------------------------------------------------------------


def test_a_dataset_of_silence_has_a_profile_without_nan(tmp_path: Path) -> None:
    rows = [(f"f{i}", "train" if i < 3 else "val", "xy"[i % 2], "") for i in range(6)]
    silent = np.zeros(RATE, np.float32)
    found = profile_dataset(
        dataset(tmp_path, rows, **{row[0]: (silent, RATE) for row in rows}), tmp_path / "metadata.csv", "single_label"
    )
    write_profile(found, tmp_path / "out")
    assert "NaN" not in (tmp_path / "out" / "profile.json").read_text()
    assert "silent" in kinds(found.profile)


def test_one_recording_is_profiled(tmp_path: Path) -> None:
    found = profile_dataset(
        dataset(tmp_path, [("a", "train", "x", "")], a=(noise(4_000), RATE)), tmp_path / "metadata.csv", "single_label"
    )
    assert found.profile.shortcuts == ()
    assert "split val has no usable recording" in "".join(warning.message for warning in found.profile.warnings)
    write_profile(found, tmp_path / "out")
    assert (tmp_path / "out" / "profile.png").stat().st_size > 10_000


def test_recordings_of_one_sample_are_drawn(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), ("b", "val", "y", "")]
    one = np.full(1, 0.5, np.float32)
    folder = dataset(tmp_path, rows, a=(one, RATE), b=(one, RATE))
    write_profile(profile_dataset(folder, folder / "metadata.csv", "single_label"), tmp_path / "out")
    assert (tmp_path / "out" / "profile.png").is_file()


def test_silent_recordings_do_not_move_what_the_policy_looks_at(tmp_path: Path) -> None:
    rows = [(f"f{i}", "train", "xy"[i % 2], "") for i in range(6)]
    audio = {f"f{i}": (np.zeros(RATE, np.float32) if i < 4 else tone() + noise(RATE, i, 1e-4), RATE) for i in range(6)}
    assert profiled(dataset(tmp_path, rows, **audio)).by_split["train"].spread["level"].q05 > -40


def test_eight_channels_are_mixed(tmp_path: Path) -> None:
    samples = np.stack([noise(4_000, i) for i in range(8)], axis=1)
    profile = profiled(dataset(tmp_path, [("a", "train", "x", "")], a=(samples, RATE)))
    assert profile.channels == {"8": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full(4_000, np.nan, np.float32), "NaN or infinite"),
        (np.full(4_000, np.inf, np.float32), "NaN or infinite"),
        (np.zeros(0, np.float32), "the recording is empty"),
    ],
)
def test_a_recording_without_finite_samples_is_refused(
    tmp_path: Path, content: np.ndarray[Any, Any], message: str
) -> None:
    with pytest.raises(AudioError, match=message):
        file_profile(write_wav(tmp_path / "a.wav", content))


@pytest.mark.parametrize(("kind", "suffix"), [("WAV", "wav"), ("AIFF", "aiff"), ("AU", "au"), ("W64", "w64")])
def test_a_header_that_promises_more_than_there_is_is_told_and_the_rest_is_used(
    tmp_path: Path, kind: str, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(RATE), RATE, format=kind)
    assert measure(path).whole
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "metadata.csv").write_text(f"filepath,split,label\n{path.name},train,x\n")
    found = profiled(tmp_path)
    assert found.overall.spread["duration_s"].q50 == pytest.approx(0.5, abs=0.01)
    assert {warning.kind: warning.message for warning in found.warnings}["cut_short"].startswith(
        f"row 2 {path.name}: incomplete; used as far as they can be decoded"
    )


def test_incomplete_recordings_can_be_made_defects(tmp_path: Path) -> None:
    rows = [("a", "train", "x", ""), ("b", "train", "y", ""), ("c", "val", "x", "")]
    stereo = np.stack([noise(RATE), noise(RATE, 1)], axis=1)
    folder = dataset(tmp_path, rows, a=(stereo, RATE), b=(noise(RATE, 2), RATE), c=(noise(RATE, 3), RATE))
    for name in "ac":
        path = folder / f"{name}.wav"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = profile_dataset(folder, folder / "metadata.csv", "single_label", "0")
    assert found.defects.listed() == []
    found.refuse_incomplete()
    (report,) = found.defects.listed()
    assert report.startswith("rows 2, 4: is incomplete; copy it again, take it out, or allow it by --allow-incomplete")
    assert "a.wav (decoded 0.5" in report and "c.wav (decoded 0.5" in report and "b.wav" not in report


def test_a_header_that_promises_less_than_there_is_is_decoded_to_the_end(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(RATE), subtype="PCM_16")
    content = bytearray(path.read_bytes())
    place = content.find(b"data") + 4
    content[place : place + 4] = (8_000).to_bytes(4, "little")
    path.write_bytes(content)
    found = measure(path)
    assert (found.whole, found.duration_s) == (True, 1.0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_recording_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", noise(RATE))
    path.chmod(0)
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read \(Permission denied\); check that it"):
        file_profile(path)


def test_a_recording_that_the_system_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav(tmp_path / "a.wav", noise(RATE))

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read \(Permission denied\); check that it"):
        file_profile(path)


def test_a_rate_that_no_recorder_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="sampling rate of 1 Hz"):
        file_profile(write_wav(tmp_path / "a.wav", noise(100), 1))


def test_a_dataset_without_a_readable_recording_is_refused(tmp_path: Path) -> None:
    folder = dataset(tmp_path, [("a", "train", "x", "")])
    with pytest.raises(DatasetError, match=r"a\.wav: does not exist"):
        profiled(folder)


# For people ----------------------------------------------------------------------------------------------------------


def test_the_report_has_json_table_figure_and_a_summary(small: Path, tmp_path: Path) -> None:
    found = profile_dataset(small, small / "metadata.csv", "single_label")
    write_profile(found, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "profile.json").read_text())
    assert content["classes"] == {"a": 6, "b": 6}
    with (tmp_path / "out" / "profile.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 12
    assert {"filepath", "label", "snr", "level", "duration_s"} <= table[0].keys()
    assert (tmp_path / "out" / "profile.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "out" / "profile.png").stat().st_mtime_ns
    write_profile(found, tmp_path / "out")  # nothing changed: nothing is drawn again
    assert (tmp_path / "out" / "profile.png").stat().st_mtime_ns == drawn
    (tmp_path / "out" / "profile.png").unlink()
    write_profile(found, tmp_path / "out")
    assert (tmp_path / "out" / "profile.png").is_file()
    text = describe(found.profile)
    assert "12 recordings" in text
    assert "16000 Hz (12)" in text


# Real recordings -----------------------------------------------------------------------------------------------------


def test_the_sampling_rate_of_the_marine_mammals_tells_the_species() -> None:
    folder = real_data("marine_watkins")
    found = {shortcut.condition: shortcut for shortcut in profiled(folder).shortcuts}
    assert "strong predictor" in found["sample_rate"].message
