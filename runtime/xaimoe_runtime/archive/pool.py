"""Several processes that classify files, one file each at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from xaimoe_runtime.errors import BundleError, ConfigError, XaimoeError
from xaimoe_runtime.files import Classified, FileClassifier, failed
from xaimoe_runtime.trial import leave_warnings_to_parent

AHEAD = 2
"""Files that wait for each process."""

Make = Callable[[], FileClassifier]
"""Makes what classifies; each process calls it once. It is sent to other processes, so it and all it holds must be
picklable."""

_own: FileClassifier | XaimoeError | None = None


def classify_all(make: Make, paths: Iterable[Path], workers: int) -> Iterator[tuple[Path, Classified]]:
    """What is made of each file, in their order.

    A file that a process dies of (of want of memory, say) has an error, and the others are classified nevertheless.
    When the caller stops asking, the files being worked on are finished and no other is begun.

    Raises:
        XaimoeError: a process cannot make what classifies.
    """
    waiting = iter(paths)
    pool = _pool(make, workers)
    running: deque[tuple[Path, Future[Classified] | None]] = deque()
    try:
        while True:
            try:
                for path in islice(waiting, workers * AHEAD - len(running)):
                    running.append((path, None))  # a suspect, too, should the pool be broken already
                    running[-1] = path, pool.submit(_classify, path)
                if not running:
                    return
                path, future = running[0]
                assert future is not None
                found = future.result()
            except BrokenProcessPool:
                # Whose fault it was is not known: each is tried in a process of its own.
                pool.shutdown(cancel_futures=True)
                suspects = [path for path, _ in running]
                running.clear()
                for suspect in suspects:
                    yield suspect, _alone(make, suspect)
                pool = _pool(make, workers)
                continue
            running.popleft()
            yield path, found
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(make: Make, path: Path) -> Classified:
    """What is made of a file by a process that may die of it."""
    with _pool(make, 1) as pool:
        try:
            return pool.submit(_classify, path).result()
        except BrokenProcessPool:
            return failed(path, "the process that classified it died; it may want more memory than there is")


def _pool(make: Make, workers: int) -> ProcessPoolExecutor:
    # Not forked: ONNX Runtime has threads, which a fork would not have.
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(make,))
    except (OSError, ImportError) as error:  # its semaphores lie in shared memory
        raise ConfigError(
            f"workers: no processes can be started side by side ({error}), which share memory in /dev/shm; make "
            "/dev/shm writable, as with `docker run --shm-size 64m`, or use --workers 1"
        ) from error


def _begin(make: Make) -> None:
    """In each process: Ctrl-C is for the parent, which lets the files being worked on be finished. A process whose
    parent was killed ends, too."""
    global _own
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    leave_warnings_to_parent()
    try:
        _own = make()
    except XaimoeError as error:  # the parent is to know it, and not that a process died
        _own = error
    except Exception as error:  # noqa: BLE001  likewise
        _own = BundleError(f"a process that was to classify could not begin: {type(error).__name__}: {error}")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _classify(path: Path) -> Classified:
    if isinstance(_own, XaimoeError):
        raise _own
    assert _own is not None
    return _own.classify(path)
