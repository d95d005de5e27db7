"""Texts in CSV files are shown by a spreadsheet as they are, and come back."""

from __future__ import annotations

import pytest

from xaimoe_runtime.csv_cells import escape_text, unescape_text


@pytest.mark.parametrize(
    "text",
    ['=HYPERLINK("http://x","a")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "'"],
)
def test_what_a_spreadsheet_would_compute_is_escaped_and_comes_back(text: str) -> None:
    assert escape_text(text) == f"'{text}"
    assert unescape_text(escape_text(text)) == text


@pytest.mark.parametrize("text", ["", "ship", "a=b", "1", "audio/=1.wav", " =1", "é"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert escape_text(text) == text
    assert unescape_text(text) == text
