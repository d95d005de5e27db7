"""Class names as a table writes them: one spelling for each, and a warning where two look alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from xaimoe_runtime.metadata_csv import strip_cell
from xaimoe_runtime.schema import MAX_TEXT, NO_CONTROL

SEPARATOR = "|"
"""Between the labels of one recording."""
_LOOKS_LATIN = str.maketrans(
    "АВЕКМНОРСТУХІЈЅаеорсухіјѕԁһԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧονα’‘ʼ‐‑‒–—−_",
    "ABEKMHOPCTYXIJSaeopcyxijsdhqwABEZHIKMNOPTYXova'''------ ",
)
"""Cyrillic and Greek letters that look like Latin ones; apostrophes, dashes and the underscore."""


def normal_label(label: str) -> str:
    """Return a label without blanks at its ends and in Unicode normal form C.

    A file name of macOS and one of Linux thus give the same label, though their bytes differ.
    """
    return unicodedata.normalize("NFC", strip_cell(label))


def split_labels(cell: str) -> tuple[str, ...]:
    """Return the labels of one cell, sorted, each once; none for an empty cell, and an empty one for an empty part."""
    text = strip_cell(cell)
    return tuple(sorted({normal_label(part) for part in text.split(SEPARATOR)})) if text else ()


def is_label(label: str) -> bool:
    """Return whether a bundle's manifest can hold a label."""
    return len(label) <= MAX_TEXT and re.match(NO_CONTROL, label) is not None


def appearance(label: str) -> str:
    """Return a key that labels share which look nearly alike to a reader.

    Case, full-width and other compatible forms, invisible characters, kinds of blanks, dashes and apostrophes, and
    letters of other alphabets that look like Latin ones make no difference.
    """
    plain = unicodedata.normalize("NFKC", label)
    plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Cf")
    folded = plain.translate(_LOOKS_LATIN).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).replace("-", " ").split())


def look_alikes(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the groups of two or more labels that look alike, sorted."""
    groups: dict[str, list[str]] = {}
    for label in sorted(set(labels)):
        groups.setdefault(appearance(label), []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def spelled(label: str, known: Iterable[str]) -> str | None:
    """Return the known label that looks like ``label``; None if none or several do."""
    alike = [name for name in known if appearance(name) == appearance(label)]
    return alike[0] if len(alike) == 1 else None
