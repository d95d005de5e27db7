"""Reading the text of ``metadata.csv``: encoding, delimiter, header and rows, each with its line in the file.

Spreadsheets write a table in many ways: with a byte order mark, as UTF-16 with tabs ("Unicode text"), with semicolons
where the comma is the decimal sign, with a first line ``sep=;``, with rows of empty cells at the end. All of these are
recognised. What is not text in UTF-8 or UTF-16 is an error that names the line.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xaimoe_runtime.errors import DatasetError

DELIMITERS = (",", "\t", ";")
MAX_BYTES = 500_000_000
"""Size of a table; more is another file, such as a recording."""
MAX_SHOWN = 120
"""Characters of a cell that a message repeats."""
INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
"""Characters without width that copying from web pages and spreadsheets leaves at the ends of cells."""
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True)
class Table:
    """The rows of a delimited text file."""

    columns: tuple[str, ...]
    """Names in the header, stripped and in lower case."""
    rows: list[tuple[int, list[str]]]
    """Line in the file (the first line is 1) and cells, as written, of each row that is not blank."""


def strip_cell(cell: str) -> str:
    """Return a cell without white space and invisible characters at its ends."""
    previous = None
    while cell != previous:
        previous, cell = cell, cell.strip().strip(INVISIBLE)
    return cell


def shown(text: str) -> str:
    """Return a cell for a message: on one line, without control characters, not too long."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def read_table(path: Path, known: Sequence[str]) -> Table:
    """Read a table of delimited text.

    Args:
        path: of the file.
        known: names of the columns that matter; the delimiter is the one that finds most of them in the header.

    Raises:
        DatasetError: the file cannot be read, or is not a table of text.
    """
    text = _decode(path, _bytes(path))
    lines = _Lines(path, text)
    delimiter, first = _delimiter(lines, known)
    header: tuple[str, ...] | None = None
    rows = []
    for line, cells in lines.records(delimiter):
        if line < first or not any(map(strip_cell, cells)):
            continue  # a blank line, or a row of empty cells
        if header is None:
            header = tuple(strip_cell(cell).lower() for cell in cells)
        else:
            rows.append((line, cells))
    return Table(header or (), rows)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error
    if len(content) > MAX_BYTES:
        raise DatasetError(f"{path}: found more than {MAX_BYTES / 1e6:.0f} MB, expected a table; check the file")
    return content


def _decode(path: Path, content: bytes) -> str:
    mark, encoding = next(((mark, name) for mark, name in MARKS if content.startswith(mark)), (b"", "utf-8"))
    content = content[len(mark) :]
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = _line_after(content[: error.start].decode(encoding, "ignore"))
        raise DatasetError(
            f"{path}: line {line}: not readable as text; found the byte 0x{content[error.start]:02X}, which is not "
            f"{encoding.upper()}; save the table as UTF-8 (in Excel: CSV UTF-8)"
        ) from error
    if (at := text.find("\0")) >= 0:
        raise DatasetError(
            f"{path}: line {_line_after(text[:at])}: not readable as text; found a NUL character; save the table as "
            "UTF-8 (in Excel: CSV UTF-8)"
        )
    return text


def _line_after(text: str) -> int:
    """Return the number of the line that a text ends in."""
    return 1 + len(re.findall(r"\r\n|\r|\n", text))


class _Lines:
    """The text of a table as lines, and as records of a delimiter."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text = path, text

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return enumerate(io.StringIO(self.text, newline=""), start=1)

    def records(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Yield the first line and the cells of each record; one in quotation marks may have several lines."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DatasetError(
                    f"{self.path}: line {line}: not readable as CSV ({error}); check the quotation marks there"
                ) from error
            yield line, cells


def _delimiter(lines: _Lines, known: Sequence[str]) -> tuple[str, int]:
    """Return the delimiter, and the line from which on the table begins."""
    for number, line in lines:
        if not strip_cell(line):
            continue
        if hint := re.fullmatch(r'"?sep=(.)"?[,;\t]*[\r\n]*', line, re.IGNORECASE):
            return hint[1], number + 1  # Excel's own way to name the delimiter
        return max(DELIMITERS, key=lambda delimiter: _columns_found(line, delimiter, known)), number
    return DELIMITERS[0], 1


def _columns_found(line: str, delimiter: str, known: Sequence[str]) -> tuple[int, int]:
    """Return how many of the known columns a header has with this delimiter, and how many cells."""
    cells = [strip_cell(cell.strip(' "')).lower() for cell in line.split(delimiter)]
    return len(set(cells) & set(known)), len(cells)
