"""Figures from a bundle alone: the saliency, who heard what, and the grid."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from data import bursts, write_wav
from data.commands import call

from xaimoe_runtime import AudioError, Runtime
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.illustrate import illustrate, stems
from xaimoe_runtime.pictures import (
    Heard,
    answer_title,
    draw_grid,
    draw_heat,
    draw_routing,
    draw_saliency,
    write_pictures,
)

NAMES = ("saliency_router", "patch_routing", "patch_grid")


def heard(rows: int = 1, pairs: int = 3, label: str = "ship", heard_s: float = 8.0) -> Heard:
    """A made-up window of 8 s with a grid of one or more rows of patches."""
    grid = PatchGrid(rows=32, columns=80, tile=(32 // rows, 16), stride=(32 // rows, 16))
    rng = np.random.default_rng(0)
    gates = np.zeros((grid.count, 4), np.float32)
    gates.reshape(-1)[rng.permutation(gates.size)[:pairs]] = rng.random(pairs) / 4
    saliency = rng.random(grid.count).astype(np.float32)
    return Heard(
        spectrogram=rng.normal(size=(32, 80)).astype(np.float32),
        centres_hz=np.geomspace(50, 8000, 32).astype(np.float32),
        start_s=3.0,
        end_s=3.0 + heard_s,
        frame_s=0.1,
        grid=grid,
        saliency=saliency / saliency.sum(),
        gates=gates,
        experts=("A", "B", "C", "D"),
        answer=f"answered {label}",
    )


@pytest.mark.parametrize(("heard_s", "told"), [(8.0, []), (7.5, []), (2.0, ["repeated"])])
def test_where_a_recording_ends_within_the_window_is_shown(heard_s: float, told: list[str]) -> None:
    (axes, *_) = draw_saliency(heard(heard_s=heard_s)).get_axes()
    ends = [float(line.get_xdata()[0]) for line in axes.get_lines()]
    assert ends == ([] if heard_s == 8.0 else [3.0 + heard_s])
    assert [text.get_text() for text in axes.texts] == told


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("pairs", [0, 1, 6])
def test_axes_are_in_seconds_and_hertz(rows: int, pairs: int) -> None:
    found = heard(rows, pairs)
    (axes, *_) = draw_saliency(found).get_axes()
    assert axes.get_xlim() == pytest.approx((3.0, 11.0))
    assert next(text.get_text() for text in axes.get_yticklabels()) == "50"
    assert axes.get_xlabel() == "Time [s]"
    below = draw_routing(found).get_axes()[1]
    used = {found.experts[e] for e in np.flatnonzero(found.gates.any(0))}
    assert {text.get_text() for text in below.get_yticklabels()} == used
    (grid, *_) = draw_grid(found).get_axes()
    assert len(grid.texts) == found.grid.count


def test_the_saliency_lies_where_its_patch_is() -> None:
    found = heard()
    overlay = draw_saliency(found).get_axes()[0].get_images()[1].get_array()
    largest = int(found.saliency.argmax())
    shown = overlay[:, largest * 16 : (largest + 1) * 16]
    np.testing.assert_allclose(shown, found.saliency.max() * found.grid.count, rtol=1e-6)


def overlapping() -> Heard:
    """A window with two rows of tiles that overlap by half in time."""
    grid = PatchGrid(rows=32, columns=80, tile=(16, 32), stride=(16, 16))
    gates = np.full((grid.count, 4), 0.1, np.float32)
    saliency = np.full(grid.count, 1 / grid.count, np.float32)
    return dataclasses.replace(heard(), grid=grid, gates=gates, saliency=saliency)


def test_all_figures_of_an_explanation_have_the_same_borders() -> None:
    found = overlapping()
    expected = [3.0, 5.4, 7.0, 8.6, 11.0]  # middles of tiles at 4.6, 6.2, 7.8 and 9.4 s
    assert [rows.start for rows, _ in found.grid.owned_cells()[::4]] == [0, 16]
    saliency, heat = (draw(found) for draw in (draw_saliency, lambda of: draw_heat(of, np.ones((32, 80)), "x", "y")))
    for figure in (saliency, heat):
        upright, level = figure.get_axes()[0].collections[-2:]
        assert [line[0][0] for line in upright.get_segments()] == pytest.approx(expected[1:-1])
        assert [line[0][1] for line in level.get_segments()] == [16]
    above, below, *_ = draw_routing(found).get_axes()
    assert sorted({patch.get_x() for patch in above.patches}) == pytest.approx(expected[:-1])
    assert sorted({patch.get_x() for patch in below.patches}) == pytest.approx(expected[:-1])
    mesh = draw_grid(found).get_axes()[0].collections[0]
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], expected)
    np.testing.assert_allclose(mesh.get_coordinates()[:, 0, 1], [0, 16, 32])


def test_every_cell_is_owned_by_the_patch_that_is_nearest() -> None:
    grid = overlapping().grid
    rows, columns = grid.territories()
    owner = np.full((grid.rows, grid.columns), -1)
    for patch, cells in enumerate(grid.owned_cells()):
        assert (owner[cells] == -1).all()
        owner[cells] = patch
    np.testing.assert_array_equal(owner, rows[:, None] * grid.shape[1] + columns)


def test_what_is_spread_evenly_is_pale_and_the_scale_is_stated() -> None:
    found = overlapping()
    for figure in (draw_saliency(found), draw_heat(found, np.full((32, 80), 1e-3, np.float32), "Grad-CAM", "ship")):
        axes, bar = figure.get_axes()
        image = axes.get_images()[1]
        np.testing.assert_allclose(image.get_array(), np.ones((32, 80)), rtol=1e-5)
        assert image.get_clim() == (0, 4)
        assert image.get_alpha().max() == pytest.approx(0.75 / 4)
        assert bar.get_ylabel() in ("Saliency [even shares]", "Grad-CAM [its mean]")
    assert draw_grid(found).get_axes()[0].collections[0].get_clim() == (0, 4)
    one = dataclasses.replace(found, saliency=np.eye(found.grid.count, dtype=np.float32)[0])
    assert draw_saliency(one).get_axes()[0].get_images()[1].get_alpha().max() == 0.75


@pytest.mark.parametrize("label", ["a/b", "$x_1$", "Ünïcode 鯨", "_hidden"])
def test_any_name_can_be_shown(label: str, tmp_path: Path) -> None:
    files = write_pictures(heard(label=label), tmp_path, "a-")
    assert {path.name for path in files} == {f"a-{name}.{end}" for name in NAMES for end in ("png", "svg")}
    assert all(path.stat().st_size > 1000 for path in files)


def test_silence_is_drawn(runtime: Runtime, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros(40_000, np.float32))
    assert len(illustrate(runtime, path, "a", tmp_path / "out", "routed", "mix")) == 6
    assert answer_title(("unknown",), np.zeros(2, np.float32), "best score 0.00") == "answered unknown (silent)"
    assert answer_title((), np.full(2, 0.25, np.float32), "best score 0.25") == "answered nothing (best score 0.25)"
    one = heard()
    silent = dataclasses.replace(one, spectrogram=np.full_like(one.spectrogram, -4.0))
    (image, *_) = draw_saliency(silent).get_axes()[0].get_images()
    assert image.norm(-4.0) == 0  # the colour of no sound


def test_what_is_no_recording_is_told(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="no such file"):
        illustrate(runtime, tmp_path / "gone.wav", "gone", tmp_path, "routed", "mix")


def test_recordings_of_one_name_have_figures_of_their_own() -> None:
    assert stems([Path("x/a.wav"), Path("y/a.flac"), Path("z/b.wav"), Path("a.wav")]) == ["a", "a-2", "b", "a-3"]


def test_the_command_draws_every_recording_that_can_be_used(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_wav(tmp_path / "in" / "a.wav", bursts(30_000))
    (tmp_path / "in" / "b.wav").write_bytes(b"no recording")
    result = call("infer", bundle, tmp_path / "in", "--trace", "--figures", tmp_path / "out", "--provider", "cpu")
    assert result.exit_code == 1
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {f"a-{name}.png" for name in NAMES}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--figures", "out"), "found no --trace"),
        (("--figures", "out", "--trace", "--channel", "each"), "channel each"),
    ],
)
def test_figures_that_cannot_be_drawn_are_refused(bundle: Path, options: tuple[str, ...], told: str) -> None:
    result = call("infer", bundle, "a.wav", *options)
    assert (result.exit_code, told in result.stderr) == (2, True)


def test_without_matplotlib_it_is_said_what_to_install(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = call("infer", bundle, "a.wav", "--trace", "--figures", "out")
    assert result.exit_code == 4
    assert "xai-moe-audio[figures]" in result.stderr
