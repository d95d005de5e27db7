"""Mutate whole bundles, and open, load and run them under limits: no crash, no hang, no gigabytes, no foreign file.

    python tests/fuzz/bundles.py BUNDLE --cases 100000 --seed 0 --workers 2

Each case changes a graph, the manifest or the golden answers of a copy, puts sizes, hashes and the digest right, and
does what a device does: ``Bundle.open``, a session for each graph, and one run of each. Workers have a cap on their
memory, and work in a folder of decoys, whose every opening is seen (inotify, Linux). A case is repeated by
``--only NUMBER``. Exit code 1 if one case fails.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from time import monotonic, process_time
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from data.bundles import EditableBundle
from data.onnx_models import mutated
from onnx import ModelProto, TensorProto, helper

MAX_SECONDS, MAX_MB = 5.0, 500
DECOYS = ("secret", "weights.bin", "etc/hostname")
NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 255, 1 << 16, 1 << 20, 1 << 31, 1 << 40, 1 << 62, -(1 << 63))
OPERATORS = (
    "Add MatMul Tile Expand Reshape Range ConstantOfShape Concat Gather Pad Resize NonZero If Loop Slice".split()
)
BATCH = 500
"""Cases of a worker before it is started anew."""


def changed_graph(content: bytes, draw: Random) -> bytes:
    """A graph with changed bytes, or with another meaning."""
    if draw.random() < 0.4:
        return mutated(content, draw)
    model = ModelProto.FromString(content)
    for _ in range(draw.randint(1, 3)):
        _change(model, draw)
    return model.SerializeToString() if draw.random() < 0.9 else mutated(model.SerializeToString(), draw)


def _change(model: ModelProto, draw: Random) -> None:
    graph, number = model.graph, draw.choice(NUMBERS)
    node = draw.choice(graph.node)
    kind = draw.randrange(10)
    if kind == 0 and node.attribute:
        attribute = draw.choice(node.attribute)
        if attribute.ints:
            attribute.ints[draw.randrange(len(attribute.ints))] = number
        else:
            attribute.i = number
    elif kind == 1 and graph.initializer:
        tensor = draw.choice(graph.initializer)
        if tensor.dims:
            tensor.dims[draw.randrange(len(tensor.dims))] = number
    elif kind == 2 and graph.initializer:
        whole = [one for one in graph.initializer if one.data_type == TensorProto.INT64 and one.raw_data]
        if whole:
            tensor = draw.choice(whole)
            at = 8 * draw.randrange(len(tensor.raw_data) // 8)
            raw = (number % (1 << 64)).to_bytes(8, "little")
            tensor.raw_data = tensor.raw_data[:at] + raw + tensor.raw_data[at + 8 :]
    elif kind == 3:
        node.op_type = draw.choice(OPERATORS)
    elif kind == 4 and node.input:
        names = [tensor.name for tensor in graph.initializer] + [one for other in graph.node for one in other.output]
        node.input[draw.randrange(len(node.input))] = draw.choice(names)
    elif kind == 5 and graph.initializer:
        tensor = draw.choice(graph.initializer)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=draw.choice(DECOYS))
        if draw.random() < 0.5:
            tensor.ClearField("raw_data")
    elif kind == 6:
        name = draw.choice([one for other in graph.node for one in other.output])
        made = helper.make_node(draw.choice(("Tile", "Expand", "ConstantOfShape")), [name, name], ["more"], name="more")
        graph.node.insert(draw.randrange(len(graph.node) + 1), made)
    elif kind == 7:
        size = draw.choice(draw.choice((graph.input, graph.output))).type.tensor_type.shape.dim
        if size:
            draw.choice(size).dim_value = number
    elif kind == 8:
        node.domain = draw.choice(("com.microsoft", "ai.onnx.ml", "x"))
    else:
        model.opset_import[0].version = draw.choice((1, 9, 13, 18, 21, 23, 10**6))


def changed_manifest(manifest: dict[str, Any], draw: Random) -> None:
    """One value of the manifest, somewhere inside, replaced."""
    place: Any = manifest
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw.choice(keys)
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and draw.random() < 0.85:
            place = inner
            continue
        values = (*NUMBERS, 1e300, -1.5, "", "../secret", "/etc/hostname", "x" * 5000, None, [], {}, True, [1] * 50)
        place[key] = draw.choice(values)
        return


def change(folder: Path, base: Path, draw: Random) -> str:
    """Makes one case of the bundle in ``folder``; returns what was changed."""
    editable = EditableBundle(folder)
    kind = draw.random()
    if kind < 0.75:
        entry = draw.choice(editable.manifest["graphs"])
        editable.put(entry, changed_graph((base / entry["file"]).read_bytes(), draw))
        what = str(entry["file"])
    elif kind < 0.9:
        changed_manifest(editable.manifest, draw)
        what = "manifest.json"
    else:
        entry = editable.manifest["golden"]
        editable.put(entry, mutated((base / entry["file"]).read_bytes(), draw) or b"x")
        what = str(entry["file"])
    editable.save()
    return what


def try_case(folder: Path) -> str:
    """Does what a device does with a bundle; returns how it ended."""
    from xaimoe_runtime import XaimoeError
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.providers import SessionFactory
    from xaimoe_runtime.trial import run_graph

    try:
        bundle = Bundle.open(folder)
    except XaimoeError:
        return "refused"
    factory = SessionFactory("cpu")
    for spec in bundle.manifest.graphs:
        try:
            run_graph(factory, bundle, spec)
        except XaimoeError:
            return "refused by ONNX Runtime"
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no base class
            return f"failed in a run: {type(error).__name__}"
    return "passed"


# One worker ----------------------------------------------------------------------------------------------------------


class Watch:
    """Sees whether files of a folder are opened (Linux)."""

    def __init__(self, folders: list[Path]) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK)
        for folder in folders:
            self.libc.inotify_add_watch(self.fd, os.fsencode(folder), 0x20)  # IN_OPEN

    def opened(self) -> bool:
        """Whether one was opened since this was called last."""
        try:
            return any(not mask & 0x40000000 for mask in self._masks(os.read(self.fd, 1 << 16)))  # not a folder
        except BlockingIOError:
            return False

    @staticmethod
    def _masks(events: bytes) -> list[int]:
        found, at = [], 0
        while at < len(events):
            found.append(int.from_bytes(events[at + 4 : at + 8], sys.byteorder))
            at += 16 + int.from_bytes(events[at + 12 : at + 16], sys.byteorder)
        return found


def work(base: Path, seed: int, numbers: range) -> None:
    """Runs cases; writes a line of JSON before and after each."""
    from xaimoe_runtime.providers import SessionFactory

    base = base.absolute()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        decoys = Path(place) / "decoys"
        for name in DECOYS:
            (decoys / name).parent.mkdir(parents=True, exist_ok=True)
            (decoys / name).write_bytes(b"secret " * 1000)
        os.chdir(decoys)
        watch = Watch([decoys, decoys / "etc"])
        SessionFactory("cpu")
        resource.setrlimit(resource.RLIMIT_DATA, (1_500_000_000, resource.RLIM_INFINITY))
        for number in numbers:
            print(json.dumps({"start": number}), flush=True)
            folder = Path(place) / "bundle"
            shutil.copytree(base, folder)
            what = change(folder, base, Random(f"{seed} {number}"))
            start, busy = monotonic(), process_time()
            ended = try_case(folder)
            record = {
                "number": number,
                "what": what,
                "ended": ended,
                "seconds": round(monotonic() - start, 3),
                "cpu_seconds": round(process_time() - busy, 3),
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
                "outside": watch.opened(),
            }
            print(json.dumps(record), flush=True)
            shutil.rmtree(folder)


# All of them ---------------------------------------------------------------------------------------------------------


def run_worker(base: Path, seed: int, numbers: range) -> list[dict[str, Any]]:
    """Cases in a process of their own; after a crash the rest goes on in another one."""
    found: list[dict[str, Any]] = []
    while numbers:
        command = [sys.executable, __file__, str(base), "--seed", str(seed), "--work"]
        command += [str(numbers.start), str(numbers.stop)]
        limit = 120 + 2 * MAX_SECONDS * len(numbers)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
            output, code = done.stdout, str(done.returncode)
        except subprocess.TimeoutExpired as error:
            output, code = (error.stdout or b"").decode(), "a hang"
        lines = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
        found += [line for line in lines if "number" in line]
        started = [line["start"] for line in lines if "start" in line]
        if code == "0":
            return found
        last = started[-1] if started else numbers.start
        found.append({"number": last, "ended": f"crashed: {code}", "what": "", "seconds": 0, "cpu_seconds": 0})
        numbers = range(last + 1, numbers.stop)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", type=int, help="one case, by its number")
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.bundle, given.seed, range(*given.work))
        return 0
    first, last = (0, given.cases) if given.only is None else (given.only, given.only + 1)
    parts = [range(start, min(start + BATCH, last)) for start in range(first, last, BATCH)]
    endings: Counter[str] = Counter()
    bad: list[dict[str, Any]] = []
    peak = 0
    with ThreadPoolExecutor(given.workers) as pool:
        for records in pool.map(lambda numbers: run_worker(given.bundle, given.seed, numbers), parts):
            endings.update(str(record["ended"]) for record in records)
            peak = max([peak, *(record.get("peak_mb", 0) for record in records)])
            bad += [record for record in records if _is_bad(record)]
            print(json.dumps({"cases": endings.total(), "bad": len(bad), "peak_mb": peak}), file=sys.stderr, flush=True)
    print(json.dumps({"cases": endings.total(), "ended": endings, "peak_mb": peak, "bad": bad}, indent=1))
    return 1 if bad else 0


def _is_bad(record: dict[str, Any]) -> bool:
    crashed = str(record["ended"]).startswith("crashed")
    slow = record["cpu_seconds"] > MAX_SECONDS
    return crashed or slow or record.get("outside", False) or record.get("peak_mb", 0) > MAX_MB


if __name__ == "__main__":
    sys.exit(main())
