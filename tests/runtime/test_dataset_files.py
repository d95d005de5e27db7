"""Finding the files of a table: however they and the folder are written, and never outside of it."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from xaimoe_runtime.dataset_files import DatasetFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder with ``audio/a.wav``, and one recording outside of it."""
    folder = tmp_path / "data" / "set"
    (folder / "audio").mkdir(parents=True)
    (folder / "audio" / "a.wav").write_bytes(b"inside")
    (tmp_path / "secret.wav").write_bytes(b"outside")
    return folder


def read(folder: Path, cell: str) -> bytes:
    located = DatasetFiles(folder).locate(cell)
    assert located.problem == ""
    return located.path.read_bytes()


FOLDERS = {
    "absolute": lambda folder: folder,
    "relative": lambda _: Path("data/set"),
    "here": lambda _: Path(),
    "with ..": lambda folder: folder / ".." / "set" / "audio" / "..",
    "through a link": lambda _: Path("link"),
    "with .. after a link": lambda _: Path("inner/.."),
    "with a slash at the end": lambda folder: Path(f"{folder}/"),
}
CELLS = ["audio/a.wav", "./audio//a.wav", "audio/../audio/a.wav", "audio\\a.wav", ".\\audio\\a.wav", " audio/a.wav "]


@pytest.mark.parametrize("written", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("cell", [*CELLS, "absolute", "//absolute", "through a link"])
def test_the_answer_is_the_same_however_folder_and_file_are_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written, cell: str
) -> None:  # type: ignore[no-untyped-def]
    """Cases 24 and 26."""
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "inner").symlink_to(folder / "audio")
    monkeypatch.chdir(folder if written is FOLDERS["here"] else tmp_path)
    absolute = {
        "absolute": f"{folder}/audio/a.wav",
        "//absolute": f"/{folder}/audio/a.wav",
        "through a link": f"{tmp_path}/link/audio/a.wav",
    }
    located = DatasetFiles(written(folder)).locate(absolute.get(cell, cell))
    assert located.problem == ""
    assert located.key == "audio/a.wav"
    assert located.path.read_bytes() == b"inside"


@pytest.mark.parametrize(
    "cell",
    [
        "../../secret.wav",
        "audio/../../../secret.wav",
        "..\\..\\secret.wav",
        "audio\\..\\..\\..\\secret.wav",
        "/etc/hostname",
        "//etc/hostname",
        "..",
        "\u200b../../secret.wav",
    ],
)
def test_nothing_outside_of_the_folder_is_found(folder: Path, cell: str) -> None:
    located = DatasetFiles(folder).locate(cell)
    assert located.problem == f"lies outside {folder}"
    assert not located.path.exists()


def test_a_folder_whose_name_begins_alike_is_outside(folder: Path) -> None:
    twin = folder.with_name("set2")
    twin.mkdir()
    (twin / "a.wav").write_bytes(b"outside")
    assert "lies outside" in DatasetFiles(folder).locate("../set2/a.wav").problem
    assert "lies outside" in DatasetFiles(folder).locate(f"{twin}/a.wav").problem


def test_a_link_in_the_folder_may_lead_elsewhere(folder: Path, tmp_path: Path) -> None:
    (folder / "elsewhere").symlink_to(tmp_path)
    assert read(folder, "elsewhere/secret.wav") == b"outside"


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_a_name_is_found_in_another_normal_form(folder: Path, on_disk: str, in_table: str) -> None:
    name = "\u00e9t\u00e9/\u00e9pave.wav"
    path = folder / unicodedata.normalize(on_disk, name)  # type: ignore[arg-type]
    path.parent.mkdir()
    path.write_bytes(b"accents")
    assert read(folder, unicodedata.normalize(in_table, name)) == b"accents"  # type: ignore[arg-type]
    located = DatasetFiles(folder).locate(unicodedata.normalize(in_table, name))  # type: ignore[arg-type]
    assert located.key == unicodedata.normalize(on_disk, name)  # type: ignore[arg-type]


def test_the_exact_name_comes_first(folder: Path) -> None:
    (folder / "audio\\a.wav").write_bytes(b"backslash")
    for form in ("NFC", "NFD"):
        (folder / unicodedata.normalize(form, "\u00e9.wav")).write_bytes(form.encode())  # type: ignore[arg-type]
    assert read(folder, "audio\\a.wav") == b"backslash"
    assert read(folder, "\u00e9.wav") == b"NFC"
    assert read(folder, "e\u0301.wav") == b"NFD"


@pytest.mark.parametrize("name", ["50%.wav", "a%20b.wav", "end .wav", "two  blanks.wav", "wav ", " wav", "#1.wav", "~"])
def test_signs_and_blanks_belong_to_a_name(folder: Path, name: str) -> None:
    (folder / name).write_bytes(name.encode())
    assert read(folder, name) == name.encode()


def test_case_is_not_guessed_but_named(folder: Path) -> None:
    located = DatasetFiles(folder).locate("Audio/A.WAV")
    assert "does not exist" in located.problem
    assert located.similar == "audio/a.wav"


def test_what_is_no_file_is_named(folder: Path) -> None:
    os.mkfifo(folder / "pipe.wav")
    (folder / "circle.wav").symlink_to(folder / "circle.wav")
    (folder / "broken.wav").symlink_to(folder / "gone.wav")
    files = DatasetFiles(folder)
    assert files.locate("audio").problem == "is a folder, expected a recording"
    assert files.locate("pipe.wav").problem == "is not a regular file, expected a recording"
    assert "cannot be opened (Too many levels of symbolic links)" in files.locate("circle.wav").problem
    assert "does not exist" in files.locate("broken.wav").problem
    assert "does not exist" in files.locate("audio/a.wav/b.wav").problem
    assert "cannot be opened (File name too long)" in files.locate("x" * 300).problem


def test_a_file_without_permission_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert DatasetFiles(folder).locate("audio/a.wav").problem == "cannot be read; check its permissions"


def test_links_share_an_identity(folder: Path) -> None:
    (folder / "link.wav").symlink_to(folder / "audio" / "a.wav")
    files = DatasetFiles(folder)
    first, second = files.locate("audio/a.wav"), files.locate("link.wav")
    assert first.identity == second.identity
    assert first.key != second.key
