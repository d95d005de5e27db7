"""Load a bundle for the first time in a child process under a memory cap.

The checks of a bundle's graphs bound what they take. This is the wall behind them: what ends a process, or takes more
memory than it may, ends the child. The result is kept in the cache folder by digest, so only the first load pays.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaimoe_runtime.caching import cache_folder
from xaimoe_runtime.errors import BundleError, ConfigError, XaimoeError

if TYPE_CHECKING:
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.providers import SessionFactory
    from xaimoe_runtime.schema import GraphSpec

LOG = logging.getLogger("xaimoe_runtime")
MEMORY_MB = 1_024
"""That the child may take, in addition to ``MEMORY_PER_BYTE`` times the graphs' size."""
MIN_MEMORY_MB = 128
"""The same where a control group leaves less: Python, ONNX Runtime and small graphs need half of it."""
MEMORY_PER_BYTE = 6
RESERVE_MB = 32
"""Of a control group's memory, left to this process."""
TIMEOUT_S = 120.0
CODE = """
import json, sys
arguments = json.loads(sys.argv[1])
sys.path[:] = arguments["path"]
from xaimoe_runtime.trial import run_child
run_child(**arguments["child"])
"""
READY, PASSED, REFUSED, UNABLE = "ready", "passed", "refused", "unable"
"""Words of the child: it has started, the bundle can be used, it cannot, the trial cannot be made."""
KILLED = 9
"""Number of SIGKILL, which the kernel sends where memory runs out."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Variables of the child: the stack of each thread counts against its cap, on a machine of 100 cores nearly a GB."""
FIRST_AXIS = {"B": 1, "M": 8}
"""Sizes of a trial run."""

_passed: set[str] = set()
"""Keys of bundles that this process has tried."""
_warned: set[str] = set()
"""Keys of bundles of which this process has warned that they could not be tried."""
_is_helper = False
"""Whether this process works for another one, which has warned."""


class _CannotTryError(Exception):
    """The trial cannot be made; the text says why."""


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

    Where no child can be started or capped (no Linux, no Python of its own, no processes or memory left), or this
    process has operators of which a child would not know, a warning says so, once in this process.

    Args:
        bundle: opened, and not signed by a key that the user has.

    Raises:
        BundleError: the child ran out of memory or time, was ended, or could not use the bundle.
    """
    key = _key(bundle)
    kept = _kept(key)
    if key in _passed or (kept is not None and kept.is_file()):
        return
    try:
        _check_possible()
        memory_mb = _memory_mb(sum(map(len, bundle.files.values())))
        lines, ended = _run(bundle, memory_mb)
        _judge(bundle.path, lines, ended, memory_mb)
    except _CannotTryError as error:
        _warn_once(key, bundle.path, str(error))
        return
    _passed.add(key)
    _keep(kept)


def leave_warnings_to_parent() -> None:
    """Say nothing in this process, which works for one that has opened the same bundle."""
    global _is_helper
    _is_helper = True


def _warn_once(key: str, path: Path, reason: str) -> None:
    if key in _warned or _is_helper:
        return
    _warned.add(key)
    LOG.warning(
        "%s: loaded without a trial in a child process, which could not be made: %s; load bundles only of whom you "
        "trust, or with the public key of whoever signed them",
        path,
        reason,
    )


def _check_possible() -> None:
    """Raises _CannotTryError where no child can be started that knows what this process knows."""
    from xaimoe_runtime.onnx_safety.operators import ADDED

    if sys.platform != "linux":
        raise _CannotTryError(f"memory cannot be capped on this system ({sys.platform})")
    is_python = "python" in Path(sys.executable or "").name.lower()  # not a program that embeds it
    if not is_python or getattr(sys, "frozen", False):
        raise _CannotTryError("this program has no Python interpreter of its own")
    own = sorted(name for name, rule in ADDED.items() if not isinstance(rule, str))
    if own:
        raise _CannotTryError(f"a child process would not know the operators that were added as functions ({own[0]})")


def _memory_mb(size: int) -> int:
    """Return the child's cap, in 10^6 bytes, for graphs of so many bytes: no more than a control group leaves, so that
    the kernel ends no process of it.

    Raises:
        _CannotTryError: a control group leaves too little.
    """
    from xaimoe_runtime.memory import cgroup_room

    graphs_mb, room = MEMORY_PER_BYTE * size // 1_000_000, cgroup_room()
    if room is None:
        return MEMORY_MB + graphs_mb
    room_mb = room // 1_000_000 - RESERVE_MB
    if room_mb < MIN_MEMORY_MB + graphs_mb:
        raise _CannotTryError(
            f"the control group (container, systemd's MemoryMax) leaves {max(room_mb, 0)} MB, expected "
            f"{MIN_MEMORY_MB + graphs_mb}"
        )
    return min(MEMORY_MB + graphs_mb, room_mb)


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

    Raises:
        _CannotTryError: no process can be started.
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
    how: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "timeout": TIMEOUT_S, "check": False}
    try:
        done = subprocess.run(command, env=os.environ | ONE_THREAD, **how)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace").splitlines(), None
    except OSError as error:
        raise _CannotTryError(f"no process can be started ({error.strerror or error})") from error
    LOG.debug("%s: the trial's stderr: %s", bundle.path, done.stderr.decode(errors="replace")[-2000:])
    return done.stdout.decode(errors="replace").splitlines(), done.returncode


def _judge(bundle: Path, lines: list[str], ended: int | None, memory_mb: int) -> None:
    """Refuses a bundle that the child did not get through.

    Raises:
        BundleError: the child could not use it, or ended on the way.
        _CannotTryError: the child ended before it opened the bundle.
    """
    if PASSED in lines:
        return
    said = {word: rest for word, _, rest in (line.partition(" ") for line in lines)}
    how = f"took more than {TIMEOUT_S:.0f} s" if ended is None else f"ended with status {ended}"
    if ended == -KILLED:
        how = "was killed, perhaps since the machine's memory ran out,"
    if READY not in said:
        reason = json.loads(said[UNABLE]) if UNABLE in said else f"the child process {how} before it opened the bundle"
        raise _CannotTryError(reason)
    if REFUSED in said:
        raise BundleError(json.loads(said[REFUSED]))
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
    except XaimoeError as error:
        _say(f"{UNABLE} {json.dumps(str(error))}")
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
