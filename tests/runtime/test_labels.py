"""Class names: one spelling, and which ones look alike."""

from __future__ import annotations

import pytest

from xaimoe_runtime.labels import look_alikes, normal_label, spelled, split_labels


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("rain|boat", ("boat", "rain")),
        (" rain | boat ", ("boat", "rain")),
        ("rain|rain", ("rain",)),
        ("e\u0301|\u00e9", ("\u00e9",)),
        ("", ()),
        (" \u00a0\u200b", ()),
        ("rain|", ("", "rain")),
        ("|", ("",)),
    ],
)
def test_a_cell_gives_its_labels_sorted_and_once(cell: str, labels: tuple[str, ...]) -> None:
    assert split_labels(cell) == labels


def test_invisible_characters_at_the_ends_do_not_count() -> None:
    assert normal_label("\ufeff\u200b boat\u00a0\u200d") == "boat"


ALIKE = [
    "\u00e9pave\u200b",  # a zero-width space
    "\u00c9PAVE",
    "\uff45\u0301pave",  # a full-width e
    "\u00e9\u0440\u0430v\u0435",  # Cyrillic
]


@pytest.mark.parametrize("other", ALIKE)
def test_labels_that_look_alike_are_found(other: str) -> None:
    assert look_alikes(["boat", "\u00e9pave", other]) == [tuple(sorted(["\u00e9pave", other]))]


@pytest.mark.parametrize("other", ["killer_whale", "killer\u00a0whale", "killer-whale", "Killer  Whale"])
def test_blanks_dashes_and_case_make_no_difference(other: str) -> None:
    assert look_alikes(["killer whale", other]) == [tuple(sorted(["killer whale", other]))]


def test_different_labels_do_not_look_alike() -> None:
    assert look_alikes(["boat", "boats", "boot", "1", "10", "é", "e", "ä", "a", "μ", "m"]) == []


def test_the_known_spelling_is_found_if_it_is_the_only_one() -> None:
    assert spelled("BOAT", ("boat", "rain")) == "boat"
    assert spelled("BOAT", ("boat", "Boat")) is None
    assert spelled("whale", ("boat",)) is None
