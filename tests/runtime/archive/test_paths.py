"""Which files are meant: files, folders, patterns and lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xaimoe_runtime import ConfigError
from xaimoe_runtime.archive.paths import find_recordings


def test_a_folder_stands_for_all_recordings_under_it_in_order(tmp_path: Path) -> None:
    for name in ("b.WAV", "a/z.flac", "notes.txt", "a/b/c.ogg", "d.wav/e.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wanted = [tmp_path / name for name in ("a/b/c.ogg", "a/z.flac", "b.WAV", "d.wav/e.mp3")]
    assert find_recordings([tmp_path]) == wanted


def test_a_file_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    odd, missing = tmp_path / "take.001", tmp_path / "missing.wav"
    odd.touch()
    assert find_recordings([odd, missing]) == [odd, missing]


def test_a_folder_without_recordings_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found no recordings, expected files ending in .*\.flac") as caught:
        find_recordings([tmp_path])
    assert str(tmp_path) in str(caught.value)


def made(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_a_pattern_stands_for_what_fits(tmp_path: Path) -> None:
    one, two, deep, other = made(tmp_path, "a1.wav", "a2.wav", "b/c/a3.wav", "b1.wav")
    assert find_recordings([tmp_path / "a?.wav"]) == [one, two]
    assert find_recordings([tmp_path / "**" / "a*.wav"]) == [one, two, deep]
    assert find_recordings([tmp_path / "[ab]1.wav"]) == [one, other]
    assert find_recordings([tmp_path / "b*"]) == [deep, other]  # the folder, too
    with pytest.raises(ConfigError, match="found no recordings"):
        find_recordings([tmp_path / "z*.wav"])


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (odd, _) = made(tmp_path, "take[1].wav", "take1.wav")
    assert find_recordings([odd]) == [odd]


def test_a_list_has_a_path_a_line(tmp_path: Path) -> None:
    one, two, three = made(tmp_path, "one.wav", "f/two.wav", "f/three.wav")
    strange = tmp_path / os.fsdecode(b"caf\xe9.wav")
    listed = tmp_path / "list.txt"
    listed.write_bytes(f"{one}\n\n{two.parent}\n".encode() + os.fsencode(strange) + b"\r\n")
    assert find_recordings([], [listed]) == [one, three, two, strange]
    with pytest.raises(ConfigError, match=r"none\.txt: cannot be read"):
        find_recordings([], [tmp_path / "none.txt"])


def test_each_file_is_taken_once(tmp_path: Path) -> None:
    one, two = made(tmp_path, "one.wav", "two.wav")
    assert find_recordings([two, tmp_path, two, tmp_path / "*.wav"]) == [two, one]


def test_a_name_that_is_too_long_is_left_to_the_reader(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 5000)
    assert find_recordings([long]) == [long]
