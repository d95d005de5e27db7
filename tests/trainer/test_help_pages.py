"""The help pages of the product's command line say what the code does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from data.help_pages import check_page, commands
from typer.main import get_command
from typer.testing import CliRunner

from xaimoe_audio.cli import app
from xaimoe_audio.config import DEFAULT_LEARNING_RATE, MIN_TILE, SIZES, TILE_STEP
from xaimoe_audio.model.experts import FAMILIES
from xaimoe_audio.policy.build import MAX_CLIP_S, MAX_RATE, MIN_CLIP_S, MIN_RATE, check_choices
from xaimoe_audio.policy.network import SHORT_TILE_FRAMES, TILE_FRAMES, half_overlapping
from xaimoe_audio.spectrogram import BACKENDS
from xaimoe_runtime.errors import ConfigError

PAGES = dict(commands(app))
OWN: dict[str, Any] = {
    name: command for name, command in get_command(app).commands.items() if not hasattr(command, "commands")
}
"""Without those of the device."""
TRAIN: dict[str, Any] = {param.name: param for param in PAGES["train"].params}


def page(*arguments: str, width: int = 80) -> str:
    return CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": str(width)}).stdout


@pytest.mark.parametrize("name", PAGES)
def test_a_help_page_is_in_order(name: str) -> None:
    check_page(name, PAGES[name])


@pytest.mark.parametrize("name", ["", *PAGES])
def test_flags_show_no_type(name: str) -> None:
    assert "<bool>" not in page(*([name] if name else []))


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", OWN)
def test_nothing_is_cut_off_and_no_default_has_two_brackets(name: str, width: int) -> None:
    shown = page(name, width=width)
    assert "[default: (" not in shown
    assert not re.search(r"[\w,.]…", shown.replace("PATH…", ""))
    assert max(map(len, shown.splitlines())) <= width
    assert "refused else" not in " ".join(shown.split())


@pytest.mark.parametrize(
    ("command", "option", "group"),
    [
        ("train", "batch_size", "Training"),
        ("tune", "batch_size", "Training"),
        ("infer", "batch_size", "Hardware and processes"),
        ("train", "channel", "Dataset"),
        ("infer", "channel", "Recordings"),
        ("explain", "channel", "Recordings"),
    ],
)
def test_an_option_stands_in_the_group_of_its_use(command: str, option: str, group: str) -> None:
    (param,) = (param for param in OWN[command].params if param.name == option)
    assert param.rich_help_panel == group


def test_defaults_in_words_are_those_of_the_command() -> None:
    routing = {name: next(p for p in OWN[name].params if p.name == "routing") for name in ("eval", "infer")}
    assert routing["eval"].show_default == "routed"
    assert routing["infer"].show_default == "routed, or what the bundle says"


def test_help_has_the_options_in_groups_and_the_example() -> None:
    shown = page("train")
    for group in ("Dataset", "Output", "Training", "Model design"):
        assert re.search(rf"─ {group} ─", shown)
    assert "xaimoe-audio train --dataset data --out runs/exp1 --epochs 20" in " ".join(shown.split())


def test_the_help_of_tile_and_stride_is_the_codes_rule() -> None:
    tile, stride = TRAIN["tile"], TRAIN["stride"]
    assert f"multiples of {TILE_STEP}, at least {MIN_TILE}" in tile.help
    assert f"{SIZES['accuracy'].bins} bands ({SIZES['latency'].bins} with --budget latency)" in tile.help
    assert tile.show_default == f"all bands x {TILE_FRAMES} frames, {SHORT_TILE_FRAMES} for short clips"
    assert stride.show_default == "the tile's bands x half its frames"
    assert half_overlapping((64, 64)) == (64, 32)
    assert "even, at most the tile's" in stride.help
    made: dict[str, Any] = {"bins": 64, "tile": (64, 64)}
    check_choices(made | {"stride": (64, 2)}, FAMILIES, BACKENDS)
    for wrong in ((64, 3), (64, 66)):
        with pytest.raises(ConfigError, match="stride"):
            check_choices(made | {"stride": wrong}, FAMILIES, BACKENDS)
    with pytest.raises(ConfigError, match="tiles that fill the 64 bands exactly"):
        check_choices({"bins": 64, "tile": (40, 64), "stride": (40, 64)}, FAMILIES, BACKENDS)


def test_other_limits_and_defaults_are_the_codes() -> None:
    assert f"{MIN_RATE} to {MAX_RATE}" in TRAIN["sample_rate"].help
    assert f"{MIN_CLIP_S:g} to {MAX_CLIP_S:g}" in TRAIN["clip_s"].help
    assert TRAIN["learning_rate"].show_default == str(DEFAULT_LEARNING_RATE)
    for name, field in (("k_max", "k_max"), ("expert_width", "expert_width")):
        small, large = (getattr(SIZES[budget], field) for budget in ("latency", "accuracy"))
        assert TRAIN[name].show_default == f"{large}, with --budget latency {small}"
