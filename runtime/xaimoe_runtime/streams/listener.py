"""Listening to a source for as long as it lasts: records of windows, events and trouble."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from xaimoe_runtime.audio import parse_channel
from xaimoe_runtime.errors import AudioError, BundleError, ConfigError
from xaimoe_runtime.files import printable
from xaimoe_runtime.inference import skip_warning
from xaimoe_runtime.records import ErrorRecord, EventRecord, Record, SummaryRecord, WindowRecord
from xaimoe_runtime.result import WindowResult
from xaimoe_runtime.schema import EventSettings
from xaimoe_runtime.silence import MAX_NAMED
from xaimoe_runtime.streams.events import Event, Events
from xaimoe_runtime.streams.gaps import SourceClock
from xaimoe_runtime.streams.reader import Block, End, Reader
from xaimoe_runtime.streams.sources import Missing, Source, Trouble
from xaimoe_runtime.streams.stream import Stream
from xaimoe_runtime.streams.throttle import Throttle
from xaimoe_runtime.tally import Tally

if TYPE_CHECKING:
    from xaimoe_runtime.runtime import Runtime

Floats = NDArray[np.float32]

LOG = logging.getLogger("xaimoe_runtime")

IDLE_S = 0.25
"""Seconds between two looks at a source from which nothing comes."""
TELL_S = 1.0
"""Seconds from one report of windows given up, of samples or of scores that are not finite, to the next."""
MAX_FILLED_S = 0.25
"""Longest gap that is filled with zeros; after a longer one windows and events begin anew."""
FAILURES = 10
"""Windows in succession that the graphs fail at, after which that is not taken for an accident any more."""
CHANNEL_TROUBLE = "ChannelTrouble"
"""Class of the error records about channels that are silent or cancel in a mix."""
Dead = Literal["", "silent", "missing"]
"""Whether nothing is heard: always the same value, or nothing at all."""


@dataclass(frozen=True, kw_only=True)
class Listening:
    """How to listen."""

    hop_s: float | None = None
    """Seconds from window to window; the bundle's default if None."""
    routing: str | None = None
    channel: str = "mix"
    """``mix``, ``each`` (every channel a stream of its own) or a number."""
    min_score: float = 0.0
    max_novelty: float = 1.0
    """Above it, ``unknown`` is answered, and the window counts for events as if its scores were 0."""
    budget_ms: float | None = None
    """Milliseconds for each window; of a live source, from the arrival of its last sample to the answer."""
    percentile: str = "p95"
    events: EventSettings | None = None
    """When a label counts as heard; as the bundle says if None."""
    backlog: int = 4
    """Windows of a live source that may wait, of each channel, and hops that any may wait; older ones are given up."""
    buffer_s: float = 10.0
    """Seconds of samples that may wait to be taken in."""
    dead_s: float = 10.0
    """Seconds without samples, or with one value alone, after which a live source is reported as dead."""
    summary_s: float | None = None
    """Seconds from summary to summary; only one at the end if None."""
    windows: bool = True
    """Whether windows have records, and not only events."""

    def __post_init__(self) -> None:
        for name in ("buffer_s", "dead_s", "summary_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"{name}: found {value:g}, expected seconds, more than 0")
        if self.backlog < 1:
            raise ConfigError(f"backlog: found {self.backlog}, expected 1 window or more")


class Listener:
    """Answers a source window by window, and never falls behind in silence.

    What a live source is given too little time for shows in this order: with a budget, pairs are left out; then the
    oldest windows that wait are given up, beyond ``backlog``; then samples are lost, beyond ``buffer_s``. Each is
    counted and reported.

    Args:
        runtime: that answers.
        source: is opened already; it is read in a thread from the first record on, and closed at the end.
        how: the options.
        alive: is called all the time, several times a second at least, for as long as the listener does its work.

    Raises:
        AudioError: the source has no such channel.
        ConfigError: an option makes no sense.
    """

    def __init__(
        self,
        runtime: Runtime,
        source: Source,
        how: Listening | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.runtime, self.source, self.how, self.alive = runtime, source, how or Listening(), alive
        channel = parse_channel(self.how.channel)
        self.channels = list(range(source.channels)) if channel == "each" else [channel]
        if isinstance(channel, int) and channel >= source.channels:
            raise AudioError(
                f"{source.name}: found {source.channels} channel(s), expected channel {channel}; they count from 0"
            )
        self.streams = self._open()
        if skipped := skip_warning(self.streams[0].hop, runtime.audio):
            LOG.warning("%s: %s", source.name, skipped)
        self.events = [Events(runtime.task, self.how.events or runtime.manifest.events) for _ in self.channels]
        self.tally = Tally(files=1)
        self.dead: Dead = ""
        self._skipped_s = 0.0  # in streams that are closed
        self._clock = SourceClock(source.rate, source.live)
        self._offset_s = 0.0  # position in the source at which the streams that are open begin
        self._repeated: dict[str, tuple[Throttle, str, str]] = {}  # by kind: with the error and the text
        self._still = np.zeros(0, np.int64)  # samples since each channel last changed
        self._last: Floats | None = None  # sample of each
        self._untold, self._overloaded = 0, -float("inf")  # windows given up, and when that was told
        self._came = self._told = perf_counter()
        self._failures = 0  # windows in succession that the graphs failed at
        self._broken: BundleError | None = None
        self._reader: Reader | None = None
        self._stopped = False

    def stop(self) -> None:
        """Makes the records end soon, with the last window and the summary; from another thread or a signal."""
        self._stopped = True
        self.source.close()

    def records(self) -> Iterator[Record]:
        """Records as they come about, with a summary at the end.

        Raises:
            AudioError: the source broke; all that was heard before has been answered.
            BundleError: the graphs fail at window after window.
        """
        self._reader = reader = Reader(self.source, self.how.buffer_s)
        self._came = self._told = perf_counter()
        end: End | None = None
        try:
            while end is None and not self._stopped and self._broken is None:
                # All that has come is taken in before a window is answered: it may be too late for that one.
                for item in reader.get(0.0 if self._waiting else IDLE_S):
                    if isinstance(item, End):
                        end = item
                    else:
                        yield from self._take(item)
                yield from self._give_up()
                yield from self._answer_next() if self.source.live else self._answer_all()
                yield from self._look()
            yield from self._end()
        finally:
            reader.close()
        yield self.summary()
        if self._broken is not None:
            raise self._broken
        if end is not None and end.error is not None:
            raise end.error

    def summary(self) -> SummaryRecord:
        """The figures so far. May be asked for by another thread."""
        skipped_s = self._skipped_s + self.streams[0].skipped_s
        self.tally.audio_s = max(self._clock.received_s - skipped_s, 0.0)
        self.tally.skipped_s = skipped_s
        return self.tally.summary(self.runtime, self.streams[0].routing, self.how.budget_ms, self._clock.lost_s)

    def _open(self) -> list[Stream]:
        how, source = self.how, self.source
        options = (source.rate, how.hop_s, how.routing, how.min_score, how.budget_ms, how.percentile)
        more = (source.encoding, how.max_novelty, how.dead_s)
        return [Stream(self.runtime, *options, channel, *more) for channel in self.channels]

    @property
    def _waiting(self) -> bool:
        return any(stream.waiting for stream in self.streams)

    def _take(self, item: Block | Trouble | Missing) -> Iterator[Record]:
        """Takes in what came next."""
        if isinstance(item, Trouble):
            yield self._trouble("SourceTrouble", item.message)
            if item.gap:
                yield from self._restart(item.lost / self.source.rate)
                if not item.lost:
                    self._clock.lose_track(perf_counter())
        elif isinstance(item, Missing):
            yield from self._fill(item.frames)
        else:
            yield from self._take_block(item)

    def _take_block(self, block: Block) -> Iterator[Record]:
        if self.source.live:
            yield from self._skip_pause(block.arrived, len(block.samples) / self.source.rate)
        self._came, samples = block.arrived, block.samples
        self._clock.receive(len(samples), block.arrived)
        if error := self._clock.take_rate_error():
            yield self._trouble("SourceRate", str(error))
        if not np.isfinite(samples).all():
            bad = int(np.count_nonzero(~np.isfinite(samples)))
            text = "found {count} samples that are NaN or infinite; taken for 0"
            yield from self._repeat("samples", AudioError.__name__, text, bad)
            samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        self._count_still(samples)
        yield from self._push(samples, block.arrived)

    def _push(self, samples: Floats, arrived: float) -> Iterator[Record]:
        for stream in self.streams:
            try:
                stream.take(samples, arrived)
            except Exception as error:  # noqa: BLE001  of the frames' graph, which a window's answer will ask again
                yield from self._repeat("frames", type(error).__name__, f"{error} ({{count}} time(s))")
            yield from self._channel_records(stream)

    def _channel_records(self, stream: Stream) -> Iterator[Record]:
        """What has become wrong with the channels of a mix."""
        while stream.warnings:
            yield self._trouble(CHANNEL_TROUBLE, stream.warnings.pop(0))

    def _fill(self, frames: int) -> Iterator[Record]:
        """Puts zeros where few frames are missing, so that windows go on; after many, windows begin anew."""
        seconds = frames / self.source.rate
        if seconds > MAX_FILLED_S:
            yield from self._restart(seconds)
            return
        self._clock.skip(seconds)
        if self.streams[0].seconds:
            yield from self._push(np.zeros((frames, self.source.channels), np.float32), perf_counter())
        else:  # windows begin with the first sample that came
            self._offset_s = self._clock.position_s

    def _skip_pause(self, arrived: float, seconds: float) -> Iterator[Record]:
        """After a pause samples are missing: times go on after them, windows and events begin anew."""
        paused = self._clock.skip_pause(arrived, seconds, self.dead == "missing")
        if paused or self.dead == "missing":
            if self.streams[0].seconds:  # else they begin anew already
                yield self._trouble("SourceTrouble", f"nothing came for {paused:.1f} s; windows begin anew")
                yield from self._restart()
            self._offset_s = self._clock.position_s
            self.dead = "" if self.dead == "missing" else self.dead

    def _count_still(self, samples: Floats) -> None:
        """Counts the samples since each channel that is listened to last changed: a dead one stays at one value."""
        heard = samples if self.channels == ["mix"] else samples[:, [int(channel) for channel in self.channels]]
        before = np.vstack([self._last if self._last is not None else heard[:1], heard])
        self._last = heard[-1:]
        moved = np.diff(before, axis=0) != 0
        still = self._still if self._still.size else np.zeros(heard.shape[1], np.int64)
        self._still = np.where(moved.any(0), np.argmax(moved[::-1], axis=0), still + len(samples))

    def _is_still(self, samples: float) -> bool:
        """Whether that many did not change: in all channels of a mixture, or in any of others."""
        return bool((self._still >= samples).all() if self.channels == ["mix"] else (self._still >= samples).any())

    def _still_channels(self, seconds: float) -> str:
        """Return which channels did not change for so long, for a message; nothing of a mix, where it is all."""
        if self.channels == ["mix"]:
            return ""
        numbers = [str(self.channels[i]) for i in np.flatnonzero(self._still >= seconds * self.source.rate)]
        more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
        return f" from channel {', '.join(numbers[:MAX_NAMED])}{more}"

    def _give_up(self) -> Iterator[Record]:
        """Lets go of the windows that a live source has no time for; tells of it once a second."""
        given_up = 0
        if self.source.live:
            patience_s = self.how.backlog * self.streams[0].hop / self.streams[0].rate
            before = perf_counter() - patience_s
            given_up = sum(stream.drop(self.how.backlog, before) for stream in self.streams)
        self.tally.dropped += given_up
        self._untold += given_up
        if self._untold and perf_counter() - self._overloaded >= TELL_S:
            what = f"{self._untold} window(s) were given up; the answers before took too long"
            self._untold, self._overloaded = 0, perf_counter()
            yield self._trouble("Overload", what)

    def _answer_all(self) -> Iterator[Record]:
        while self._waiting:
            yield from self._answer_next()
            self.alive()

    def _answer_next(self) -> Iterator[Record]:
        """Answers the window that has waited longest, if there is one."""
        waiting = [i for i, stream in enumerate(self.streams) if stream.waiting]
        if not waiting:
            return
        i = min(waiting, key=lambda i: self.streams[i].waiting[0].arrived)
        arrived = self.streams[i].waiting[0].arrived
        try:
            window = self.streams[i].answer(arrived if self.source.live else perf_counter())
        except AudioError as error:
            yield from self._repeat("scores", AudioError.__name__, f"{error} ({{count}} window(s))")
        except Exception as error:  # noqa: BLE001  ONNX Runtime's share no base class
            yield self._failed(error)
        else:
            yield from self._tell(i, window, arrived)

    def _failed(self, error: Exception) -> Record:
        """The record of a window that the graphs failed at."""
        self._failures += 1
        what = f"{type(error).__name__}: {error}"
        if self._failures == FAILURES:
            self._broken = BundleError(
                f"{self.source.name}: the graphs failed at {FAILURES} windows in succession, last with {what}; verify "
                "the bundle, and see that there is memory enough"
            )
        return self._trouble(type(error).__name__, what)

    def _tell(self, i: int, window: WindowResult, arrived: float) -> Iterator[Record]:
        """The records that an answer of the ``i``-th stream brings."""
        self._failures = 0
        begin, end = window.start_s + self._offset_s, window.end_s + self._offset_s
        lost_s = self._clock.lost_between(begin, end)
        window = replace(window, start_s=self._clock.time_of(begin), end_s=self._clock.time_of(end))
        self.tally.count(window.result, sum(window.result.trace.ms.values()))
        if self.how.windows:
            yield self._window_record(window, perf_counter() - arrived, lost_s)
        result, novelty = window.result, float(window.result.novelty)
        scores = result.scores if novelty <= self.how.max_novelty else np.zeros_like(result.scores)
        events = self.events[i].follow(window.start_s, window.end_s, scores, novelty, result.trace.drift[0])
        yield from self._event_records(i, events)

    def _window_record(self, window: WindowResult, latency_s: float, lost_s: float) -> WindowRecord:
        result, trace = window.result, window.result.trace
        return WindowRecord(
            source=printable(self.source.name),
            labels=result.labels,  # type: ignore[arg-type]  # of one window
            scores={label: round(float(s), 6) for label, s in zip(self.runtime.labels, result.scores, strict=True)},
            novelty=round(float(result.novelty), 6),
            start_s=round(window.start_s, 6),
            end_s=round(window.end_s, 6),
            degraded=result.degraded,
            late=result.late,
            silent=bool(result.silent),
            ms=round(sum(trace.ms.values()), 3),
            pairs=int(trace.pairs[0]),
            left_out=int(np.count_nonzero(trace.left_out)),
            channel=window.channel,
            time=self._time(latency_s),
            drift=trace.drift[0],
            latency_ms=round(latency_s * 1e3, 3) if self.source.live else UNSET,
            lost_s=round(lost_s, 6) if self.source.live else UNSET,
        )

    def _event_records(self, i: int, events: Iterable[Event]) -> Iterator[EventRecord]:
        channel = self.channels[i]
        for event in events:
            self.tally.events += event.state == "onset"
            yield EventRecord(
                source=printable(self.source.name),
                label=event.label,
                state=event.state,
                start_s=round(event.start_s, 6),
                end_s=round(event.end_s, 6),
                peak=round(min(event.peak, 1.0), 6),
                novelty=round(event.novelty, 6),
                drift=event.drift,
                channel=channel if isinstance(channel, int) else None,
                time=self._time(),
            )

    def _restart(self, missing_s: float = 0.0) -> Iterator[Record]:
        """Samples are missing here: what was heard before is answered to its end; no window spans the gap, no event."""
        yield from self._give_up()
        yield from self._finish()
        self._skipped_s += self.streams[0].skipped_s
        self._clock.skip(missing_s)
        self._offset_s, self.streams = self._clock.position_s, self._open()
        self._last = None

    def _end(self) -> Iterator[Record]:
        """Answers what waits and the last window, and ends all events."""
        yield from self._finish()
        self._overloaded = -float("inf")
        yield from self._give_up()  # tells what was not told yet
        yield from self._report_repeated(is_last=True)

    def _finish(self) -> Iterator[Record]:
        yield from self._answer_all()
        for i, stream in enumerate(self.streams):
            arrived = perf_counter()
            try:
                for window in stream.finish():
                    yield from self._tell(i, window, arrived)
            except AudioError as error:
                yield from self._repeat("scores", AudioError.__name__, f"{error} ({{count}} window(s))")
            except Exception as error:  # noqa: BLE001  as above
                yield self._failed(error)
            yield from self._channel_records(stream)
            yield from self._event_records(i, self.events[i].finish())

    def _repeat(self, kind: str, error: str, text: str, count: int = 1) -> Iterator[Record]:
        """Reports what may happen again and again: once a second, with ``{count}`` in the text replaced."""
        throttle, *_ = self._repeated.get(kind, (Throttle(TELL_S),))
        throttle.add(count)
        self._repeated[kind] = throttle, error, text
        yield from self._report_repeated()

    def _report_repeated(self, is_last: bool = False) -> Iterator[Record]:
        now = perf_counter()
        for throttle, error, text in self._repeated.values():
            if count := throttle.flush(now) if is_last else throttle.due(now):
                yield self._trouble(error, text.replace("{count}", str(count)))

    def _look(self) -> Iterator[Record]:
        """Whether the source is dead, and whether a summary is due."""
        self.alive()
        yield from self._report_repeated()
        now, limit = perf_counter(), self.how.dead_s
        state: Dead = ""
        if self.source.live and now - self._came >= limit:
            state = "missing"
        elif self.source.live and self._still.size and self._is_still(limit * self.source.rate):
            state = "silent"
        before, self.dead = self.dead, state
        if state and state != before:
            what = "nothing came" if state == "missing" else f"only one value came{self._still_channels(limit)}"
            yield self._trouble("DeadSource", f"{what} for {limit:g} s; check the recorder")
            if state == "missing":
                yield from self._restart()
        if self.how.summary_s is not None and now - self._told >= self.how.summary_s:
            self._told = now
            yield self.summary()

    def _trouble(self, error: str, message: str) -> ErrorRecord:
        self.tally.errors += 1
        text = message if message.startswith(self.source.name) else f"{self.source.name}: {message}"
        return ErrorRecord(source=printable(self.source.name), error=error, message=printable(text), time=self._time())

    def _time(self, ago_s: float = 0.0) -> str | UnsetType:
        """The time of day so long ago, of a live source."""
        if not self.source.live:
            return UNSET
        return datetime.fromtimestamp(time.time() - ago_s, UTC).isoformat(timespec="milliseconds")
