"""Classifying many recordings: paths in, JSON Lines records out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.audio import parse_channel
from xaimoe_runtime.budget import check_budget
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.inference import check_min_score, check_routing, file_windows, hop_samples, run_stream
from xaimoe_runtime.result import Engine, decide, pool
from xaimoe_runtime.schema import ErrorRecord, Record, ResultRecord, Routing, SummaryRecord, WindowRecord

Floats = NDArray[np.float32]

SUFFIXES = frozenset(
    """.aif .aifc .aiff .au .avr .caf .flac .htk .mat .mp3 .oga .ogg .opus .paf .pvf .rf64 .sd2 .sds .sf .snd .svx .voc
    .w64 .wav .wave .wavex .wve .xi""".split()
)
"""File endings that count as recordings when a folder is searched."""


def find_recordings(paths: Sequence[Path]) -> list[Path]:
    """Files as they are; of a folder all recordings under it, sorted.

    Raises:
        ConfigError: nothing was found at all.
    """
    found: list[Path] = []
    for path in paths:
        if _is_folder(path):
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            found.append(path)  # a missing file gets its own error record
    if not found:
        raise ConfigError(
            f"{', '.join(map(str, paths))}: found no recordings, expected files ending in {' '.join(sorted(SUFFIXES))}"
        )
    return found


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name too long, say; opening it as a file will tell
        return False


class FileClassifier:
    """Answers for files with one engine, and keeps the figures for the summary."""

    def __init__(
        self,
        engine: Engine,
        routing: str = "routed",
        channel: str = "mix",
        hop_s: float | None = None,
        min_score: float = 0.0,
        with_windows: bool = False,
        budget_ms: float | None = None,
    ) -> None:
        """``with_windows`` adds a record for each window; ``budget_ms`` is the one that the engine keeps; the other
        options are those of ``Runtime.infer_file``.

        Raises:
            ConfigError: an option makes no sense.
        """
        self.engine = engine
        self.routing: Routing = check_routing(routing)
        self.channel = parse_channel(channel)
        self.hop = hop_samples(hop_s, engine.audio)
        self.min_score = check_min_score(min_score)
        self.with_windows = with_windows
        self.files = self.errors = 0
        self.audio_s = 0.0
        self.ms: list[float] = []
        self.budget_ms = check_budget(budget_ms)
        self.pairs = self.left_out = self.degraded = self.late = 0

    def records(self, paths: Iterable[Path], advance: Callable[[], None] = lambda: None) -> Iterator[Record]:
        """Records of all files, an error record for a file that failed, then the summary; ``advance`` follows each."""
        for path in paths:
            self.files += 1
            try:
                # Collected first: a file that breaks in the middle gives its error and nothing else.
                found = list(self._file(path))
            except (AudioError, OSError) as error:  # OSError: a network share that went away, say
                self.errors += 1
                text = str(error)
                message = text if text.startswith(str(path)) else f"{path}: {text}"
                yield ErrorRecord(path=printable(path), error=AudioError.__name__, message=printable(message))
            else:
                self._count(found)
                yield from (record for record in found if self.with_windows or isinstance(record, ResultRecord))
            advance()
        yield self.summary()

    def summary(self) -> SummaryRecord:
        """The figures so far; files that failed count as errors alone."""
        p50, p95 = (float(p) for p in np.percentile(self.ms, [50, 95])) if self.ms else (0.0, 0.0)
        possible = len(self.ms) * self.engine.pairs_possible
        return SummaryRecord(
            source=self.engine.name,
            files=self.files,
            errors=self.errors,
            windows=len(self.ms),
            audio_s=round(self.audio_s, 6),
            provider=self.engine.provider,
            routing=self.routing,
            p50_ms=round(p50, 3),
            p95_ms=round(p95, 3),
            pair_share=round(self.pairs / possible, 6) if possible else 0.0,
            budget_ms=self.budget_ms,
            degraded=self.degraded,
            late=self.late,
            left_out_share=round(self.left_out / max(self.pairs + self.left_out, 1), 6),
        )

    def _count(self, records: list[WindowRecord]) -> None:
        for record in records:
            if isinstance(record, ResultRecord):
                self.audio_s += record.end_s - record.start_s
            else:
                self.ms.append(record.ms)
                self.pairs += record.pairs
                self.left_out += record.left_out
                self.degraded += record.degraded
                self.late += record.late

    def _file(self, path: Path) -> Iterator[WindowRecord]:
        """Channel by channel, the records of the windows, then of the whole."""
        numbered = file_windows(path, self.engine.audio, self.channel, self.hop)
        for number, group in groupby(numbered, key=lambda item: item[0]):
            heard: list[WindowRecord] = []
            scores: list[Floats] = []
            # One at a time: on a CPU a batch costs as much as its windows, and so each gets its own time.
            for (window,), outputs in run_stream(self.engine, (w for _, w in group), self.routing, batch=1):
                scores.append(outputs.scores)
                spent = _Spent(
                    ms=sum(outputs.ms.values()),
                    pairs=int(outputs.pairs[0]),
                    left_out=int(np.count_nonzero(outputs.left_out[0])),
                    late=outputs.late,
                )
                heard.append(self._record(path, number, outputs.scores[0], window.start_s, window.end_s, spent))
            yield from heard
            whole = self._record(
                path, number, pool(np.concatenate(scores)), heard[0].start_s, heard[-1].end_s, _Spent.on_all(heard)
            )
            yield ResultRecord(**msgspec.structs.asdict(whole), windows=len(heard))

    def _record(
        self, path: Path, channel: int | None, scores: Floats, start_s: float, end_s: float, spent: _Spent
    ) -> WindowRecord:
        task = self.engine.task
        return WindowRecord(
            path=printable(path),
            labels=decide(scores, task, self.min_score),
            scores={label: round(float(score), 6) for label, score in zip(task.labels, scores, strict=True)},
            start_s=round(start_s, 6),
            end_s=round(end_s, 6),
            degraded=spent.left_out > 0,
            late=spent.late,
            ms=round(spent.ms, 3),
            pairs=spent.pairs,
            left_out=spent.left_out,
            channel=channel,
        )


@dataclass(frozen=True)
class _Spent:
    """What an answer took."""

    ms: float
    pairs: int
    left_out: int
    late: bool

    @classmethod
    def on_all(cls, records: list[WindowRecord]) -> _Spent:
        """What all windows of a recording took."""
        return cls(
            ms=sum(record.ms for record in records),
            pairs=sum(record.pairs for record in records),
            left_out=sum(record.left_out for record in records),
            late=any(record.late for record in records),
        )


def printable(text: str | Path) -> str:
    """A path or message as valid text: bytes of a file name that are not UTF-8 become replacement characters."""
    return os.fsencode(str(text)).decode("utf-8", "replace")
