"""Bundles of the hand-made model: one as it is by default, and one that holds all that a bundle can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.hand import Rich, description, hand_made, recordings, write_keys

from xaimoe_export import ExportOptions, ExportReport, export_bundle, steps


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Rich:
    folder = tmp_path_factory.mktemp("rich")
    private, public = write_keys(folder)
    options = ExportOptions(
        precisions=("fp32", "int8", "fp16"), fused=True, sign=private, triton=folder / "triton", licence="CC-BY-4.0"
    )
    report = export_bundle(
        hand_made(), description(), folder / "bundle", options, recordings(8), recordings(8, seed=100)
    )
    return Rich(folder / "bundle", report, folder / "triton", private, public)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    """A bundle of the hand-made model as it is by default, and its report."""
    out = tmp_path_factory.mktemp("hand") / "deep" / "bundle"
    advanced: list[None] = []
    report = export_bundle(
        hand_made(), description(), out, validation=recordings(6), advance=lambda: advanced.append(None)
    )
    assert len(advanced) == steps(hand_made(), ExportOptions()) == 6, "progress advances once a graph"
    return out, report
