"""Tables of records: cells, formats, and where they cannot be written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from xaimoe_runtime import OutputError
from xaimoe_runtime.archive.tables import check_format, write
from xaimoe_runtime.csv_cells import unescape_text
from xaimoe_runtime.records import ErrorRecord


def test_texts_that_a_spreadsheet_would_compute_are_escaped(tmp_path: Path) -> None:
    record = ErrorRecord(path='=HYPERLINK("http://x").wav', error="AudioError", message="-1 is no rate")
    write([record], ("=1+1",), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == '\'=HYPERLINK("http://x").wav'
    assert row["message"] == "'-1 is no rate"
    assert row["error"] == "AudioError"
    assert unescape_text(row["path"]) == record.path
    assert "score:=1+1" in row


@pytest.mark.skipif(not Path("/proc/1").exists(), reason="needs a folder to which not even root can write")
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_read_only_place_is_noticed_before_the_work(suffix: str) -> None:
    with pytest.raises(OutputError, match=r"^/proc/1/a\.(jsonl|csv): cannot be written \("):
        check_format(Path("/proc/1") / f"a{suffix}")
