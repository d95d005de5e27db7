"""What all figures share: colours, names as they are, and files that are whole or not there."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from xaimoe_runtime.errors import ConfigError, ProviderError
from xaimoe_runtime.writing import check_writable, replacing

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""M. Okabe and K. Ito's palette, which colour-blind people can tell apart; a second round is dashed."""

ENDINGS = (".png", ".svg", ".pdf")


def new_figure(width: float, height: float) -> Any:
    """An empty figure of matplotlib, in inches.

    Raises:
        ProviderError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ProviderError('figures need matplotlib; run: pip install "xai-moe-audio[figures]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def check_figure(out: Path) -> None:
    """Tells before the work whether a figure could be written to ``out``.

    Raises:
        ConfigError: it could not, or the file's ending is none of a figure.
        ProviderError: matplotlib is missing.
    """
    new_figure(1, 1)
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{out}: expected the name of a figure, ending in {' or '.join(ENDINGS)}")
    check_writable(out)


def plain(label: str) -> str:
    """A class's name as matplotlib shows it letter by letter: no formula, and not left out of the legend."""
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def shortened(label: str, length: int = 24) -> str:
    """The same where there is no room for a long one."""
    return plain(label if len(label) <= length else label[: length - 1] + "…")


def save_figure(figure: Any, out: Path, dpi: int = 150) -> None:
    """Writes a figure of matplotlib in the format of the file's ending, PNG if it has none.

    Raises:
        ConfigError: the folder cannot be written.
    """
    with replacing(out) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a script that the font lacks: boxes
        figure.savefig(file, format=out.suffix.lower().lstrip(".") or "png", dpi=dpi)
