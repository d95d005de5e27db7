"""Records as JSON Lines, or as a table with a row for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from xaimoe_runtime.console import write_records
from xaimoe_runtime.csv_cells import escape_text
from xaimoe_runtime.errors import ConfigError, OutputError, ProviderError
from xaimoe_runtime.records import ErrorRecord, Record, WindowRecord
from xaimoe_runtime.writing import check_writable, replacing

FORMATS = (".jsonl", ".csv", ".parquet")
ROWS = 10_000
"""Rows of a table that are in memory at once."""
COLUMNS: dict[str, type] = {
    "kind": str,
    "path": str,
    "channel": int,
    "start_s": float,
    "end_s": float,
    "labels": str,
    "score": float,
    "degraded": bool,
    "late": bool,
    "ms": float,
    "pairs": int,
    "left_out": int,
    "windows": int,
    "novelty": float,
    "silent": bool,
    "silent_windows": int,
    "skipped_s": float,
    "warnings": str,
    "complete": bool,
    "missing_s": float,
    "note": str,
    "error": str,
    "message": str,
}
"""Of a table, before ``score:LABEL``, ``max:LABEL`` and ``max_at_s:LABEL`` for each label. Labels are joined by ``|``,
warnings by ``; ``; ``score`` is the best one's."""
PER_LABEL = {"score": "scores", "max": "max_scores", "max_at_s": "max_at_s"}
"""Fields of records that have a column for each label, by the prefix of the column."""


def check_format(out: Path) -> str:
    """The file ending of ``out``, if it is one that can be written and the packages are there.

    Raises:
        ConfigError: it is not, or the file cannot be written.
        ProviderError: the package ``pyarrow`` is missing.
    """
    if out.is_dir():
        raise OutputError(f"{out}: found a folder, expected the name of a file to write")
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"{out}: found the ending {suffix!r}, expected {', '.join(FORMATS)}")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise ProviderError(f'{out}: parquet needs pyarrow; run: pip install "xai-moe-audio[scale]"') from error
    check_writable(out)
    return suffix


def write(records: Iterable[Record], labels: tuple[str, ...], out: Path) -> None:
    """Writes records in the format of ``out``, which takes its place when it is whole. Tables leave summaries out."""
    suffix = out.suffix.lower()
    if suffix == ".jsonl":
        write_records(records, out)
        return
    with replacing(out) as file:
        columns = COLUMNS | {f"{prefix}:{label}": float for prefix in PER_LABEL for label in labels}
        rows = (row for record in records if (row := _row(record)))
        (_write_csv if suffix == ".csv" else _write_parquet)(rows, columns, file)


def _row(record: Record) -> dict[str, Any]:
    """Cells of a record; none for a summary."""
    if isinstance(record, ErrorRecord):
        return {"kind": "error", "path": record.path, "error": record.error, "message": record.message}
    if not isinstance(record, WindowRecord):
        return {}
    content = msgspec.to_builtins(record)
    cells = {name: value for name, value in content.items() if name in COLUMNS}
    cells |= {"labels": "|".join(record.labels), "score": max(record.scores.values())}
    cells |= {"warnings": "; ".join(content.get("warnings", ()))}
    for prefix, field in PER_LABEL.items():
        cells |= {f"{prefix}:{label}": value for label, value in content.get(field, {}).items()}
    return cells


def _write_csv(rows: Iterator[dict[str, Any]], columns: dict[str, type], file: Any) -> None:
    """Write a table as CSV; texts that a spreadsheet would compute are escaped."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    table = csv.DictWriter(text, list(columns))
    table.writeheader()
    for row in rows:  # numbers stay numbers
        table.writerow({name: escape_text(cell) if isinstance(cell, str) else cell for name, cell in row.items()})
    text.flush()
    text.detach()


def _write_parquet(rows: Iterator[dict[str, Any]], columns: dict[str, type], file: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    with parquet.ParquetWriter(file, schema) as table:
        while some := list(islice(rows, ROWS)):
            table.write_table(pyarrow.Table.from_pylist(some, schema))
