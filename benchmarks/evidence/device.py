"""What the runtime must hold on a device: its own work beside the graphs', deadlines, cold start, memory, archives on
several cores, many callers.

::

    python benchmarks/evidence/device.py overhead BUNDLE RECORDING…
    python benchmarks/evidence/device.py deadlines BUNDLE RECORDING… --calls 20000
    python benchmarks/evidence/device.py deadlines BUNDLE RECORDING… --hog      # another process on the same core
    python benchmarks/evidence/device.py start BUNDLE
    python benchmarks/evidence/device.py archive BUNDLE RECORDING…
    python benchmarks/evidence/device.py callers BUNDLE RECORDING…

Run on an idle machine, after ``xaimoe-runtime calibrate BUNDLE``. What is compared is measured in turns, in one run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import perf_counter, sleep
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray

from xaimoe_runtime import Runtime
from xaimoe_runtime.audio import read_blocks
from xaimoe_runtime.dispatch import Graph
from xaimoe_runtime.writing import replacing

Floats = NDArray[np.float32]
app = typer.Typer(add_completion=False, no_args_is_help=True)
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE")]
Recordings = Annotated[list[Path], typer.Argument(metavar="RECORDING…")]
FACTORS = (1.2, 2.0, 4.0)
"""Budgets, in floors."""
LATE = 1.1
"""Of its budget: a call that takes more is counted."""
DUTY = 0.25
"""Share of the time that paced calls take, their budgets fully used."""


def clips_of(runtime: Runtime, recordings: list[Path]) -> Floats:
    """The first clip of each recording at the model's rate, [N, S]."""
    size = runtime.audio.clip_samples
    firsts = (next(iter(read_blocks(path, runtime.audio.sample_rate))).samples[:, 0] for path in recordings)
    return np.stack([np.resize(first, size) for first in firsts])


class Timed:
    """A session that counts the seconds of its runs."""

    def __init__(self, session: Any) -> None:
        self.session, self.spent = session, 0.0

    def run(self, *arguments: Any) -> Any:
        start = perf_counter()
        found = self.session.run(*arguments)
        self.spent += perf_counter() - start
        return found


@app.command()
def overhead(bundle: Bundle, recordings: Recordings, rounds: int = 300) -> None:
    """The runtime's own share of a call: all of it, less what the sessions take, for one clip and for 32."""
    runtime = Runtime.load(bundle, provider="cpu")
    clips = clips_of(runtime, recordings)
    graphs: list[Graph] = list(runtime.dispatcher.graphs.values())
    for graph in graphs:
        graph.session = Timed(graph.session)
    for size, times in ((1, rounds), (32, max(rounds // 10, 10))):
        whole, shares = [], []
        for i in range(times):
            given = clips[(np.arange(size) + i) % len(clips)]
            before = sum(graph.session.spent for graph in graphs)
            start = perf_counter()
            runtime.infer(given[0] if size == 1 else given)
            took = perf_counter() - start
            whole.append(took * 1e3)
            shares.append(1 - (sum(graph.session.spent for graph in graphs) - before) / took)
        low, median, high = np.percentile(shares, [25, 50, 75])
        typer.echo(
            f"{size} clip(s): {statistics.median(whole):.2f} ms, the runtime's own share {median:.3f} "
            f"(quartiles {low:.3f} to {high:.3f})"
        )


@app.command()
def deadlines(
    bundle: Bundle,
    recordings: Recordings,
    calls: int = 20_000,
    hog: Annotated[bool, typer.Option("--hog", help="Another process wants the same core; calls are paced.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for plot.py; what it holds of other runs is kept.")
    ] = None,
) -> None:
    """Calls that are late by more than a tenth of their budget, beside a loop that only waits so long."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    runtime = Runtime.load(bundle, provider="cpu")
    if runtime.uncalibrated:
        raise typer.BadParameter(runtime.uncalibrated)
    clips = clips_of(runtime, recordings)
    floors = [0.0]
    for i in range(400):
        _wait(floors[-1])  # as every call under a budget comes after such a loop, which costs it some of its caches
        start = perf_counter()
        runtime.infer(clips[i % len(clips)], routing="glance")
        floors.append((perf_counter() - start) * 1e3)
    floor = statistics.median(floors)
    typer.echo(f"floor {floor:.3f} ms; {calls} calls at each budget{', a hog on the core' if hog else ''}")
    run, found = "with a hog on the core" if hog else "idle", []
    with _hog(core) if hog else nullcontext():
        for factor in FACTORS:
            late, control, told = _at(runtime, clips, factor * floor, calls, hog)
            typer.echo(f"{factor:g} x floor {told}")
            found.append({"run": run, "floors": factor, "late": late, "control": control, "calls": calls})
    if out is not None:
        others = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else []
        with replacing(out) as file:
            file.write(json.dumps([one for one in others if one["run"] != run] + found, indent=1).encode())


def _at(runtime: Runtime, clips: Floats, budget: float, calls: int, paced: bool) -> tuple[float, float, str]:
    """Share of calls that were late, of the control's, and all of it in words."""
    late, control, silent, left_out, spent = 0, 0, 0, 0, []
    for i in range(calls):
        for what in ("call", "control") if i % 2 else ("control", "call"):
            if paced:
                sleep(budget * (1 / DUTY - 1) / 1e3)
            start = perf_counter()
            if what == "control":
                _wait(budget)
                control += (perf_counter() - start) * 1e3 > LATE * budget
                continue
            result = runtime.infer(clips[i % len(clips)], budget_ms=budget)
            took = (perf_counter() - start) * 1e3
            spent.append(took)
            left_out += result.degraded
            late += took > LATE * budget
            silent += took > LATE * budget and not result.late
    median, p99 = np.percentile(spent, [50, 99])
    told = (
        f"({budget:.2f} ms): late {late / calls:.4%}, control {control / calls:.4%}, late in silence {silent}, "
        f"with pairs left out {left_out / calls:.1%}, p50 {median:.2f} ms, p99 {p99:.2f} ms"
    )
    return late / calls, control / calls, told


def _wait(ms: float) -> None:
    """A loop that does nothing else."""
    end = perf_counter() + ms / 1e3
    while perf_counter() < end:
        pass


@contextmanager
def _hog(core: int) -> Iterator[None]:
    """A process that never rests on a core."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, args=(core,), daemon=True)
    process.start()
    sleep(1)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _spin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    parent = os.getppid()
    while os.getppid() == parent:  # a parent that was killed ends nobody
        pass


COMMAND = "from xaimoe_runtime.cli import run; run()"
START = """
import json, sys, time
begin = time.perf_counter()
from xaimoe_runtime import Runtime
import numpy as np
imported = time.perf_counter()
runtime = Runtime.load(sys.argv[1], provider="cpu")
loaded = time.perf_counter()
runtime.infer(np.zeros(runtime.audio.clip_samples, np.float32))
answered = time.perf_counter()
resident = int(open("/proc/self/statm", encoding="utf-8").read().split()[1]) * 4096 / 1e6
for _ in range(100):
    runtime.infer(np.random.default_rng(0).normal(0, 0.1, runtime.audio.clip_samples).astype(np.float32))
later = int(open("/proc/self/statm", encoding="utf-8").read().split()[1]) * 4096 / 1e6
print(json.dumps([imported - begin, loaded - imported, answered - loaded, resident, later]))
"""


@app.command()
def start(bundle: Bundle, times: int = 15) -> None:
    """In a new process, from the import to the first answer, and the memory that is resident then."""
    parts = []
    for _ in range(times):
        done = subprocess.run(
            [sys.executable, "-c", START, str(bundle)], capture_output=True, text=True, check=True, env=_one_thread()
        )
        parts.append(json.loads(done.stdout))
    importing, loading, answering, resident, later = np.median(parts, axis=0)
    typer.echo(
        f"import {importing:.3f} s, load {loading:.3f} s, first answer {answering:.3f} s: together "
        f"{importing + loading + answering:.3f} s; {resident:.0f} MB resident then, {later:.0f} MB after 100 clips"
    )


def _one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


@app.command()
def archive(bundle: Bundle, recordings: Recordings, files: int = 2000, turns: int = 3) -> None:
    """An archive of FLAC files by one process and by one for each core, beside as many times the first's rate, and
    beside as many commands of one process each, at once, that know nothing of each other: what the cores can give."""
    runtime, cores = Runtime.load(bundle, provider="cpu"), len(os.sched_getaffinity(0))
    clips = clips_of(runtime, recordings)
    with tempfile.TemporaryDirectory() as folder:
        for i in range(files):
            soundfile.write(Path(folder) / f"{i:06}.flac", clips[i % len(clips)], runtime.audio.sample_rate)
        ways = (1, 1), (cores, 1), (1, cores)  # processes of a command, commands at once
        rates = np.array([[_rate(bundle, Path(folder), *way) for way in ways] for _ in range(turns)])
    one, many, apart = np.median(rates, axis=0)
    of_ideal, of_apart = np.median(rates[:, 1, None] / (rates[:, [0, 2]] * (cores, 1)), axis=0)
    typer.echo(
        f"FLAC files a second, of {files}: {one:.0f} by one process, {many:.0f} by {cores}, {apart:.0f} by {cores} "
        f"commands at once: {of_ideal:.2f} of the ideal, {of_apart:.2f} of what the commands make"
    )


def _rate(bundle: Path, folder: Path, workers: int, commands: int) -> float:
    """Files a second of so many commands at once, each with its share of the files, without their start, which is that
    of no files but one."""
    command = [sys.executable, "-c", COMMAND, "infer", str(bundle), "--workers", str(workers), "--list"]
    files, taken = sorted(folder.glob("*.flac")), []
    for chosen in (files[:commands], files):
        lists = [folder / f"{i}.txt" for i in range(commands)]
        for i, path in enumerate(lists):
            path.write_text("\n".join(map(str, chosen[i::commands])), encoding="utf-8")
        begin = perf_counter()
        running = [
            subprocess.Popen(
                [*command, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_one_thread()
            )
            for path in lists
        ]
        codes = [process.wait() for process in running]
        if any(codes):
            raise RuntimeError("a command failed")
        taken.append(perf_counter() - begin)
    return len(files) / (taken[1] - taken[0])


@app.command()
def callers(bundle: Bundle, recordings: Recordings, threads: int = 8, calls: int = 400, turns: int = 5) -> None:
    """Many threads that call one runtime, beside one: right answers, and calls a second."""
    runtime = Runtime.load(bundle, provider="cpu")
    clips = clips_of(runtime, recordings)
    wanted = np.stack([runtime.infer(clip).scores for clip in clips])
    wrong, lock = 0, threading.Lock()

    def call(i: int) -> None:
        nonlocal wrong
        found = runtime.infer(clips[i % len(clips)]).scores
        if np.abs(found - wanted[i % len(clips)]).max() > 1e-6:
            with lock:
                wrong += 1

    ratios = []
    for _ in range(turns):
        begin = perf_counter()
        for i in range(calls):
            call(i)
        alone = perf_counter() - begin
        with ThreadPoolExecutor(threads) as pool:
            begin = perf_counter()
            list(pool.map(call, range(calls)))
            ratios.append(alone / (perf_counter() - begin))
    typer.echo(f"{threads} callers: {statistics.median(ratios):.2f} times the calls a second of one; {wrong} wrong")


if __name__ == "__main__":
    app()
