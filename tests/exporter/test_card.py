"""The bundle's model card."""

from __future__ import annotations

import msgspec
import pytest
from data.hand import LABELS, Rich

from xaimoe_export import ExportOptions
from xaimoe_export.card import model_card
from xaimoe_runtime import ConfigError
from xaimoe_runtime.bundle import Bundle


def test_the_card_says_what_the_model_is_and_where_it_ends(rich: Rich) -> None:
    card = (rich.bundle / "README.md").read_text()
    assert card.startswith("---\nlicense: CC-BY-4.0\n")
    for part in (
        *LABELS,
        "## Data",
        "## Metrics",
        "## Limits",
        rich.report.bundle_id,
        "1000 Hz",
        "fp32, int8 (1 of its graphs), fp16 (2",
    ):
        assert part in card
    assert "| accuracy in int8, 8 recordings of validation | 1.0000 |" in card


def test_of_several_labels_the_figure_is_called_what_it_is(rich: Rich) -> None:
    manifest = Bundle.open(rich.bundle).manifest
    task = msgspec.structs.replace(manifest.task, kind="multi_label")
    card = model_card(msgspec.structs.replace(manifest, task=task), None, {"fp32": 0.9}, 7)
    assert "| share of right decisions, label by label, in fp32, 7 recordings of validation | 0.9000 |" in card


def test_a_licence_that_nobody_named_is_unknown(rich: Rich) -> None:
    card = model_card(Bundle.open(rich.bundle).manifest, None)
    assert "license: unknown" in card
    assert "None were measured." in card


@pytest.mark.parametrize("licence", ["", "MIT\nlicense: GPL", "all rights"])
def test_a_licence_is_an_identifier(licence: str) -> None:
    with pytest.raises(ConfigError, match=r"licence: found .*, expected an identifier such as MIT"):
        ExportOptions(licence=licence)
