"""Figures of how an answer came about: where the saliency lies, and which expert heard which patch.

They are drawn from arrays, of the bundle's graphs or of PyTorch's modules alike. Colours are those that colour-blind
people can tell apart and that stay in order in a grey print.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.drawing import new_figure, plain, save_figure
from xaimoe_runtime.grid import PatchGrid

Floats = NDArray[np.float32]
SOUND, HEAT = "Greys", "viridis"
"""Colour maps of the spectrogram and of what is laid over it."""
WIDTH, PANEL = 7.0, 2.6
"""Inches of a figure, and height of a spectrogram in it."""
FORMATS = (".png", ".svg")
QUIET, LOUD = 5.0, 99.5
"""Percentiles of the spectrogram between which its shades lie."""
ROUND_HZ = (1, 2, 5)
"""First digits of the frequencies that an axis names."""


@dataclass(frozen=True)
class Heard:
    """One window, and what the model made of it."""

    spectrogram: Floats
    """[F, T]"""
    centres_hz: Floats
    """Middle of each band, [F], rising."""
    start_s: float
    end_s: float
    """Where the recording's own sound ends; after it, it is repeated to fill the window."""
    frame_s: float
    """Seconds from frame to frame."""
    grid: PatchGrid
    saliency: Floats
    """[P], sums to 1"""
    gates: Floats
    """[P, E], of the pairs that were run"""
    experts: tuple[str, ...]
    answer: str
    """What was answered, with its score, for titles."""

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Of the spectrogram: seconds, and numbers of bands."""
        bands, frames = self.spectrogram.shape
        return self.start_s, self.start_s + frames * self.frame_s, 0.0, float(bands)

    @property
    def middles(self) -> tuple[Floats, Floats]:
        """Of each patch, in seconds and in hertz, [P] each."""
        frequency, time = self.grid.positions().T
        seconds = self.start_s + time * self.grid.columns * self.frame_s
        places = np.arange(len(self.centres_hz))
        hertz = np.interp(frequency * len(self.centres_hz) - 0.5, places, self.centres_hz)
        return seconds.astype(np.float32), hertz.astype(np.float32)


def draw_saliency(heard: Heard) -> Any:
    """The saliency that steers the router, over the spectrogram: each cell has its nearest patch's."""
    figure = new_figure(WIDTH, PANEL)
    axes = figure.subplots()
    _spectrogram(axes, heard)
    image = _overlay(axes, heard, heard.saliency[_nearest_patch(heard.grid)] / heard.saliency.max(initial=1e-9))
    figure.colorbar(image, ax=axes, label="Relative saliency", pad=0.01)
    axes.set_title(f"Saliency of the router: {plain(heard.answer)}", fontsize=9)
    return figure


def draw_heat(heard: Heard, heat: Floats, name: str, target: str) -> Any:
    """An attribution [F, T], of any sign, for a label over the spectrogram, up to its brightest cells; what speaks
    against the label is not shown."""
    figure = new_figure(WIDTH, PANEL)
    axes = figure.subplots()
    _spectrogram(axes, heard)
    positive = np.maximum(heat, 0)
    bright = max(float(np.percentile(positive, LOUD)), float(positive.max(initial=0.0)) / 100, 1e-12)
    image = _overlay(axes, heard, np.minimum(positive / np.float32(bright), 1))
    figure.colorbar(image, ax=axes, label=f"Relative {name}", pad=0.01)
    axes.set_title(f"{name} for {plain(target)}; {plain(heard.answer)}", fontsize=9)
    if not positive.any():
        axes.text(0.5, 0.5, "nothing speaks for it", transform=axes.transAxes, ha="center", va="center")
    return figure


def draw_routing(heard: Heard) -> Any:
    """Which expert heard which patch, and how much that counts: the spectrogram, under it a row for each expert."""
    used = [e for e in np.argsort(-heard.gates.sum(0), kind="stable") if heard.gates[:, e].any()]
    figure = new_figure(WIDTH, PANEL + 0.4 + 0.32 * max(len(used), 1))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(PANEL, 0.4 + 0.32 * max(len(used), 1)))
    _spectrogram(above, heard, x_label=False)
    share = heard.gates.sum(1)
    _outline(above, heard, share > 0)
    above.set_title(f"{np.count_nonzero(heard.gates)} (patch, expert) pairs run: {plain(heard.answer)}", fontsize=9)
    image = _rows(below, heard, used)
    below.set(xlabel="Time [s]", ylim=(len(used) - 0.5 if used else 0.5, -0.5))
    below.set_yticks(range(len(used)), [plain(heard.experts[e]) for e in used], fontsize=8)
    if used:
        figure.colorbar(image, ax=[above, below], label="Gate", pad=0.01, shrink=0.7)
    else:
        below.text(0.5, 0.5, "no expert was asked: the glance answered", transform=below.transAxes, ha="center")
    return figure


def draw_grid(heard: Heard) -> Any:
    """The selection grid: of each patch its saliency, and how many experts heard it."""
    rows, columns = heard.grid.shape
    figure = new_figure(WIDTH, 1.1 + 0.5 * rows)
    axes = figure.subplots()
    saliency = heard.saliency.reshape(rows, columns)
    counts = (heard.gates > 0).sum(1).reshape(rows, columns)
    image = axes.imshow(saliency, cmap=HEAT, vmin=0, aspect="auto", origin="lower")
    for (row, column), count in np.ndenumerate(counts):
        bright = saliency[row, column] > 0.6 * saliency.max()
        text = f"{saliency[row, column]:.2f}\n{'●' * int(count) or '–'}"
        axes.text(column, row, text, ha="center", va="center", color="black" if bright else "white", fontsize=8)
    seconds = heard.middles[0][:columns]
    axes.set_xticks(range(columns), [f"{second:.2f}" for second in seconds], fontsize=8)
    of_bands, _ = heard.grid.territories()
    bands = [heard.centres_hz[of_bands == row] for row in range(rows)]
    axes.set_yticks(range(rows), [f"{_hz(hz[0])} to {_hz(hz[-1])}" for hz in bands], fontsize=8)
    axes.set(xlabel="Middle of the patch [s]", ylabel="Band [Hz]")
    axes.set_title("Patches: saliency, and a dot for each expert that heard it", fontsize=9)
    figure.colorbar(image, ax=axes, label="Saliency", pad=0.01)
    return figure


def write_pictures(heard: Heard, folder: Path, stem: str = "") -> list[Path]:
    """Saliency, routing and grid as PNG and SVG in a folder; gives the files.

    Raises:
        ConfigError: the folder cannot be written.
        ProviderError: matplotlib is missing.
    """
    drawn = {
        "saliency_router": draw_saliency(heard),
        "patch_routing": draw_routing(heard),
        "patch_grid": draw_grid(heard),
    }
    return [path for name, figure in drawn.items() for path in save_both(figure, folder / f"{stem}{name}")]


def save_both(figure: Any, path: Path) -> list[Path]:
    """A figure as PNG and as SVG; gives the files."""
    files = [path.with_name(path.name + ending) for ending in FORMATS]
    for file in files:
        save_figure(figure, file)
    return files


def _spectrogram(axes: Any, heard: Heard, x_label: bool = True) -> None:
    low, high = np.percentile(heard.spectrogram, [QUIET, LOUD])
    if high - low < 1e-6:
        low, high = low - 1, high + 1
    axes.imshow(heard.spectrogram, origin="lower", aspect="auto", extent=heard.extent, cmap=SOUND, vmin=low, vmax=high)
    _, end_s, low_band, high_band = heard.extent
    if (repeated := end_s - heard.end_s) > 2 * heard.frame_s:
        axes.axvspan(heard.end_s, end_s, facecolor="none", edgecolor="#808080", hatch="///", linewidth=0, zorder=3)
        axes.axvline(heard.end_s, color="#808080", linestyle="--", linewidth=1, zorder=3)
        if repeated > (end_s - heard.start_s) / 8:
            middle = (heard.end_s + end_s) / 2, (low_band + high_band) / 2
            ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            axes.text(*middle, "repeated", ha="center", va="center", fontsize=8, color="#404040", bbox=ground, zorder=4)
    hz = _round_frequencies(heard.centres_hz)
    axes.set_yticks(np.interp(hz, heard.centres_hz, _edges(heard)), [_hz(value) for value in hz], fontsize=8)
    axes.set(ylabel="Frequency [Hz]", ylim=heard.extent[2:], xlim=heard.extent[:2])
    if x_label:
        axes.set_xlabel("Time [s]")


def _overlay(axes: Any, heard: Heard, heat: Floats) -> Any:
    """``heat`` [F, T], 0…1, the more opaque the larger."""
    return axes.imshow(
        heat,
        origin="lower",
        aspect="auto",
        extent=heard.extent,
        cmap=HEAT,
        vmin=0,
        vmax=1,
        alpha=0.75 * np.sqrt(heat),
        interpolation="nearest",
    )


def _outline(axes: Any, heard: Heard, chosen: NDArray[np.bool_]) -> None:
    """Borders of the cells whose nearest patch is a chosen one."""
    from matplotlib.patches import Rectangle

    rows, columns = heard.grid.territories()
    for patch in np.flatnonzero(chosen).tolist():
        row, column = divmod(patch, heard.grid.shape[1])
        bands, frames = np.flatnonzero(rows == row), np.flatnonzero(columns == column)
        left = heard.start_s + frames[0] * heard.frame_s
        size = len(frames) * heard.frame_s, len(bands)
        axes.add_patch(Rectangle((left, bands[0]), *size, fill=False, edgecolor="#D55E00", linewidth=1.2))


def _rows(axes: Any, heard: Heard, used: list[int]) -> Any:
    """A row for each expert, in it a field for each patch that it heard, as long as what the patch answers for; rows of
    patches lie above each other within it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    _, columns = heard.grid.territories()
    n_freq = heard.grid.shape[0]
    shades: Any = ScalarMappable(Normalize(0, float(heard.gates.max(initial=0.0)) or 1.0), HEAT)
    for place, e in enumerate(used):
        for patch in np.flatnonzero(heard.gates[:, e]).tolist():
            row, column = divmod(patch, heard.grid.shape[1])
            frames = np.flatnonzero(columns == column)
            left, length = heard.start_s + frames[0] * heard.frame_s, len(frames) * heard.frame_s
            gate = float(heard.gates[patch, e])
            bottom, height = place + 0.4 - 0.8 * row / n_freq, -0.8 / n_freq
            axes.add_patch(Rectangle((left, bottom), length, height, facecolor=shades.to_rgba(gate), edgecolor="white"))
            if n_freq == 1:
                ink = "black" if gate > 0.6 * heard.gates.max() else "white"
                middle = left + length / 2, place
                axes.text(*middle, f"{gate:.2f}", ha="center", va="center", fontsize=7, color=ink)
    return shades


def _nearest_patch(grid: PatchGrid) -> NDArray[np.intp]:
    """Number of the patch nearest to each cell, [F, T]."""
    rows, columns = grid.territories()
    return np.asarray(rows[:, None] * grid.shape[1] + columns)


def _edges(heard: Heard) -> Floats:
    """Where the middle of each band lies on the axis."""
    return (np.arange(len(heard.centres_hz)) + 0.5).astype(np.float32)


def _round_frequencies(centres: Floats) -> list[float]:
    """Round numbers of hertz within the bands, no two of them closer than a tenth of the axis."""
    low, high = float(centres[0]), float(centres[-1])
    wanted = [digit * 10.0**power for power in range(7) for digit in ROUND_HZ]
    places = np.arange(len(centres))
    kept: list[float] = []
    for hz in wanted:
        if low <= hz <= high:
            at = [float(np.interp(value, centres, places)) for value in (*kept[-1:], hz)]
            if len(at) == 1 or at[1] - at[0] > 0.1 * len(centres):
                kept.append(hz)
    return kept or [low, high]


def _hz(value: float) -> str:
    """A frequency as an axis names it."""
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.3g}"
