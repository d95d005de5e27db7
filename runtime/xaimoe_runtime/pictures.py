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
EVEN_SHARES = 4.0
"""Even shares at which a colour is as strong as it gets: what is spread evenly has a quarter of that, and looks so."""
BORDER: dict[str, Any] = {"colors": "#606060", "linewidths": 0.6, "linestyles": ":"}
"""Style of the borders between patches."""
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

    def place(self, rows: slice, columns: slice) -> tuple[float, float, float, float]:
        """Return where cells of the spectrogram lie in a figure: left in seconds, lowest band, duration, bands."""
        frames, bands = columns.stop - columns.start, rows.stop - rows.start
        return self.start_s + columns.start * self.frame_s, float(rows.start), frames * self.frame_s, float(bands)

    @property
    def places(self) -> list[tuple[float, float, float, float]]:
        """Place of each patch, [P], as all figures draw it: the cells that it owns; tiles overlap."""
        return [self.place(rows, columns) for rows, columns in self.grid.owned_cells()]

    @property
    def shares(self) -> Floats:
        """Saliency of each patch in even shares, [P]: 1 is that of a patch if all are equally salient."""
        return np.asarray(self.saliency * self.grid.count, np.float32)

    @property
    def middles(self) -> tuple[Floats, Floats]:
        """Of each patch, in seconds and in hertz, [P] each."""
        frequency, time = self.grid.positions().T
        seconds = self.start_s + time * self.grid.columns * self.frame_s
        places = np.arange(len(self.centres_hz))
        hertz = np.interp(frequency * len(self.centres_hz) - 0.5, places, self.centres_hz)
        return seconds.astype(np.float32), hertz.astype(np.float32)


def answer_title(answer: tuple[str, ...], scores: Floats, score: str) -> str:
    """Return what was answered, for titles; silence, whose scores [L] are all 0, has no score to show."""
    return f"answered {', '.join(answer) or 'nothing'} ({score if scores.any() else 'silent'})"


def draw_saliency(heard: Heard) -> Any:
    """The saliency that steers the router, over the spectrogram: each cell has that of the patch that owns it.

    The scale is absolute: 1 is an even share, so that a saliency that prefers no patch is pale everywhere.
    """
    figure = new_figure(WIDTH, PANEL)
    axes = figure.subplots()
    _spectrogram(axes, heard)
    image = _overlay(axes, heard, heard.shares[_nearest_patch(heard.grid)], EVEN_SHARES)
    _borders(axes, heard)
    figure.colorbar(image, ax=axes, label="Saliency [even shares]", pad=0.01, extend="max")
    axes.set_title(f"Saliency of the router: {plain(heard.answer)}", fontsize=9)
    return figure


def draw_heat(heard: Heard, heat: Floats, name: str, target: str) -> Any:
    """An attribution [F, T], of any sign, for a label over the spectrogram; what speaks against it is not shown.

    The scale is in multiples of the mean over all cells, up to the brightest ones and at least to 4: an attribution
    that is the same everywhere is pale.
    """
    figure = new_figure(WIDTH, PANEL)
    axes = figure.subplots()
    _spectrogram(axes, heard)
    positive = np.maximum(heat, 0)
    multiples: Floats = (positive / max(float(positive.mean()), 1e-12)).astype(np.float32)
    bright = max(float(np.percentile(multiples, LOUD)), float(multiples.max(initial=0.0)) / 100, EVEN_SHARES)
    image = _overlay(axes, heard, multiples, bright)
    _borders(axes, heard)
    figure.colorbar(image, ax=axes, label=f"{name} [its mean]", pad=0.01, extend="max")
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
        below.text(0.5, 0.5, "no expert ran", transform=below.transAxes, ha="center")
    return figure


def draw_grid(heard: Heard) -> Any:
    """The selection grid: of each patch its saliency, and how many experts heard it."""
    rows, columns = heard.grid.shape
    figure = new_figure(WIDTH, 1.1 + 0.5 * rows)
    axes = figure.subplots()
    saliency = heard.saliency.reshape(rows, columns)
    counts = (heard.gates > 0).sum(1).reshape(rows, columns)
    places = heard.places
    lefts, lows = [x for x, *_ in places[:columns]], [y for _, y, *_ in places[::columns]]
    _, end_s, _, bands = heard.extent
    shades = heard.shares.reshape(rows, columns)
    edge = {"edgecolor": "white", "linewidth": 0.6}
    image = axes.pcolormesh([*lefts, end_s], [*lows, bands], shades, cmap=HEAT, vmin=0, vmax=EVEN_SHARES, **edge)
    for (row, column), count in np.ndenumerate(counts):
        left, low, length, height = places[row * columns + column]
        text = f"{saliency[row, column]:.2f}\n{'●' * int(count) or '–'}"
        ink = "black" if shades[row, column] > 0.6 * EVEN_SHARES else "white"
        axes.text(left + length / 2, low + height / 2, text, ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks([*lefts, end_s], [f"{second:.2f}" for second in (*lefts, end_s)], fontsize=8)
    hz = [heard.centres_hz[cells] for cells, _ in heard.grid.owned_cells()[::columns]]
    middles = [low + height / 2 for _, low, _, height in places[::columns]]
    axes.set_yticks(middles, [f"{_hz(band[0])} to {_hz(band[-1])}" for band in hz], fontsize=8)
    axes.set(xlabel="Time [s]", ylabel="Band [Hz]")
    axes.set_title("Patches: saliency, and a dot for each expert that ran", fontsize=9)
    figure.colorbar(image, ax=axes, label="Saliency\n[even shares]", pad=0.01, extend="max")
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
        high = low + 1  # silence is white
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


def _overlay(axes: Any, heard: Heard, heat: Floats, largest: float) -> Any:
    """``heat`` [F, T] from 0, the more opaque the larger, up to ``largest``."""
    return axes.imshow(
        heat,
        origin="lower",
        aspect="auto",
        extent=heard.extent,
        cmap=HEAT,
        vmin=0,
        vmax=largest,
        alpha=0.75 * np.minimum(heat / np.float32(largest), 1),
        interpolation="nearest",
    )


def _borders(axes: Any, heard: Heard) -> None:
    """Thin lines between patches, where all figures have them."""
    left, right, low, high = heard.extent
    columns = heard.grid.shape[1]
    axes.vlines([x for x, *_ in heard.places[1:columns]], low, high, **BORDER)
    axes.hlines([y for _, y, *_ in heard.places[columns::columns]], left, right, **BORDER)


def _outline(axes: Any, heard: Heard, chosen: NDArray[np.bool_]) -> None:
    """Borders of the patches that were chosen."""
    from matplotlib.patches import Rectangle

    for patch in np.flatnonzero(chosen).tolist():
        left, low, length, height = heard.places[patch]
        axes.add_patch(Rectangle((left, low), length, height, fill=False, edgecolor="#D55E00", linewidth=1.2))


def _rows(axes: Any, heard: Heard, used: list[int]) -> Any:
    """A row for each expert, in it a field for each patch that it heard, as long as what the patch answers for; rows of
    patches lie above each other within it."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    n_freq, n_time = heard.grid.shape
    shades: Any = ScalarMappable(Normalize(0, float(heard.gates.max(initial=0.0)) or 1.0), HEAT)
    for place, e in enumerate(used):
        for patch in np.flatnonzero(heard.gates[:, e]).tolist():
            row = patch // n_time
            left, _, length, _ = heard.places[patch]
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
