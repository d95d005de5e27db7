"""Measuring what the graphs of a bundle cost on the device at hand, and keeping that for the next start.

What was measured lies in the user's cache folder, never in the bundle: another device has other costs.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Set
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.caching import cache_folder
from xaimoe_runtime.costs import PERCENTILES, Cost, Costs, Percentile
from xaimoe_runtime.dispatch import Dispatcher, Graph, Way
from xaimoe_runtime.errors import BundleError, ConfigError
from xaimoe_runtime.providers import SessionFactory
from xaimoe_runtime.schema import Precision
from xaimoe_runtime.writing import replacing

Floats = NDArray[np.float32]

SIZES = (1, 2, 4, 8, 16, 32)
"""Batch sizes that are measured."""
WHOLE_SIZES = (1, 8)
"""Of the whole line, where there are several ways through it."""
ROUNDS = 200
"""Times that each is."""
ESTIMATE_SIZES, ESTIMATE_ROUNDS = (1, 4), 3
"""Of the estimate that does without a calibration: some tens of milliseconds in all, on a GPU some seconds."""
ESTIMATED: dict[Percentile, float] = {"p50": 1.0, "p95": 1.5, "p99": 2.0}
"""Percentiles of an estimate, in medians: of three times, the largest tells nothing but whether it was disturbed."""


class Conditions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a calibration holds for."""

    manifest: str
    """Digest of the bundle's manifest."""
    precision: str
    provider: str
    onnxruntime: str
    """Its version."""
    options: dict[str, str] = {}
    """Of the provider, as the user gave them."""
    device: str
    """Processor and number of its cores, and the GPU if that is not the CPU's work."""
    threads: int


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``xaimoe-runtime calibrate`` keeps."""

    conditions: Conditions
    rounds: Annotated[int, Meta(ge=1)]
    costs: Costs


def conditions(bundle: Bundle, factory: SessionFactory, precision: Precision) -> Conditions:
    """Of this device, now."""
    return Conditions(
        manifest=bundle.manifest.digest,
        precision=precision,
        provider=factory.provider,
        onnxruntime=factory.ort.__version__,
        options=factory.options,
        device=f"{_processor()}, {os.cpu_count()} cores" + (factory.gpu and f", {factory.gpu}"),
        threads=factory.threads,
    )


def _processor() -> str:
    """The processor's name, as well as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def place_of(held: Conditions) -> Path:
    """The file of a calibration: one for each bundle, precision, provider, device and number of threads."""
    device = hashlib.sha256(held.device.encode()).hexdigest()[:8]
    return (
        cache_folder("calibrations")
        / f"{held.manifest[:16]}-{held.precision}-{held.provider}-{held.threads}threads-{device}.json"
    )


def save(calibration: Calibration) -> Path:
    """Keeps a calibration in the cache folder; gives the file.

    Raises:
        ConfigError: the folder cannot be written.
    """
    path = place_of(calibration.conditions)
    with replacing(path) as file:
        file.write(msgspec.json.format(msgspec.json.encode(calibration)))
    return path


def load(wanted: Conditions, graphs: Set[str]) -> tuple[Calibration | None, str]:
    """The calibration of ``graphs`` that was kept for these conditions, and in words why there is none."""
    try:
        path = place_of(wanted)
    except ConfigError as error:
        return None, str(error)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        return None, "not calibrated on this device; run xaimoe-runtime calibrate"
    except (OSError, msgspec.MsgspecError) as error:
        return None, f"{path}: the calibration cannot be read ({error}); run xaimoe-runtime calibrate again"
    if missing := sorted(graphs - set(found.costs)):
        return None, f"{path}: the calibration lacks {', '.join(missing)}; run xaimoe-runtime calibrate again"
    differing = [
        f"{name} {getattr(found.conditions, name)} instead of {getattr(wanted, name)}"
        for name in wanted.__struct_fields__
        if getattr(found.conditions, name) != getattr(wanted, name)
    ]
    if differing:
        return None, f"{path}: the calibration is of {', '.join(differing)}; run xaimoe-runtime calibrate again"
    return found, ""


def measure(
    dispatcher: Dispatcher,
    golden: dict[str, Floats],
    sizes: tuple[int, ...] = SIZES,
    rounds: int = ROUNDS,
    advance: Callable[[], None] = lambda: None,
) -> Costs:
    """Times of every graph of the line; experts with the gathering of their patches and the adding up.

    Each round runs the whole line once at each size, as it is run in the field: between two runs of a graph the others
    have used the caches, and a disturbance hits all alike. The first round is not counted. Where there are several ways
    through the line, all of it is timed each way, too, but not for an estimate.

    Args:
        dispatcher: of the bundle.
        golden: the bundle's golden answers, for inputs.
        sizes: rising batch sizes; where experts are given full buckets, these.
        rounds: that are counted.
        advance: is called after each.

    Raises:
        BundleError: the golden answers are incomplete.
    """
    of_experts = dispatcher.buckets or sizes
    runs: dict[tuple[str, int], Callable[[], object]] = {}
    for name, graph in dispatcher.graphs.items():
        expert = dispatcher.experts.index(graph) if graph in dispatcher.experts else None
        for size in sizes if expert is None else of_experts:
            runs[name, size] = _run(dispatcher, graph, expert, golden, size)
    if len(dispatcher.ways) > 1 and rounds > ESTIMATE_ROUNDS:
        for way, size in product(dispatcher.ways, WHOLE_SIZES):
            given = _rows(golden, "waveform", size), _rows(golden, "source", size)
            runs[whole(way), size] = partial(dispatcher.run, *given, "routed", way=way)
    times: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for _ in range(rounds + 1):
        for key, run in runs.items():
            start = perf_counter()
            run()
            times[key].append((perf_counter() - start) * 1e3)
        advance()
    experts = {graph.spec.name for graph in dispatcher.experts} if dispatcher.buckets else set()
    names = dict.fromkeys(name for name, _ in times)
    how = _estimated if rounds <= ESTIMATE_ROUNDS else _percentiles
    return {
        name: _cost({size: how(times[of, size][1:]) for of, size in times if of == name}, name in experts)
        for name in names
    }


def whole(way: Way) -> str:
    """Name of the cost of a way through the whole line."""
    return f"whole line, {way}"


def names_of(dispatcher: Dispatcher) -> set[str]:
    """Names of all that a calibration holds."""
    ways = dispatcher.ways if len(dispatcher.ways) > 1 else ()
    return {*dispatcher.graphs, *map(whole, ways)}


def _run(
    dispatcher: Dispatcher, graph: Graph, expert: int | None, golden: dict[str, Floats], size: int
) -> Callable[[], object]:
    """Runs a graph once on a batch of the golden inputs, repeated."""
    if expert is None:
        inputs = {tensor.name: _rows(golden, graph.spec.golden(tensor.name), size) for tensor in graph.spec.inputs}
        return lambda: graph(**inputs)
    patches = np.arange(size) % dispatcher.grid.count
    gates = np.full((1, dispatcher.grid.count, len(dispatcher.experts)), 1 / size, np.float32)
    mixing = dispatcher.mixing(_rows(golden, dispatcher.manifest.patches.source, 1), gates)
    return lambda: mixing.add(expert, np.zeros_like(patches), patches)


def _rows(golden: dict[str, Floats], name: str, count: int) -> Floats:
    """So many rows of a golden array, repeated as often as it takes."""
    if name not in golden or len(golden[name]) == 0:
        raise BundleError(f"the golden answer {name!r} is missing; export the bundle again")
    rows: Floats = golden[name][np.arange(count) % len(golden[name])]
    return rows


def _percentiles(times: list[float]) -> dict[Percentile, float]:
    return dict(zip(PERCENTILES, np.percentile(times, [50, 95, 99]).tolist(), strict=True))


def _estimated(times: list[float]) -> dict[Percentile, float]:
    return {name: float(np.median(times)) * factor for name, factor in ESTIMATED.items()}


def _cost(found: dict[int, dict[Percentile, float]], filled_up: bool) -> Cost:
    """Percentiles by size."""
    sizes = sorted(found)
    columns = {name: tuple(found[size][name] for size in sizes) for name in PERCENTILES}
    return Cost(sizes=tuple(sizes), **columns, filled_up=filled_up)
