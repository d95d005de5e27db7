"""Compares two files of ``--benchmark-json`` by the ratio of their medians.

::

    python benchmarks/compare.py before.json after.json            # ends with 1 if something got slower
    python benchmarks/compare.py before.json after.json --band 0.3

Machines differ and are noisy: ratios are told over the median ratio of the references (benchmarks of others' code,
whose ``extra_info`` has ``reference``), which is the machine's own, and one counts only if it is beyond the band and
beyond what both runs' interquartile ranges explain. A benchmark that is not there any more counts as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

REFERENCE = "reference"
"""In ``extra_info`` of a benchmark that times others' code."""


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


def read(path: Path) -> dict[str, dict[str, Any]]:
    """By the name of a benchmark its statistics, and whether it is a ``reference``.

    Raises:
        typer.BadParameter: the file is not one of pytest-benchmark's.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return {one["fullname"]: one["stats"] | {REFERENCE: REFERENCE in one["extra_info"]} for one in found}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(f"{path}: cannot be read ({error!r}); expected a file of --benchmark-json") from error


def ratios(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> tuple[list[Ratio], float | None]:
    """Of the benchmarks that both files have, and the machine's own change, which is taken out; None if they have no
    reference in common.

    Raises:
        typer.BadParameter: they have none in common.
    """
    common = [name for name in before if name in after]
    if not common:
        raise typer.BadParameter("found no benchmark in both files, expected two runs of the same suite")
    raw = {name: after[name]["median"] / before[name]["median"] for name in common}
    references = [raw[name] for name in common if before[name][REFERENCE] and after[name][REFERENCE]]
    machine = median(references) if references else None
    return [
        Ratio(name, raw[name] / (machine or 1), sum(of[name]["iqr"] / of[name]["median"] for of in (before, after)))
        for name in common
    ], machine


def main(
    before: Annotated[Path, typer.Argument(metavar="BEFORE")],
    after: Annotated[Path, typer.Argument(metavar="AFTER")],
    band: Annotated[float, typer.Option(min=0, help="Share by which a median may differ.")] = 0.15,
) -> None:
    """Tell what got slower or faster."""
    old, new = read(before), read(after)
    found, machine = ratios(old, new)
    if machine is None:
        typer.echo(f"{len(found)} benchmarks; no reference is in both, so ratios hold for one machine alone")
    else:
        typer.echo(f"{len(found)} benchmarks; this run's machine takes {machine:.2f} times as long, which is taken out")
    for one in sorted(found, key=lambda one: -one.ratio):
        typer.echo(f"{one.ratio:7.2f}  ±{one.noise:5.2f}  {one.verdict(band):<7} {one.name}")
    slower = sum(one.verdict(band) == "slower" for one in found)
    missing = sorted(old.keys() - new.keys())
    for name in missing:
        typer.echo(f"{'':>16}  missing {name}")
    if slower or missing:
        told = f"{slower} got slower by more than {band:.0%} and their noise, {len(missing)} are not there any more"
        typer.echo(told, err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
