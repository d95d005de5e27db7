"""The text of a table, however a spreadsheet has written it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xaimoe_runtime import metadata_csv
from xaimoe_runtime.errors import DatasetError
from xaimoe_runtime.metadata_csv import Table, read_table

KNOWN = ("filepath", "split", "label")
TEXT = "filepath,split,label\na.wav,train,épave\nb.wav,val,épave\n"
COLUMNS = ("filepath", "split", "label")
ROWS = [(2, ["a.wav", "train", "épave"]), (3, ["b.wav", "val", "épave"])]


def read(folder: Path, content: bytes) -> Table:
    path = folder / "metadata.csv"
    path.write_bytes(content)
    return read_table(path, KNOWN)


WRITTEN = {
    "UTF-8": TEXT.encode(),
    "UTF-8 with a byte order mark": TEXT.encode("utf-8-sig"),
    "UTF-16 (Excel's Unicode text)": TEXT.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
    "UTF-16, big endian": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-32": b"\xff\xfe\x00\x00" + TEXT.encode("utf-32-le"),
    "CRLF": TEXT.replace("\n", "\r\n").encode(),
    "CR": TEXT.replace("\n", "\r").encode(),
    "no line end at the end": TEXT.rstrip().encode(),
    "semicolons": TEXT.replace(",", ";").encode(),
    "tabs": TEXT.replace(",", "\t").encode(),
    "blank after the comma": TEXT.replace(",", ", ").encode(),
    "quotation marks": TEXT.replace("épave", '"épave"').replace("filepath", '"filepath"').encode(),
    "blank before quotation marks": TEXT.replace("épave", ' "épave"').encode(),
    "header in capitals": TEXT.replace("filepath", "FILEPATH").encode(),
}


@pytest.mark.parametrize("content", WRITTEN.values(), ids=WRITTEN)
def test_a_table_reads_the_same_however_it_is_written(tmp_path: Path, content: bytes) -> None:
    table = read(tmp_path, content)
    assert table.columns == COLUMNS
    assert [(line, [cell.strip() for cell in cells]) for line, cells in table.rows] == ROWS


def test_excels_hint_of_the_delimiter_is_followed(tmp_path: Path) -> None:
    table = read(tmp_path, b"sep=;\r\nfilepath;split;label\r\na.wav;train;x,y\r\n")
    assert table == Table(COLUMNS, [(3, ["a.wav", "train", "x,y"])])


def test_a_comma_in_a_label_does_not_decide_the_delimiter(tmp_path: Path) -> None:
    table = read(tmp_path, b"a,b,c,d;filepath;split;label\nx;a.wav;train;y\n")
    assert table.columns == ("a,b,c,d", "filepath", "split", "label")


def test_blank_lines_before_the_header_are_skipped(tmp_path: Path) -> None:
    assert read(tmp_path, b"\n,,\nfilepath,split,label\na.wav,train,x\n").rows == [(4, ["a.wav", "train", "x"])]


def test_blank_rows_are_left_out(tmp_path: Path) -> None:
    assert [line for line, _ in read(tmp_path, TEXT.encode() + b",,\n\n , ,\nc.wav,test,x\n").rows] == [2, 3, 7]


def test_a_quoted_cell_may_have_delimiters_and_lines(tmp_path: Path) -> None:
    table = read(tmp_path, b'filepath,split,label\n"a,b.wav",train,"x\ny"\nc.wav,val,x\n')
    assert table.rows == [(2, ["a,b.wav", "train", "x\ny"]), (4, ["c.wav", "val", "x"])]


def test_an_empty_file_has_neither_columns_nor_rows(tmp_path: Path) -> None:
    assert read(tmp_path, b"") == Table((), [])


BROKEN = {
    "Latin-1": (TEXT.encode("latin-1"), "line 2: not readable as text; found the byte 0xE9, which is not UTF-8"),
    "half a UTF-16 character": (b"\xff\xfef\x00\x0a\x00i", "line 2: not readable as text"),
    "NUL": (b"filepath,split,label\na.wav,train,x\n\0\n", "line 3: not readable as text; found a NUL"),
    "UTF-16 without a mark": (TEXT.replace("é", "e").encode("utf-16-le"), "line 1: not readable as text; found a NUL"),
    "open quotation mark": (b'filepath,split,label\na.wav,train,x\nb.wav,val,"x\n', "line 3: not readable as CSV"),
    "text behind a quotation mark": (b'filepath,split,label\n"a".wav,train,x\n', "line 2: not readable as CSV"),
    "huge field": (b"filepath,split,label\na.wav,train," + b"x" * 200_000, "line 2: not readable as CSV"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_table_is_an_error_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, content)
    assert f"metadata.csv: {message}" in str(caught.value)


def test_a_recording_is_not_read_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_csv, "MAX_BYTES", 10)
    with pytest.raises(DatasetError, match="found more than 0 MB, expected a table"):
        read(tmp_path, TEXT.encode())


cells = st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zs", "Zl", "Zp")), min_size=1, max_size=6)


@given(
    rows=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t"),
    ending=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_a_csv_writer_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    delimiter: str,
    ending: str,
    encoding: str,
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=ending).writerows([KNOWN, *rows])
    table = read(tmp_path_factory.getbasetemp(), text.getvalue().encode(encoding))
    assert table == Table(COLUMNS, [(line, list(row)) for line, row in enumerate(rows, start=2)])
