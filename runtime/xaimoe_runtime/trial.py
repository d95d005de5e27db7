"""Load a bundle for the first time in a child process under a memory cap.

The checks of a bundle's graphs bound what they take. This is the wall behind them: what ends a process, or takes more
memory than it may, ends the child. The result is kept in the cache folder by digest, so only the first load pays.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xaimoe_runtime.caching import cache_folder
from xaimoe_runtime.errors import BundleError, ConfigError, XaimoeError

if TYPE_CHECKING:
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.providers import SessionFactory
    from xaimoe_runtime.schema import GraphSpec

LOG = logging.getLogger("xaimoe_runtime")
MEMORY_MB = 1_024
"""That the child may take, beside ``MEMORY_PER_BYTE`` times the graphs' size."""
MEMORY_PER_BYTE = 6
TIMEOUT_S = 120.0
CODE = """
import json, sys
arguments = json.loads(sys.argv[1])
sys.path[:] = arguments["path"]
from xaimoe_runtime.trial import run_child
run_child(**arguments["child"])
"""
READY, PASSED, REFUSED = "ready", "passed", "refused"
"""Words of the child: it has started, the bundle can be used, it cannot."""
FIRST_AXIS = {"B": 1, "M": 8}
"""Sizes of a trial run."""

_passed: set[str] = set()
"""Keys of bundles that this process has tried."""


def open_and_try(path: str | Path, public_key: str | Path | None = None) -> Bundle:
    """Open a bundle, and try it first unless a key vouches for it.

    Args:
        path: of the folder.
        public_key: as :meth:`xaimoe_runtime.bundle.Bundle.open` takes it.

    Raises:
        BundleError: the bundle is refused.
        ConfigError: the key cannot be used.
    """
    from xaimoe_runtime.bundle import Bundle

    bundle = Bundle.open(path, public_key)
    if public_key is None:
        try_first(bundle)
    return bundle


def try_first(bundle: Bundle) -> None:
    """Load and run the graphs of a bundle in a child process, unless that was done before on this machine.

    Where no child can be started or capped (no Linux, no Python of its own, no processes left), or this process has
    operators of which a child would not know, nothing is done.

    Args:
        bundle: opened, and not signed by a key that the user has.

    Raises:
        BundleError: the child ran out of memory or time, was ended, or could not use the bundle.
    """
    key = _key(bundle)
    kept = _kept(key)
    if key in _passed or (kept is not None and kept.is_file()):
        return
    is_python = "python" in Path(sys.executable or "").name.lower()  # not a program that embeds it
    if sys.platform != "linux" or not is_python or getattr(sys, "frozen", False):
        return
    from xaimoe_runtime.onnx_safety.operators import ADDED

    if not all(isinstance(rule, str) for rule in ADDED.values()):
        return
    size = sum(map(len, bundle.files.values()))
    memory_mb = MEMORY_MB + MEMORY_PER_BYTE * size // 1_000_000
    try:
        lines, ended = _run(bundle, memory_mb)
    except OSError as error:
        LOG.debug("%s: not tried in a child process (%s)", bundle.path, error)
        return
    _judge(bundle.path, lines, ended, memory_mb)
    if PASSED in lines:
        _passed.add(key)
        _keep(kept)


def _key(bundle: Bundle) -> str:
    from importlib import metadata  # here, since it is slow to import

    from xaimoe_runtime import __version__

    found = [__version__, bundle.manifest.digest]
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(metadata.version(name))
        except metadata.PackageNotFoundError:
            continue
    return hashlib.sha256(" ".join(found).encode()).hexdigest()


def _kept(key: str) -> Path | None:
    """The file that says that a bundle passed; None if there is no cache folder."""
    try:
        return cache_folder("trials") / key
    except ConfigError:
        return None


def _keep(path: Path | None) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        LOG.debug("%s: the trial is not remembered (%s)", path, error)


def _run(bundle: Bundle, memory_mb: int) -> tuple[list[str], int | None]:
    """Lines that the child wrote, and its exit status; None if it took too long.

    It is started anew, not forked: nothing of this process' memory, threads or main module is in it, and a daemon of
    ``multiprocessing`` may start it, too.
    """
    import subprocess  # here, since it is slow to import

    from xaimoe_runtime.onnx_safety.operators import ADDED

    arguments = {
        "path": [path or str(Path.cwd()) for path in sys.path],
        "child": {
            "path": str(bundle.path.absolute()),
            "digest": bundle.manifest.digest,
            "memory_mb": memory_mb,
            "operators": dict(ADDED),
        },
    }
    command = [sys.executable, "-I", "-c", CODE, json.dumps(arguments)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace").splitlines(), None
    LOG.debug("%s: the trial's stderr: %s", bundle.path, done.stderr.decode(errors="replace")[-2000:])
    return done.stdout.decode(errors="replace").splitlines(), done.returncode


def _judge(bundle: Path, lines: list[str], ended: int | None, memory_mb: int) -> None:
    """Refuses a bundle that the child did not get through."""
    if PASSED in lines or READY not in lines:  # not started: that says nothing of the bundle
        return
    for line in lines:
        if line.startswith(f"{REFUSED} "):
            raise BundleError(json.loads(line.removeprefix(f"{REFUSED} ")))
    how = f"took more than {TIMEOUT_S:.0f} s" if ended is None else f"ended with status {ended}"
    raise BundleError(
        f"{bundle}: a first load in a child process {how}, expected it to end within {memory_mb} MB; do not "
        "use the bundle, or load it with the public key of whoever signed it"
    )


def run_child(path: str, digest: str, memory_mb: int, operators: dict[str, str]) -> None:
    """Load and run the graphs of a bundle, on the CPU: what the child does.

    Args:
        path: of the bundle.
        digest: that its manifest has.
        memory_mb: that the process may take from now on, in 10^6 bytes.
        operators: that the parent added to the table, with the ones that they are like.
    """
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.memory import cap_memory
    from xaimoe_runtime.onnx_safety.operators import register_operator
    from xaimoe_runtime.providers import SessionFactory

    try:
        factory = SessionFactory("cpu")
        cap_memory(memory_mb)
    except XaimoeError:
        return
    _be_first_to_go()
    for name, like in operators.items():
        register_operator(name, like)
    _say(READY)
    try:
        bundle = Bundle.open(path)
        if bundle.manifest.digest != digest:
            raise BundleError(f"{path}: altered while it was loaded; load it again")
        for spec in bundle.manifest.graphs:
            run_graph(factory, bundle, spec)
    except XaimoeError as error:
        _say(f"{REFUSED} {json.dumps(str(error))}")
    except (MemoryError, Exception) as error:  # noqa: BLE001  ONNX Runtime's exceptions share no base class
        message = f"{path}: a first load in a child process within {memory_mb} MB failed ({error}); do not use it"
        _say(f"{REFUSED} {json.dumps(message)}")
    else:
        _say(PASSED)


def run_graph(factory: SessionFactory, bundle: Bundle, spec: GraphSpec) -> None:
    """Make the session of a graph and run it once on zeros."""
    import numpy as np

    from xaimoe_runtime.dispatch import Graph

    audio, frontend = bundle.manifest.audio, bundle.manifest.frontend
    inputs = {}
    for tensor in spec.inputs:
        sizes = [size if isinstance(size, int) else FIRST_AXIS.get(size, 0) for size in tensor.shape]
        if tensor.name == "weights":
            sizes[1] = FIRST_AXIS["M"]
        if spec.role == "frames":
            sizes[1] = frontend.context_samples + frontend.frames * audio.frame_hop
        inputs[tensor.name] = np.zeros(sizes, np.float32)
    Graph(factory, bundle, spec)(**inputs)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _be_first_to_go() -> None:
    """Where memory runs out, the system ends this process rather than another one."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    except OSError:
        return
