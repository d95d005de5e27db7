"""Classification of archives by a Ray cluster: the same rows as on one machine, by more of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any

import msgspec

from xaimoe_runtime.archive.run import Answers, OpenBundle
from xaimoe_runtime.errors import ConfigError, ProviderError, XaimoeError
from xaimoe_runtime.files import Classified, FileClassifier

FILES = 16
"""Files that a worker is given at once: so many are done again if it dies."""
Row = dict[str, Any]


def on_ray(workers: int, address: str | None = None) -> Callable[[FileClassifier, OpenBundle], Answers]:
    """So many workers of a Ray cluster answer, each with the bundle opened once.

    They must find the bundle and the recordings under the same paths. A worker that dies is replaced, and what it was
    at is done again.

    Args:
        workers: each takes one CPU of the cluster.
        address: of a cluster that runs; without, one of this machine's own is begun, and ended with the process.
    """
    return lambda _, make: lambda paths: classify_on_ray(make, paths, workers, address)


def classify_on_ray(
    make: Callable[[], FileClassifier], paths: Sequence[Path], workers: int, address: str | None = None
) -> Iterator[tuple[Path, Classified]]:
    """What is made of each file, in their order.

    Raises:
        ConfigError: there is no cluster at the address.
        ProviderError: Ray is missing.
        XaimoeError: a worker cannot make what classifies.
    """
    if not paths:
        return
    ray = _connect(workers, address)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False  # there is one already
    rows = [{"path": os.fsencode(path)} for path in paths]
    answers = ray.data.from_items(rows, override_num_blocks=ceil(len(rows) / FILES)).map(
        _Worker,
        fn_constructor_args=(make, str(Path.cwd())),
        concurrency=min(workers, ceil(len(rows) / FILES)),
        num_cpus=1,
    )
    for row in answers.iter_rows():
        if row["error"]:
            raise _error(row)
        yield Path(os.fsdecode(row["path"])), msgspec.msgpack.decode(row["answer"], type=Classified)


def _connect(workers: int, address: str | None) -> Any:
    """Ray, connected to a cluster."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ProviderError('Ray is missing; install it with pip install "xai-moe-audio[scale]"') from error
    if not ray.is_initialized():
        cpus = workers if address is None else None  # a cluster that runs has its own
        try:
            ray.init(address=address or "local", num_cpus=cpus, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(
                f"--address: found no Ray cluster at {address}: {error}; begin one with ray start"
            ) from error
    return ray


def _error(row: Row) -> XaimoeError:
    """The error of a worker that has no classifier."""
    kinds = {kind.__name__: kind for kind in XaimoeError.__subclasses__()}
    return kinds.get(row["error"], XaimoeError)(row["answer"].decode())


class _Worker:
    """Answers for one file after the other; where it cannot, with the reason why it has no classifier."""

    def __init__(self, make: Callable[[], FileClassifier], home: str) -> None:
        self.why: XaimoeError | None = None
        with suppress(OSError):  # else paths must be absolute
            os.chdir(home)
        try:
            self.classifier = make()
        except XaimoeError as error:  # Ray would begin it again and again
            self.why = error

    def __call__(self, row: Row) -> Row:
        if self.why is not None:
            return row | {"answer": str(self.why).encode(), "error": type(self.why).__name__}
        found = self.classifier.classify(Path(os.fsdecode(row["path"])))
        return row | {"answer": msgspec.msgpack.encode(found), "error": ""}
