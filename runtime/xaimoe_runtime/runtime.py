"""The device's front door."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xaimoe_runtime import calibration
from xaimoe_runtime.audio import parse_channel
from xaimoe_runtime.budget import Budget, DeadlineFor, WholeCall, check_budget, for_each
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.costs import Costs, Percentile, check_percentile
from xaimoe_runtime.dispatch import Dispatcher
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.inference import (
    FileWindows,
    answer,
    check_routing,
    cut,
    file_windows,
    hop_samples,
    infer_windows,
    run_windows,
    skip_warning,
)
from xaimoe_runtime.providers import SessionFactory
from xaimoe_runtime.recording import Completeness, warn_if_incomplete
from xaimoe_runtime.records import ErrorRecord, EventRecord
from xaimoe_runtime.result import DecisionRules, Engine, Outputs, Result, WindowResult
from xaimoe_runtime.schema import Manifest, Pool, Routing
from xaimoe_runtime.streams.listener import Listener, Listening
from xaimoe_runtime.streams.sources import FileSource, Source
from xaimoe_runtime.streams.stream import Stream
from xaimoe_runtime.trial import open_and_try

Floats = NDArray[np.float32]
LOG = logging.getLogger("xaimoe_runtime")


class Runtime:
    """A bundle, loaded and ready to answer. Make one with :meth:`load`."""

    def __init__(self, bundle: Bundle, factory: SessionFactory, precision: str = "auto") -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.factory = factory
        self.precision = manifest.precision(precision, factory.provider)
        wanted = factory.provider
        self.dispatcher = Dispatcher(bundle, factory, self.precision)
        if factory.provider != wanted:  # it fell back, which shows with the first session
            self.precision = manifest.precision(precision, factory.provider)
            self.dispatcher = Dispatcher(bundle, factory, self.precision)
        self.provider: str = factory.provider
        self.name = str(bundle.path)
        self.task = manifest.task
        self.audio = manifest.audio
        self.experts = tuple(expert.name for expert in manifest.experts)
        self.pairs_possible = manifest.patches.grid.count * len(self.experts)
        self.attribute_names = tuple(attribute.name for attribute in manifest.attributes)
        self.usual = manifest.attributes
        self.routing = manifest.routing

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        provider: str = "auto",
        threads: int = 1,
        precision: str = "auto",
        public_key: str | Path | None = None,
        provider_options: Mapping[str, object] | None = None,
    ) -> Runtime:
        """Opens a bundle, checks it and makes its sessions.

        A bundle that no ``public_key`` vouches for is loaded in a child process under a memory cap first, on Linux and
        once for each bundle and version.

        Args:
            bundle: the folder that the exporter wrote.
            provider: ``cpu``, ``cuda``, ``tensorrt`` or any other that ONNX Runtime offers; ``auto`` takes TensorRT if
                its engines were built, else CUDA where it is, else the CPU.
            threads: threads that one graph may use; experts always use one.
            precision: ``fp32``, ``int8`` or ``fp16``, of those that the bundle holds; ``auto`` takes what is meant for
                the provider.
            public_key: file with an Ed25519 public key in PEM; a bundle that its owner has not signed is refused.
            provider_options: of a provider that is named, by their names in ONNX Runtime, like ``device_id``.

        Raises:
            BundleError: the bundle is missing, incomplete, altered, unsigned or of a newer schema.
            ConfigError: the bundle has no such precision, there is no such provider, or the key cannot be used.
            ProviderError: the provider, ONNX Runtime itself, or an engine of TensorRT is missing.
        """
        opened = open_and_try(bundle, public_key)
        runtime = cls(opened, SessionFactory(provider, threads, provider_options, opened.manifest), precision)
        _ = runtime.costs  # known before the first budget runs
        return runtime

    @property
    def conditions(self) -> calibration.Conditions:
        """What a calibration must hold for, to be this runtime's."""
        return calibration.conditions(self.bundle, self.factory, self.precision)

    @cached_property
    def _calibration(self) -> tuple[calibration.Calibration | None, str]:
        return calibration.load(self.conditions, calibration.names_of(self.dispatcher))

    @property
    def uncalibrated(self) -> str:
        """Why the costs of the graphs are an estimate; empty if they were calibrated."""
        return self._calibration[1]

    @cached_property
    def costs(self) -> Costs:
        """What the graphs cost on this device: as calibrated, or else by a quick estimate."""
        found, _ = self._calibration
        if found is not None:
            ways = {way: found.costs.get(calibration.whole(way)) for way in self.dispatcher.ways}
            self.dispatcher.whole = {way: cost for way, cost in ways.items() if cost is not None}
            self.dispatcher.make_ready()
            return found.costs
        sizes, rounds = calibration.ESTIMATE_SIZES, calibration.ESTIMATE_ROUNDS
        return calibration.measure(self.dispatcher, self.bundle.golden, sizes, rounds)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the scores."""
        return self.task.labels

    def run(self, waveform: Floats, source: Floats, routing: Routing) -> Outputs:
        """``waveform`` [N, S] at the model's rate, ``source`` [N, 2] (native rate in Hz, clipping rate) -> outputs."""
        return Outputs.join([self.dispatcher.run(*part, routing) for part in self.batches(waveform, source)])

    def batches(self, waveform: Floats, source: Floats) -> list[tuple[Floats, Floats]]:
        """The windows [N, S] and sources [N, 2] in batches as large as they may be: TensorRT's engines hold up to the
        largest size of their profile, and would be built again for a larger one."""
        most = len(waveform) or 1
        if self.provider == "tensorrt":
            most = min(most, self.manifest.graph("frontend").profiles["B"].max)
        starts = range(0, max(len(waveform), 1), most)
        return [(waveform[start : start + most], source[start : start + most]) for start in starts]

    def within(self, deadline_for: DeadlineFor, percentile: Percentile = "p95") -> Budgeted:
        """This runtime as an engine whose every run has a deadline."""
        return Budgeted(self, deadline_for, percentile)

    def infer(
        self,
        samples: ArrayLike,
        sample_rate: float | None = None,
        routing: str | None = None,
        min_score: float = 0.0,
        budget_ms: float | None = None,
        percentile: str = "p95",
        max_novelty: float = 1.0,
        pool: Pool = "mean",
    ) -> Result:
        """Answers for one recording [n] or a batch [B, n], floating point with full scale at 1.

        A recording shorter than the model's clip is repeated to fill it; a longer one is cut into windows and their
        scores are pooled. Silent windows have no say, and silence has no class. The trace has one row a window.

        Args:
            samples: the recording or recordings.
            sample_rate: in Hz; the model's own if None.
            routing: ``routed``, ``dense`` or ``glance``; the bundle's default if None.
            min_score: below it, ``unknown`` is answered.
            budget_ms: milliseconds that the whole call may take, resampling included; pairs that do not fit are left
                out, and the result is ``degraded``. A budget under the floor gets the floor, and is ``late``.
            percentile: ``p50``, ``p95`` or ``p99`` of the graphs' costs to plan with.
            max_novelty: above it, ``unknown`` is answered.
            pool: how the scores of windows become those of a recording: ``mean``, ``max``, ``top3`` or ``lse``; see
                :class:`xaimoe_runtime.pooling.Pooling`.

        Raises:
            AudioError: samples that are empty, not finite, or of the wrong shape or type.
            ConfigError: no such routing, percentile or pool, or a limit or a budget out of range.
        """
        start = perf_counter()
        chosen = check_routing(routing or self.routing)
        rules = DecisionRules(min_score, max_novelty, pool)
        budget, known = check_budget(budget_ms), check_percentile(percentile)
        recordings, batched, warnings = cut(self.audio, samples, sample_rate)
        if budget is None:
            return infer_windows(self, recordings, chosen, rules, batched, warnings)
        end = start + budget / 1e3
        deadlines = WholeCall(end, sum(len(windows) for windows in recordings))
        result = infer_windows(self.within(deadlines, known), recordings, chosen, rules, batched, warnings)
        return replace(result, late=perf_counter() > end)

    def infer_file(
        self,
        path: str | Path,
        hop_s: float | None = None,
        routing: str | None = None,
        channel: str = "mix",
        min_score: float = 0.0,
        budget_ms: float | None = None,
        percentile: str = "p95",
        max_novelty: float = 1.0,
    ) -> FileResults:
        """Answers window by window over a file of any length, in bounded memory.

        The iterator's ``completeness`` says, once all windows were taken, how much of the file was decoded. If part of
        it is missing, since it was cut short, say, that is logged as a warning, too.

        Args:
            path: any file that libsndfile reads.
            hop_s: seconds from window to window, rounded to whole frames; the bundle's default if None.
            routing: as for :meth:`infer`.
            channel: ``mix``, ``each`` or the number of a channel.
            min_score: as for :meth:`infer`.
            budget_ms: milliseconds for each window, from samples at the model's rate to its scores; decoding and
                resampling, which go block by block, are excluded.
            percentile: as for :meth:`infer`.
            max_novelty: as for :meth:`infer`.

        Raises:
            ConfigError: at once, for no such routing or channel, or a hop that is not positive.
            AudioError: on the way, when the file turns out to be unusable.
        """
        chosen = check_routing(routing or self.routing)
        rules = DecisionRules(min_score, max_novelty)
        budget, known = check_budget(budget_ms), check_percentile(percentile)
        engine: Engine = self if budget is None else self.within(for_each(budget), known)
        hop = hop_samples(hop_s, self.audio)
        if skipped := skip_warning(hop, self.audio):
            LOG.warning("%s", skipped)
        windows = file_windows(Path(path), self.audio, parse_channel(channel), hop)
        return FileResults(path, windows, _answers(engine, windows, chosen, rules))

    def open_stream(
        self,
        sample_rate: float | None = None,
        hop_s: float | None = None,
        routing: str | None = None,
        min_score: float = 0.0,
        budget_ms: float | None = None,
        percentile: str = "p95",
        channel: str | int = "mix",
        max_novelty: float = 1.0,
    ) -> Stream:
        """A stream to push samples into: ``stream.push(samples)`` gives the windows that they complete.

        Args:
            sample_rate: of what will be pushed, in Hz; the model's own if None.
            hop_s: seconds from window to window, rounded to whole frames; the bundle's default if None.
            routing: as for :meth:`infer`.
            min_score: as for :meth:`infer`.
            budget_ms: milliseconds for each window.
            percentile: as for :meth:`infer`.
            channel: ``mix`` or the number of a channel, if samples [n, channels] are pushed.
            max_novelty: as for :meth:`infer`.

        Raises:
            AudioError: a sampling rate that no recorder has.
            ConfigError: an option makes no sense.
        """
        if skipped := skip_warning(hop_samples(hop_s, self.audio), self.audio):
            LOG.warning("%s", skipped)
        return Stream(
            self, sample_rate, hop_s, routing, min_score, budget_ms, percentile, channel, max_novelty=max_novelty
        )

    def stream(self, source: Source | str | Path, **options: Any) -> Iterator[EventRecord]:
        """Events of an endless source, as they come about; trouble is logged, and the stream goes on.

        :class:`xaimoe_runtime.Listener` gives windows, trouble and figures, too.

        Args:
            source: one of :mod:`xaimoe_runtime.streams.sources`, or a file.
            options: the fields of :class:`xaimoe_runtime.Listening`: ``hop_s``, ``budget_ms``, ``events`` …

        Raises:
            AudioError: the file cannot be used, or the source breaks.
            ConfigError: an option makes no sense.
        """
        opened = FileSource(source) if isinstance(source, str | Path) else source
        try:
            how = Listening(**options)
        except TypeError as error:
            known = ", ".join(field.name for field in fields(Listening))
            raise ConfigError(f"stream: {error}; the options are {known}") from error
        return _events(Listener(self, opened, replace(how, windows=False)))


class FileResults(Iterator[WindowResult]):
    """Answers for the windows of a file, one after the other.

    Args:
        path: of the file.
        windows: that are answered.
        answers: for them.
    """

    def __init__(self, path: str | Path, windows: FileWindows, answers: Iterator[WindowResult]) -> None:
        self.path, self._windows, self._answers, self._is_logged = path, windows, answers, False

    @property
    def completeness(self) -> Completeness | None:
        """How much of the file was decoded; None before the last window was taken."""
        return self._windows.completeness

    def __next__(self) -> WindowResult:
        try:
            return next(self._answers)
        except StopIteration:
            if not self._is_logged:
                warn_if_incomplete(self.path, self.completeness)
                for sentence in self._windows.warnings:
                    LOG.warning("%s: %s", self.path, sentence)
            self._is_logged = True
            raise


class Budgeted:
    """A runtime whose every run has a deadline: an engine for :mod:`xaimoe_runtime.inference`."""

    def __init__(self, runtime: Runtime, deadline_for: DeadlineFor, percentile: Percentile) -> None:
        self.runtime, self.deadline_for, self.percentile, self.costs = runtime, deadline_for, percentile, runtime.costs
        self.task, self.audio, self.provider, self.name = runtime.task, runtime.audio, runtime.provider, runtime.name
        self.experts, self.attribute_names, self.usual = runtime.experts, runtime.attribute_names, runtime.usual
        self.pairs_possible, self.routing = runtime.pairs_possible, runtime.routing

    def run(self, waveform: Floats, source: Floats, routing: Routing) -> Outputs:
        """``waveform`` [N, S] and ``source`` [N, 2] -> outputs; pairs that do not fit are left out."""
        parts = []
        for clips, sources in self.runtime.batches(waveform, source):
            budget = Budget(self.deadline_for(len(clips)), self.costs, self.percentile)
            parts.append(self.runtime.dispatcher.run(clips, sources, routing, budget))
        return Outputs.join(parts)


def _answers(engine: Engine, windows: FileWindows, routing: Routing, rules: DecisionRules) -> Iterator[WindowResult]:
    for number, window in windows:
        outputs = run_windows(engine, [window], routing)
        yield answer(engine, outputs, routing, rules, (window.start_s, window.end_s), number)


def _events(listener: Listener) -> Iterator[EventRecord]:
    for record in listener.records():
        if isinstance(record, EventRecord):
            yield record
        elif isinstance(record, ErrorRecord):
            LOG.warning("%s: %s", record.error, record.message)
