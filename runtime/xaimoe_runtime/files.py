"""Classifying recordings: a path in, its records out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from xaimoe_runtime.audio import Window, parse_channel
from xaimoe_runtime.budget import check_budget
from xaimoe_runtime.choices import one_of
from xaimoe_runtime.drift import novelty
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.inference import Passage, check_routing, file_windows, hop_samples, make_trace, run_stream
from xaimoe_runtime.pooling import Pooling
from xaimoe_runtime.recording import Completeness
from xaimoe_runtime.records import ErrorRecord, Record, ResultRecord, SummaryRecord, TraceRecord, WindowRecord
from xaimoe_runtime.result import DecisionRules, Engine, Outputs, Result, Trace, decide
from xaimoe_runtime.schema import POOLS, Routing
from xaimoe_runtime.tally import Tally

Floats = NDArray[np.float32]
UNDECODABLE = re.compile("[\udc80-\udcff\ufffd]")
"""What :func:`printable` writes byte by byte."""


class FileOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How recordings are classified."""

    routing: str | None = None
    """The bundle's own if None."""
    channel: str = "mix"
    """``mix``, ``each`` or the number of a channel."""
    hop_s: float | None = None
    """Seconds from window to window; the model's own if None."""
    min_score: float = 0.0
    """Below it, ``unknown`` is answered."""
    max_novelty: float = 1.0
    """Above it, ``unknown`` is answered."""
    pool: str = "mean"
    """How the scores of windows become those of a recording: ``mean``, ``max``, ``top3`` or ``lse``."""
    windows: bool = False
    """Whether each window has a record, too."""
    budget_ms: float | None = None
    """Milliseconds that the engine allows each window."""
    batch_size: Annotated[int, Meta(ge=1)] = 1
    """Windows that are run at once. On a CPU a batch costs as much as its windows."""
    top_k: Annotated[int, Meta(ge=1)] | None = None
    """Labels with the best scores that a record has; all if None."""
    trace: bool = False
    """Whether the records of windows say how they came about."""


class Classified(msgspec.Struct, frozen=True):
    """What was made of one recording."""

    records: list[Record]
    tally: Tally
    state: tuple[int, int] = (0, 0)
    """Size and time of change of the file as it was before it was read."""


class FileClassifier:
    """Answers for files with one engine.

    Raises:
        ConfigError: an option makes no sense.
    """

    def __init__(self, engine: Engine, options: FileOptions | None = None, **more: Any) -> None:
        """``more`` are fields of ``options``."""
        try:
            options = msgspec.convert(msgspec.to_builtins(options or FileOptions()) | more, FileOptions)
        except msgspec.ValidationError as error:
            raise ConfigError(f"options: {error}") from error
        self.engine, self.options = engine, options
        self.routing: Routing = check_routing(options.routing or engine.routing)
        pool = one_of(POOLS, options.pool, "pool")
        self.rules = DecisionRules(options.min_score, options.max_novelty, pool)
        self.channel = parse_channel(options.channel)
        self.hop = hop_samples(options.hop_s, engine.audio)
        check_budget(options.budget_ms)
        self.with_windows = options.windows or options.trace

    def records(self, paths: Iterable[Path], advance: Callable[[], None] = lambda: None) -> Iterator[Record]:
        """Records of all files, an error record for a file that failed, then the summary; ``advance`` follows each."""
        total = Tally()
        for path in paths:
            found = self.classify(path)
            total.add(found.tally)
            yield from found.records
            advance()
        yield self.summary(total)

    def classify(self, path: Path) -> Classified:
        """The records of one file; a file that breaks in the middle gives its error and nothing else."""
        tally, state = Tally(files=1), state_of(path)
        try:
            return Classified(list(self._file(path, tally)), tally, state)
        except (AudioError, OSError) as error:  # OSError: a network share that went away, say
            return failed(path, str(error))
        except Exception as error:  # noqa: BLE001  one file of an archive does not end the run, whatever is wrong with it
            return failed(path, f"{type(error).__name__}: {error}")

    def summary(self, tally: Tally) -> SummaryRecord:
        """The figures of a run; files that failed count as errors alone."""
        return tally.summary(self.engine, self.routing, self.options.budget_ms, pool=self.rules.pool)

    def _file(self, path: Path, tally: Tally) -> Iterator[Record]:
        """Channel by channel, the records of the windows, then of the whole."""
        reading = file_windows(path, self.engine.audio, self.channel, self.hop)
        for passage in reading.passages():
            whole, familiar = Tally(), 0.0
            pooling = Pooling(len(self.engine.task.labels), self.rules.pool)
            start_s = end_s = 0.0
            for windows, outputs in run_stream(self.engine, passage.windows, self.routing, self.options.batch_size):
                ms = sum(outputs.ms.values()) / len(windows)
                pooling.add(outputs.scores, outputs.sounding, [window.start_s for window in windows])
                for i, window in enumerate(windows):
                    start_s = window.start_s if whole.windows == 0 else start_s
                    end_s = window.end_s
                    trace = make_trace(self.engine, outputs.row(i), self.routing)
                    familiar += float(trace.familiarity[0]) * bool(trace.sounding[0])
                    result = Result((), outputs.scores[i], trace, bool(outputs.degraded[i]), outputs.late)
                    whole.count(result, ms)
                    if self.with_windows:
                        yield self._window(path, passage.channel, window, outputs, i, trace)
            whole.audio_s = passage.covered_s
            record = self._whole(path, passage, pooling, whole, familiar, (start_s, end_s))
            yield msgspec.structs.replace(record, **length_fields(reading.completeness))
            tally.add(whole)
        tally.incomplete += reading.completeness is not None and not reading.completeness.complete

    def _whole(
        self, path: Path, passage: Passage, pooling: Pooling, whole: Tally, familiar: float, span: tuple[float, float]
    ) -> ResultRecord:
        """The record of a recording, or of one of its channels; adds to its figures what is known at its end."""
        whole.silent, whole.skipped_s = int(pooling.silent), passage.skipped_s
        whole.warned = bool(passage.warnings)
        novel = 0.0 if pooling.silent else novelty(pooling.scores, familiar / (whole.windows - whole.silent_windows))
        best = self._shown(pooling.max_scores)
        labels = self.engine.task.labels
        return ResultRecord(
            **self._answer(path, passage.channel, pooling.scores, novel, pooling.silent, self.rules),
            start_s=round(span[0], 6),
            end_s=round(span[1], 6),
            degraded=whole.degraded > 0,
            late=whole.late > 0,
            ms=round(whole.total_ms, 3),
            pairs=whole.pairs,
            left_out=whole.left_out,
            windows=whole.windows,
            silent_windows=whole.silent_windows,
            max_scores={labels[i]: round(float(pooling.max_scores[i]), 6) for i in best},
            max_at_s={labels[i]: round(float(pooling.max_at_s[i]), 6) for i in best},
            skipped_s=round(passage.skipped_s, 6),
            warnings=passage.warnings,
        )

    def _window(
        self, path: Path, channel: int | None, window: Window, outputs: Outputs, i: int, trace: Trace
    ) -> WindowRecord:
        left_out = int(np.count_nonzero(outputs.left_out[i]))
        scores, silent = outputs.scores[i], not trace.sounding.any()
        return WindowRecord(
            **self._answer(path, channel, scores, trace.novelty(scores), silent, self.rules.of_window()),
            start_s=round(window.start_s, 6),
            end_s=round(window.end_s, 6),
            degraded=left_out > 0,
            late=outputs.late,
            ms=round(sum(trace.ms.values()), 3),
            pairs=int(outputs.pairs[i]),
            left_out=left_out,
            drift=trace.drift[0],
            trace=TraceRecord.of(trace) if self.options.trace else msgspec.UNSET,
        )

    def _answer(
        self, path: Path, channel: int | None, scores: Floats, novel: float, silent: bool, rules: DecisionRules
    ) -> dict[str, Any]:
        """What all records say of scores [L]."""
        task = self.engine.task
        return {
            "path": printable(path),
            "labels": decide(scores, task, rules, novel),
            "scores": {task.labels[i]: round(float(scores[i]), 6) for i in self._shown(scores)},
            "novelty": round(novel, 6),
            "silent": silent,
            "channel": channel,
        }

    def _shown(self, scores: Floats) -> list[int]:
        """Numbers of the labels that a record has, of scores [L]: all, or the best ones, best first."""
        best: list[int] = np.argsort(-scores, kind="stable")[: self.options.top_k].tolist()
        return sorted(best) if self.options.top_k is None else best


def failed(path: Path, text: str) -> Classified:
    """What is said of a file that cannot be used."""
    message = text if text.startswith(str(path)) else f"{path}: {text}"
    record = ErrorRecord(path=printable(path), error=AudioError.__name__, message=printable(message))
    return Classified([record], Tally(files=1, errors=1))


def length_fields(completeness: Completeness | None) -> dict[str, Any]:
    """Return what a result record says about how much of the recording was decoded; nothing if all is as stated."""
    if completeness is None or (completeness.complete and not completeness.note):
        return {}
    missing_s, promised_s = completeness.missing_s, completeness.promised_s
    return {
        "complete": completeness.complete,
        "missing_s": None if missing_s is None else round(missing_s, 6),
        "decoded_s": round(completeness.decoded_s, 6),
        "promised_s": msgspec.UNSET if promised_s is None else round(promised_s, 6),
        "note": completeness.note,
    }


def state_of(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; zeros if it is not there."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a NUL byte
        return 0, 0
    return found.st_size, found.st_mtime_ns


def printable(text: str | Path) -> str:
    """Return a path or message as valid text; different paths stay different.

    Each byte of a file name that is not UTF-8 becomes U+FFFD followed by its two hexadecimal digits, and so does each
    byte of a U+FFFD that the name itself has. To get the bytes back, replace each such triple by its byte.
    """

    def escaped(match: re.Match[str]) -> str:
        return "".join(f"\ufffd{byte:02x}" for byte in match[0].encode("utf-8", "surrogateescape"))

    return UNDECODABLE.sub(escaped, os.fsencode(str(text)).decode("utf-8", "surrogateescape"))
