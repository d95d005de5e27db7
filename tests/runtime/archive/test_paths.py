"""Which files are meant: files, folders, patterns and lists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xaimoe_runtime import ConfigError
from xaimoe_runtime.archive.paths import describe_skipped, find_recordings


def test_a_folder_stands_for_all_recordings_under_it_in_order(tmp_path: Path) -> None:
    for name in ("b.WAV", "a/z.flac", "notes.txt", "a/b/c.ogg", "d.wav/e.mp3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wanted = [tmp_path / name for name in ("a/b/c.ogg", "a/z.flac", "b.WAV", "d.wav/e.mp3")]
    assert find_recordings([tmp_path]).paths == wanted


def test_a_file_is_taken_whatever_its_ending(tmp_path: Path) -> None:
    odd, missing = tmp_path / "take.001", tmp_path / "missing.wav"
    odd.touch()
    assert find_recordings([odd, missing]).paths == [odd, missing]


def test_a_folder_without_recordings_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found no recordings, expected files ending in .*\.flac") as caught:
        find_recordings([tmp_path])
    assert str(tmp_path) in str(caught.value)


def test_no_path_at_all_says_what_to_name() -> None:
    with pytest.raises(ConfigError, match=r"^found no path, expected recordings, folders or patterns; name some"):
        find_recordings([])


def made(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_a_pattern_stands_for_what_fits(tmp_path: Path) -> None:
    one, two, deep, other = made(tmp_path, "a1.wav", "a2.wav", "b/c/a3.wav", "b1.wav")
    assert find_recordings([tmp_path / "a?.wav"]).paths == [one, two]
    assert find_recordings([tmp_path / "**" / "a*.wav"]).paths == [one, two, deep]
    assert find_recordings([tmp_path / "[ab]1.wav"]).paths == [one, other]
    assert find_recordings([tmp_path / "b*"]).paths == [deep, other]  # the folder, too
    with pytest.raises(ConfigError, match="found no recordings"):
        find_recordings([tmp_path / "z*.wav"])


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (odd, _) = made(tmp_path, "take[1].wav", "take1.wav")
    assert find_recordings([odd]).paths == [odd]


def test_a_list_has_a_path_a_line(tmp_path: Path) -> None:
    one, two, three = made(tmp_path, "one.wav", "f/two.wav", "f/three.wav")
    strange = tmp_path / os.fsdecode(b"caf\xe9.wav")
    listed = tmp_path / "list.txt"
    listed.write_bytes(f"{one}\n\n{two.parent}\n".encode() + os.fsencode(strange) + b"\r\n")
    assert find_recordings([], [listed]).paths == [one, three, two, strange]
    with pytest.raises(ConfigError, match=r"none\.txt: cannot be read"):
        find_recordings([], [tmp_path / "none.txt"])


def test_each_file_is_taken_once(tmp_path: Path) -> None:
    one, two = made(tmp_path, "one.wav", "two.wav")
    assert find_recordings([two, tmp_path, two, tmp_path / "*.wav"]).paths == [two, one]


def test_a_name_that_is_too_long_is_left_to_the_reader(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 5000)
    assert find_recordings([long]).paths == [long]


def test_find_recordings_searches_linked_folders_once(tmp_path: Path) -> None:
    (card,) = made(tmp_path, "disk/a.wav")
    (top,) = made(tmp_path, "survey/top.wav")
    (tmp_path / "survey" / "card1").symlink_to(card.parent)
    (tmp_path / "survey" / "loop").symlink_to(tmp_path / "survey")
    (tmp_path / "survey" / "again").symlink_to(card.parent)
    assert find_recordings([tmp_path / "survey"]).paths == [tmp_path / "survey/again/a.wav", top]


def test_find_recordings_prefers_the_own_name_of_a_file_to_that_of_a_link(tmp_path: Path) -> None:
    (real,) = made(tmp_path, "s/z/take.wav")
    (tmp_path / "s" / "a").symlink_to(real.parent)
    (tmp_path / "s" / "b.wav").symlink_to(real)
    assert find_recordings([tmp_path / "s"]).paths == [real]
    assert find_recordings([tmp_path / "s" / "b.wav"]).paths == [tmp_path / "s" / "b.wav"]


def test_find_recordings_expands_a_pattern_through_link_loops_once(tmp_path: Path) -> None:
    (one,) = made(tmp_path, "c/a/1.flac")
    for name in ("up", "up2", "up3"):  # names double with each level: a plain walk would not end
        (tmp_path / "c" / "a" / name).symlink_to(tmp_path / "c")
    assert find_recordings([tmp_path / "c" / "**" / "*.flac"]).paths == [one]
    assert find_recordings([tmp_path / "c" / "**"]).paths == [one]
    assert find_recordings([tmp_path / "*" / "**" / "a" / "*.flac"]).paths == [one]


def test_find_recordings_takes_every_ending_of_a_readable_format(tmp_path: Path) -> None:
    names = made(tmp_path, "a.bwf", "b.sph", "c.wav", "d.mp2", "e.IFF", "f.amb")
    assert find_recordings([tmp_path]).paths == names


def test_find_recordings_counts_what_a_folder_holds_besides(tmp_path: Path) -> None:
    (one,) = made(tmp_path, "x.wav")
    made(tmp_path, "._x.wav", "a/._y.wav", "notes.TXT", "a/log.txt", "README", "lost+found/z.wav")
    found = find_recordings([tmp_path])
    assert found.paths == [one]
    assert found.skipped == {"(no ending)": 1, "._*": 2, ".txt": 2, "lost+found/": 1}
    assert describe_skipped(found.skipped) == "2 ._*, 2 .txt, 1 (no ending), 1 lost+found/"
    with pytest.raises(ConfigError, match=r"found no recordings \(1 \._\*, 1 \.txt are there\)"):
        find_recordings([tmp_path / "a"])


def test_find_recordings_counts_links_to_what_is_taken_anyway(tmp_path: Path) -> None:
    real, outside = made(tmp_path, "s/z/a.wav", "card/b.wav")
    for name, target in {
        "s/again.wav": real,
        "s/loop": tmp_path / "s",
        "s/one.wav": outside,
        "s/two.wav": outside,
        "s/card": outside.parent,
        "s/card2": outside.parent,
    }.items():
        (tmp_path / name).symlink_to(target)
    found = find_recordings([tmp_path / "s"])
    taken = [tmp_path / "s" / "card" / "b.wav", real]
    assert found.paths == taken
    assert found.skipped == {"(duplicate link)": 5}
    assert find_recordings([tmp_path / "s", tmp_path / "s"]).skipped == {"(duplicate link)": 5}


def test_find_recordings_keeps_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "gone.wav").symlink_to(tmp_path / "missing" / "gone.wav")
    assert find_recordings([tmp_path]).paths == [tmp_path / "gone.wav"]


def test_find_recordings_keeps_a_folder_that_cannot_be_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = made(tmp_path, "open/1.wav", "closed/2.wav")
    scandir = os.scandir

    def refuse(path: str | Path) -> object:  # root may search every folder
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find_recordings([tmp_path]).paths == [two.parent, one]
    assert find_recordings([tmp_path / "**" / "*.wav"]).paths == [two.parent, one]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfNAME\r\nOTHER\r\n",
        "\ufeffNAME\r\nOTHER\r\n".encode("utf-16-le"),
        "\ufeffNAME\nOTHER".encode("utf-16-be"),
        b'"NAME"\r\n"OTHER"\r\n',
        b"NAME\0OTHER\0",
        b"NAME \n  OTHER\n \n",
        b"sub\\..\\NAME\nOTHER\n",
    ],
    ids=["BOM", "UTF-16-LE", "UTF-16-BE", "quotes", "NUL", "blanks", "backslashes"],
)
def test_find_recordings_reads_lists_of_other_programs(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path, "caf\u00e9.wav", "b.wav", "sub/x")
    for name in ("NAME", "OTHER"):
        real = {"NAME": "caf\u00e9.wav", "OTHER": "b.wav"}[name]
        for encoding in ("utf-16-le", "utf-16-be", "utf-8"):
            content = content.replace(name.encode(encoding), real.encode(encoding))
    (tmp_path / "list.txt").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    found = find_recordings([], [Path("list.txt")]).paths
    assert [path.resolve().name for path in found] == ["caf\u00e9.wav", "b.wav"]
    assert all(path.exists() for path in found)
