"""Compares two files of ``--benchmark-json`` by the ratio of their medians.

::

    python benchmarks/compare.py before.json after.json            # ends with 1 if something got slower
    python benchmarks/compare.py before.json after.json --band 0.3

Machines differ and are noisy: ratios are told over the median ratio of all benchmarks, which is the machine's own, and
one counts only if it is beyond the band and beyond what both runs' interquartile ranges explain.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import typer


@dataclass(frozen=True)
class Ratio:
    """Of one benchmark."""

    name: str
    ratio: float
    """Median after over before, over the machine's own change."""
    noise: float
    """That both runs' interquartile ranges explain, as a share."""

    def verdict(self, band: float) -> str:
        """``slower``, ``faster`` or nothing."""
        allowed = max(band, self.noise)
        if self.ratio > 1 + allowed:
            return "slower"
        return "faster" if self.ratio < 1 / (1 + allowed) else ""


def read(path: Path) -> dict[str, dict[str, float]]:
    """Statistics by the name of a benchmark.

    Raises:
        typer.BadParameter: the file is not one of pytest-benchmark's.
    """
    try:
        return {one["fullname"]: one["stats"] for one in json.loads(path.read_text())["benchmarks"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(f"{path}: cannot be read ({error!r}); expected a file of --benchmark-json") from error


def ratios(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> tuple[list[Ratio], float]:
    """Of the benchmarks that both files have, and the machine's own change.

    Raises:
        typer.BadParameter: they have none in common.
    """
    common = [name for name in before if name in after]
    if not common:
        raise typer.BadParameter("found no benchmark in both files, expected two runs of the same suite")
    raw = {name: after[name]["median"] / before[name]["median"] for name in common}
    machine = median(raw.values())
    return [
        Ratio(name, raw[name] / machine, sum(of[name]["iqr"] / of[name]["median"] for of in (before, after)))
        for name in common
    ], machine


def main(
    before: Annotated[Path, typer.Argument(metavar="BEFORE")],
    after: Annotated[Path, typer.Argument(metavar="AFTER")],
    band: Annotated[float, typer.Option(min=0, help="Share by which a median may differ.")] = 0.15,
) -> None:
    """Tell what got slower or faster."""
    found, machine = ratios(read(before), read(after))
    typer.echo(f"{len(found)} benchmarks; this run's machine takes {machine:.2f} times as long, which is taken out")
    for one in sorted(found, key=lambda one: -one.ratio):
        typer.echo(f"{one.ratio:7.2f}  ±{one.noise:5.2f}  {one.verdict(band):<7} {one.name}")
    slower = sum(one.verdict(band) == "slower" for one in found)
    if slower:
        typer.echo(f"{slower} got slower by more than {band:.0%} and their noise", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
