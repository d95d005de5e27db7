"""Cells of CSV files that a spreadsheet shows and does not compute."""

from __future__ import annotations

FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""What a cell begins with that a spreadsheet takes for a formula or a command."""
MARK = "'"
"""Before a text that would be computed, and before one that begins with it."""


def escape_text(text: str) -> str:
    """Return a text as a cell: with an apostrophe in front if a spreadsheet would compute it.

    Texts that begin with an apostrophe have one more, so that :func:`unescape_text` gives each text back.
    """
    return MARK + text if text.startswith((*FORMULA, MARK)) else text


def unescape_text(cell: str) -> str:
    """Return the text of a cell that :func:`escape_text` made."""
    return cell.removeprefix(MARK)
