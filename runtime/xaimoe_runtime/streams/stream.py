"""One channel of endless audio, answered window by window."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xaimoe_runtime.audio import Resampler, check_rate, check_samples, fill_clip, parse_channel, pick
from xaimoe_runtime.budget import Budget, check_budget
from xaimoe_runtime.clipping import ClippedSamples, native_position
from xaimoe_runtime.costs import check_percentile
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.inference import answer, check_routing, hop_samples
from xaimoe_runtime.result import DecisionRules, Outputs, WindowResult, mark_silence
from xaimoe_runtime.silence import PERIOD_S, ChannelMonitor, sounding_share
from xaimoe_runtime.streams.kept import Kept

if TYPE_CHECKING:
    from xaimoe_runtime.runtime import Runtime

Floats = NDArray[np.float32]

LOG = logging.getLogger("xaimoe_runtime")

GROUP = 16
"""Frames that are computed at once, or fewer when a window is full: one at a time costs twice as much."""
DIMENSIONS = (1, 2)
"""Of what is pushed: mono, or channels side by side."""
SLICE_S = 1.0
"""Seconds that are taken in before the windows that are full are answered."""


@dataclass(frozen=True)
class Waiting:
    """A window that is full, and not answered yet."""

    begin: int
    """Position of its first sample, at the model's rate."""
    arrived: float
    """When its last sample was taken in, on the clock of ``perf_counter``."""


class Stream:
    """Takes in samples of any length, and answers a window each ``hop``. All its state is in here; it is made for one
    thread, but many streams may share a runtime.

    Windows begin at the first sample and then every hop, as those of a file do, and get the same scores. Where the
    bundle's frontend allows it, overlapping windows share their frames, each of which is computed once.

    Args:
        runtime: that answers.
        sample_rate: of what is pushed, in Hz; the model's own if None. It is resampled as it comes.
        hop_s: seconds from window to window, rounded to whole frames; the bundle's default if None.
        routing: ``routed``, ``dense`` or ``glance``; the bundle's default if None.
        min_score: below it, ``unknown`` is answered.
        budget_ms: milliseconds for each window; pairs that do not fit are left out.
        percentile: of the graphs' costs to plan with.
        channel: ``mix`` or the number of a channel, from 0, of samples [n, channels].
        encoding: of what is pushed, by libsndfile's name, on which full scale (8 bit, µ-law, A-law) and silence depend;
            floating point if empty.
        max_novelty: above it, ``unknown`` is answered.
        dead_s: seconds over which the levels of channels are compared.

    Raises:
        AudioError: a sampling rate that no recorder has.
        ConfigError: an option makes no sense.
    """

    def __init__(
        self,
        runtime: Runtime,
        sample_rate: float | None = None,
        hop_s: float | None = None,
        routing: str | None = None,
        min_score: float = 0.0,
        budget_ms: float | None = None,
        percentile: str = "p95",
        channel: str | int = "mix",
        encoding: str = "",
        max_novelty: float = 1.0,
        dead_s: float = PERIOD_S,
    ) -> None:
        spec = runtime.audio
        self.runtime, self.encoding = runtime, encoding
        self.channel = parse_channel(str(channel))
        if self.channel == "each":
            raise ConfigError("channel: found each, expected mix or a number; open a stream for each channel")
        self.size, self.hop, self.rate = spec.clip_samples, hop_samples(hop_s, spec), spec.sample_rate
        native = spec.sample_rate if sample_rate is None else sample_rate
        check_rate(native, "sample_rate")
        self.native = float(native)
        self.routing = check_routing(routing or runtime.routing)
        self.rules = DecisionRules(min_score, max_novelty)
        self.budget_ms, self.percentile = check_budget(budget_ms), check_percentile(percentile)
        self.waiting: deque[Waiting] = deque()
        """Windows that are full and not answered yet, the oldest first."""
        self.dropped = 0
        """Windows that were given up."""
        self.answered = 0
        self.finished = False
        self._pushed = False
        self._ready: list[WindowResult] = []  # answered, and not given yet
        self._samples = Kept()
        self._next = 0  # position at which the next window begins
        self._heard = 0  # end of the last full window
        self._meter = ClippedSamples()
        self._monitor = ChannelMonitor(self.channel, self.native, dead_s, encoding)
        self.warnings: list[str] = []
        """What has become wrong with the channels; for the caller to take, where ``push`` does not log it."""
        shares = runtime.manifest.frontend.streamable and self.hop < self.size
        self._frames = Frames(runtime, self._samples) if shares else None
        self._resampler = None
        if self.native != self.rate:
            self._resampler = Resampler(self.native, self.rate, 1)

    @property
    def seconds(self) -> float:
        """Seconds that were taken in, after resampling."""
        return self._samples.end / self.rate

    @property
    def skipped_s(self) -> float:
        """Seconds so far that no window covers, since the hop is longer than a clip."""
        full = self._next // self.hop
        if self.hop <= self.size or not full:
            return 0.0
        end, last = self._samples.end, self._next
        if self.finished and self._next < end:
            last = max(end - self.size, self._heard)
        gap = min(end, last) - self._heard
        return ((full - 1) * (self.hop - self.size) + gap) / self.rate

    def push(self, samples: ArrayLike) -> list[WindowResult]:
        """Takes in samples [n] or [n, channels], floating point with full scale at 1, and answers the windows that they
        complete.

        Raises:
            AudioError: samples that are not finite, of the wrong shape or type: none is taken in. Or an answer of the
                model is not finite: that window is given up, and the others are given by the next call.
            ConfigError: the stream is finished.
        """
        signal, _ = check_samples(samples, DIMENSIONS)
        step = max(round(SLICE_S * self.native), 1)
        error: AudioError | None = None
        for start in range(0, len(signal), step):
            began = perf_counter()
            self.take(signal[start : start + step])
            error = self._answer_all(began) or error
        self._pushed = True
        self._log_warnings()
        return self._given(error)

    def take(self, samples: ArrayLike, arrived: float | None = None) -> None:
        """Takes in samples without answering; :meth:`answer` does, as long as windows are ``waiting``.

        Args:
            samples: as for :meth:`push`.
            arrived: when they came, on the clock of ``perf_counter``; now if None.

        Raises:
            AudioError: samples that are not finite, of the wrong shape or type; none is taken in.
            ConfigError: the stream is finished.
        """
        if self.finished:
            raise ConfigError("stream: found samples after its end, expected none; open another stream")
        signal, _ = check_samples(samples, DIMENSIONS)
        frames = signal.reshape(len(signal), -1)
        picked, full = pick(frames, self.channel, self.encoding, "samples")
        self._meter.add(full[:, 0])
        self.warnings += self._monitor.add(frames, picked)
        mono = picked[:, 0]
        if self._resampler is not None:
            mono = self._resampler.resample_chunk(np.ascontiguousarray(mono))
        self._append(mono, perf_counter() if arrived is None else arrived)

    def answer(self, began: float | None = None) -> WindowResult:
        """Answers the window that has waited longest.

        Args:
            began: when its budget began, on the clock of ``perf_counter``; when its last sample came if None.

        Raises:
            AudioError: the model's answer is not finite; it is withheld, and the window is given up.
            IndexError: no window is waiting.
        """
        window = self.waiting.popleft()
        budget = self._budget(window.arrived if began is None else began)
        source = self._source(window.begin, window.begin + self.size)
        samples = self._samples.between(window.begin, window.begin + self.size)
        sounding = sounding_share(samples, self.runtime.audio.frame_hop, self.encoding)
        run = self.runtime.dispatcher
        if self._frames is not None:
            frames, sums = self._frames.of(window.begin)
            outputs = run.run_frames(frames, sums, source, self.routing, budget, self._frames.take_ms())
        else:
            outputs = run.run(samples[None], source, self.routing, budget)
        self._forget()
        return self._answered(outputs, sounding, window.begin, window.begin + self.size)

    def drop(self, keep: int, before: float = float("inf")) -> int:
        """Gives up the oldest windows that wait; returns how many.

        Args:
            keep: of the newest.
            before: when they had arrived, on the clock of ``perf_counter``; later ones are kept.
        """
        oldest = list(self.waiting)[: max(len(self.waiting) - keep, 0)]
        surplus = sum(window.arrived < before for window in oldest)  # they rise
        for _ in range(surplus):
            self.waiting.popleft()
        self.dropped += surplus
        self._forget()
        return surplus

    def finish(self) -> list[WindowResult]:
        """Ends the stream: answers what waits, and then the last window, which ends with the last sample.

        A stream shorter than a window is repeated to fill one; one without any sample has no answer.

        Raises:
            AudioError: as for :meth:`push`.
        """
        if self.finished:
            return self._given(None)
        if self._resampler is not None:
            self._append(self._resampler.resample_chunk(np.empty(0, np.float32), last=True), perf_counter())
        self.finished = True
        self.warnings += self._monitor.finish()
        if self._pushed:
            self._log_warnings()
        error = self._answer_all(perf_counter())
        end = self._samples.end
        if self._heard < end and self._next < end:
            begin = max(end - self.size, 0)
            samples = fill_clip(self._samples.between(begin, end), self.size)
            budget = self._budget(perf_counter())
            outputs = self.runtime.dispatcher.run(samples[None], self._source(begin, end), self.routing, budget)
            try:
                sounding = sounding_share(samples, self.runtime.audio.frame_hop, self.encoding)
                self._ready.append(self._answered(outputs, sounding, begin, end))
            except AudioError as unusable:
                error = unusable
        return self._given(error)

    def _answer_all(self, began: float) -> AudioError | None:
        """Answers what waits, to be given with the next call; gives the error of a window that has no answer."""
        error = None
        while self.waiting:
            try:
                self._ready.append(self.answer(began))
            except AudioError as unusable:
                error = unusable
            began = perf_counter()
        return error

    def _log_warnings(self) -> None:
        while self.warnings:
            LOG.warning("stream: %s", self.warnings.pop(0))

    def _given(self, error: AudioError | None) -> list[WindowResult]:
        if error is not None:
            raise error
        found, self._ready = self._ready, []
        return found

    def _budget(self, began: float) -> Budget | None:
        """Of one window, from when it began."""
        if self.budget_ms is None:
            return None
        return Budget(began + self.budget_ms / 1e3, self.runtime.costs, self.percentile)

    def _append(self, samples: Floats, arrived: float) -> None:
        """Adds samples at the model's rate, and lets the windows wait that they complete."""
        self._samples.append(samples)
        while self._next + self.size <= self._samples.end:
            self.waiting.append(Waiting(self._next, arrived))
            self._heard = self._next + self.size
            self._next += self.hop
        if self._frames is not None:
            self._frames.follow(GROUP)
        self._forget()

    def _forget(self) -> None:
        """Lets go of what neither a window nor the end of the stream will ask for."""
        needed = self.waiting[0].begin if self.waiting else self._next
        last = self._samples.end - self.size
        self._meter.drop_before(native_position(min(needed, last), self.rate, self.native))
        if self._frames is not None:
            self._frames.forget(needed)
            last = min(last, self._frames.heard)
        self._samples.forget(min(needed, last))

    def _source(self, begin: int, end: int) -> Floats:
        """The graphs' ``source`` input for samples at the model's rate, [1, 2]."""
        start, stop = (native_position(edge, self.rate, self.native) for edge in (begin, end))
        return np.array([[self.native, self._meter.rate(start, stop)]], np.float32)

    def _answered(self, outputs: Outputs, sounding: float, begin: int, end: int) -> WindowResult:
        span = begin / self.rate, end / self.rate
        number = self.channel if isinstance(self.channel, int) else None
        try:
            outputs = mark_silence(outputs, np.array([sounding], np.float32))
            found = answer(self.runtime, outputs, self.routing, self.rules, span, number)
        except AudioError as error:
            raise AudioError(f"window from {span[0]:.2f} s: {error}") from error
        self.answered += 1
        return found


class Frames:
    """The frames of a stream, each computed once.

    Args:
        runtime: whose bundle has the frontend in two stages.
        samples: of the stream, at the model's rate.
    """

    def __init__(self, runtime: Runtime, samples: Kept) -> None:
        frontend, self.hop = runtime.manifest.frontend, runtime.audio.frame_hop
        self.count, self.seen, self.samples = frontend.frames, self.hop + frontend.context_samples, samples
        self.graph = runtime.dispatcher.frames
        sizes = {tensor.name: tensor.shape[1] for tensor in self.graph.spec.outputs}
        self.frames, self.sums = Kept(int(sizes["frames"])), Kept(int(sizes["frame_sums"]))
        self._ms = 0.0  # that frames took since a window was told of it

    @property
    def heard(self) -> int:
        """Position of the first sample that a frame still to come begins with."""
        return self.frames.end * self.hop

    def follow(self, least: int) -> None:
        """Computes frames of the samples that are there, as long as there are so many to compute."""
        while (ready := (self.samples.end - self.heard - self.seen) // self.hop + 1) >= least:
            size = min(ready, self.count)
            end = self.heard + self.seen + (size - 1) * self.hop
            start = perf_counter()
            found = self.graph(waveform=self.samples.between(self.heard, end)[None])
            self.frames.append(found["frames"][0])
            self.sums.append(found["frame_sums"][0])
            self._ms += (perf_counter() - start) * 1e3

    def take_ms(self) -> float:
        """Milliseconds that frames took since this was asked last."""
        taken, self._ms = self._ms, 0.0
        return taken

    def of(self, begin: int) -> tuple[Floats, Floats]:
        """Those of the window that begins at a sample: frames [1, F, T] and their sums."""
        first = begin // self.hop
        if self.frames.end < first + self.count:
            self.follow(1)
        frames, sums = (kept.between(first, first + self.count)[None] for kept in (self.frames, self.sums))
        return np.ascontiguousarray(frames), np.ascontiguousarray(sums)

    def forget(self, before: int) -> None:
        """No window that begins before this sample will be asked for."""
        self.frames.forget(before // self.hop)
        self.sums.forget(before // self.hop)
