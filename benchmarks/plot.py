"""Draws the figures of the benchmarks, from the files that the measurements wrote, as SVG and PNG.

::

    python benchmarks/plot.py --peers latency.json --larger accuracy.json --accuracy "this, routed=0.92" \\
        --scaling scaling.json --curve curve.json --deadlines deadlines.json --out docs/figures

``latency.json`` is of ``pytest --benchmark-json`` (``make bench-full JSON=latency.json``) with a bundle of the latency
budget, ``accuracy.json`` with one of the accuracy budget, ``scaling.json`` of ``scaling.py``,
``curve.json`` of ``xaimoe-runtime calibrate --data D --curve``, ``deadlines.json`` of ``evidence/device.py deadlines
--out``. What is not given is not drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from xaimoe_runtime.drawing import COLOURS, new_figure
from xaimoe_runtime.pictures import save_both

PEERS = {
    "bench_product[routed-1]": "this, routed",
    "bench_product[dense-1]": "this, all pairs",
    "bench_product[glance-1]": "this, the glance alone",
    "bench_single_cnn[1]": "single CNN",
    "bench_yamnet[pipeline-1]": "YAMNet INT8",
    "bench_mobilenet_network[1]": "mn04's shape, network alone",
}
ROUTED, YAMNET = "bench_product[routed-1]", "bench_yamnet[pipeline-1]"
LARGER = "this, routed, accuracy budget"
AXES = {"clip": "Clip [s]", "batch": "Clips in a batch", "experts": "Experts, 8 pairs run", "classes": "Classes"}
File = Annotated[Path | None, typer.Option(exists=True, dir_okay=False)]


def stats_of(bench: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What a file of pytest-benchmark says of each benchmark."""
    return {one["name"]: one["stats"] for one in bench["benchmarks"]}


def draw_peers(bench: dict[str, Any], accuracies: dict[str, float], larger: dict[str, Any] | None = None) -> Any:
    """Time of a clip, and accuracy where it is known, of the product and its peers.

    ``larger`` is another run, with a model of the accuracy budget; its times are scaled by YAMNet's in both, so that a
    machine which was busier then does not count.
    """
    found = stats_of(bench)
    titles = dict(PEERS)
    if larger is not None:
        other = stats_of(larger)
        scale = found[YAMNET]["median"] / other[YAMNET]["median"]
        found[LARGER] = {name: scale * other[ROUTED][name] for name in ("median", "q1", "q3")}
        titles[LARGER] = LARGER
    shown = [(name, title) for name, title in titles.items() if name in found]
    figure = new_figure(7, 4)
    axes = figure.subplots()
    known = [(name, title) for name, title in shown if title in accuracies]
    for i, (name, title) in enumerate(known):
        of = found[name]
        ms, quartiles = of["median"] * 1e3, [[(of["median"] - of["q1"]) * 1e3], [(of["q3"] - of["median"]) * 1e3]]
        axes.errorbar(ms, accuracies[title], xerr=quartiles, fmt="o", color=COLOURS[i], capsize=3, markersize=7)
        place = {"textcoords": "offset points", "xytext": (0, 8), "ha": "center", "fontsize": 8}
        axes.annotate(title, (ms, accuracies[title]), bbox={"facecolor": "white", "lw": 0, "pad": 0.5}, **place)
    for name, title in shown:
        if title not in accuracies:
            axes.axvline(found[name]["median"] * 1e3, color="0.5", linestyle="--", linewidth=1)
            place = {"transform": axes.get_xaxis_transform(), "rotation": 90, "va": "bottom", "ha": "right"}
            axes.text(found[name]["median"] * 1e3, 0.22, title, fontsize=7, color="0.4", **place)
    axes.set_xscale("log")
    ticks = [0.5, 1, 2, 5, 10]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(
        xlabel="Median time of a clip of 5 s, one thread [ms]; dashed: random weights",
        ylabel="Accuracy, ESC-10",
    )
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3)
    return figure


def draw_scaling(scaling: dict[str, list[dict[str, float]]]) -> Any:
    """Time against size, beside a line of proportion through the first point."""
    figure = new_figure(10, 2.8)
    every = [point["ms"] for points in scaling.values() for point in points]
    low, high = min(every) / 1.5, max(every) * 1.5
    for axes, (axis, title) in zip(figure.subplots(1, len(AXES), sharey=True), AXES.items(), strict=True):
        sizes, times = ([point[name] for point in scaling[axis]] for name in ("size", "ms"))
        axes.plot(sizes, times, marker="o", color=COLOURS[0])
        axes.plot(sizes, [times[0] * size / sizes[0] for size in sizes], color="0.5", linestyle="--", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel=title, ylim=(low, high))
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8)
        ticks = [digit * 10.0**power for power in range(-2, 4) for digit in (1, 2, 5)]
        axes.set_yticks([tick for tick in ticks if low <= tick <= high])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("Time [ms]")
    figure.suptitle("Median time of the line; dashed: in proportion", fontsize=10)
    return figure


def draw_deadlines(deadlines: list[dict[str, Any]]) -> Any:
    """Share of calls that came more than a tenth late, by budget, beside a loop that only waits."""
    figure = new_figure(6.2, 3.6)
    axes = figure.subplots()
    runs = list(dict.fromkeys(one["run"] for one in deadlines))
    for i, run in enumerate(runs):
        own = [one for one in deadlines if one["run"] == run]
        for key, style, what in (("late", "-", "calls"), ("control", "--", "a loop that only waits")):
            points = [100 * one[key] for one in own]
            axes.plot(
                [one["floors"] for one in own], points, style, marker="o", color=COLOURS[i], label=f"{what}, {run}"
            )
    axes.set(xlabel="Budget [floors]", ylabel="Late by more than a tenth [%]", ylim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def main(
    out: Annotated[Path, typer.Option(help="Folder of the figures.")],
    peers: File = None,
    larger: File = None,
    scaling: File = None,
    curve: File = None,
    deadlines: File = None,
    accuracy: Annotated[
        list[str] | None, typer.Option(help='Of a way in the figure of peers, as "this, routed=0.93"; may be repeated.')
    ] = None,
) -> None:
    """Draw what files are given for."""
    accuracies = {name: float(value) for name, _, value in (text.rpartition("=") for text in accuracy or [])}
    names = [*PEERS.values(), LARGER]
    if unknown := set(accuracies) - set(names):
        raise typer.BadParameter(f"--accuracy: found {', '.join(sorted(unknown))}, expected {', '.join(names)}")
    if peers is not None:
        other = None if larger is None else json.loads(larger.read_text(encoding="utf-8"))
        save_both(draw_peers(json.loads(peers.read_text(encoding="utf-8")), accuracies, other), out / "peers")
    if scaling is not None:
        save_both(draw_scaling(json.loads(scaling.read_text(encoding="utf-8"))), out / "scaling")
    if deadlines is not None:
        save_both(draw_deadlines(json.loads(deadlines.read_text(encoding="utf-8"))), out / "deadlines")
    if curve is not None:
        import msgspec

        from xaimoe_runtime.curve import Point, draw

        points = msgspec.json.decode(curve.read_bytes(), type=list[Point])
        for ending in (".svg", ".png"):
            draw(points, out / f"budget{ending}")


if __name__ == "__main__":
    typer.run(main)
