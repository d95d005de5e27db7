"""From samples or a file to an answer, with any engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xaimoe_runtime import audio
from xaimoe_runtime.audio import Window
from xaimoe_runtime.choices import one_of
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.pooling import Pooling
from xaimoe_runtime.recording import Completeness, Recording
from xaimoe_runtime.result import (
    DEFAULT_RULES,
    DecisionRules,
    Engine,
    Outputs,
    Result,
    Trace,
    WindowResult,
    check_outputs,
    decide,
    mark_silence,
)
from xaimoe_runtime.schema import ROUTINGS, AudioSpec, Routing
from xaimoe_runtime.silence import ChannelLevels, level_warnings, sounding_share

Floats = NDArray[np.float32]

BATCH = 32
"""Windows run at a time; bounds the memory that long recordings take."""


MOST_CHANNELS = 64
"""An array with at most so many columns and more rows is taken for a multi-channel recording, not for a batch."""


def check_routing(routing: str) -> Routing:
    """``routing`` if it is one.

    Raises:
        ConfigError: it is not.
    """
    return one_of(ROUTINGS, routing, "routing")


def hop_samples(hop_s: float | None, spec: AudioSpec) -> int:
    """Seconds from window to window as samples, rounded to whole frames; None is the model's own hop."""
    if hop_s is None:
        return spec.window_hop
    if not 0 < hop_s < float("inf"):
        raise ConfigError(f"hop: found {hop_s:g} s, expected more than 0")
    return max(round(hop_s * spec.sample_rate / spec.frame_hop), 1) * spec.frame_hop


def skip_warning(hop: int, spec: AudioSpec) -> str:
    """Return a sentence if a hop in samples is longer than a clip, so that sound is skipped; else an empty one."""
    if hop <= spec.clip_samples:
        return ""
    hop_s, clip_s = hop / spec.sample_rate, spec.clip_samples / spec.sample_rate
    return (
        f"hop: found {hop_s:g} s, longer than the model's clip of {clip_s:g} s; {hop_s - clip_s:g} s after each window "
        "are skipped, and counted as skipped_s"
    )


def run_windows(engine: Engine, windows: list[Window], routing: Routing) -> Outputs:
    """The engine's outputs for a batch of windows, [N]; scores are finite, and 0 for windows that are silent.

    Raises:
        AudioError: the model's answer is not finite.
    """
    outputs = engine.run(*inputs_of(windows), routing)
    check_outputs(outputs)
    hop = engine.audio.frame_hop
    shares = [sounding_share(window.samples, hop, window.encoding) for window in windows]
    return mark_silence(outputs, np.array(shares, np.float32))


def inputs_of(windows: list[Window]) -> tuple[Floats, Floats]:
    """``waveform`` [N, S] and ``source`` [N, 2] of windows, as the graphs take them."""
    waveform = rows_of([window.samples for window in windows])
    return waveform, np.array([window.source for window in windows], np.float32)


def rows_of(signals: list[Floats]) -> Floats:
    """Signals [n] of one length as the rows of an array, [N, n]; not copied if they lie so in memory, as the clips of a
    batch do."""
    first, count = signals[0], len(signals)
    if count == 1:
        return first[None]
    root = _root(first)
    begin, step = _address(first), first.nbytes
    if all(
        _root(signal) is root and signal.flags.c_contiguous and _address(signal) == begin + i * step
        for i, signal in enumerate(signals)
    ):
        return np.lib.stride_tricks.as_strided(first, (count, len(first)), (step, first.itemsize))
    return np.stack(signals)


def _root(signal: Floats) -> object:
    """What owns the memory of an array."""
    owner: Any = signal
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return owner


def _address(signal: Floats) -> int:
    return int(signal.__array_interface__["data"][0])


def run_stream(
    engine: Engine, windows: Iterable[Window], routing: Routing, batch: int = BATCH
) -> Iterator[tuple[list[Window], Outputs]]:
    """Runs windows in batches, as they come."""
    source = iter(windows)
    while group := list(islice(source, batch)):
        yield group, run_windows(engine, group, routing)


def infer(
    engine: Engine,
    samples: ArrayLike,
    sample_rate: float | None,
    routing: str | None = None,
    rules: DecisionRules = DEFAULT_RULES,
) -> Result:
    """Answers for one recording [n] or for a batch [B, n], of any length at any rate.

    A recording shorter than the model's clip is repeated to fill it; a longer one is cut into windows whose scores
    are pooled. ``sample_rate`` None means the model's own.

    Raises:
        AudioError: samples that are empty, not finite, or of the wrong shape or type.
        ConfigError: no such routing.
    """
    chosen = check_routing(routing or engine.routing)
    recordings, batched, warnings = cut(engine.audio, samples, sample_rate)
    return infer_windows(engine, recordings, chosen, rules, batched, warnings)


def cut(
    spec: AudioSpec, samples: ArrayLike, sample_rate: float | None
) -> tuple[list[list[Window]], bool, tuple[str, ...]]:
    """One recording [n] or a batch [B, n] as the windows of each, whether it is a batch, and what is wrong with levels.

    Raises:
        AudioError: samples that are empty, not finite, or of the wrong shape or type.
    """
    rate = spec.sample_rate if sample_rate is None else sample_rate
    try:
        signal = np.asarray(samples)
    except ValueError as error:
        raise AudioError("samples: found rows of different lengths, expected [n] or [B, n]") from error
    if signal.ndim not in (1, 2) or signal.size == 0:
        raise AudioError(f"samples: found shape {list(signal.shape)}, expected [n] or [B, n] with n >= 1")
    if signal.ndim == 2 and signal.shape[1] <= MOST_CHANNELS < signal.shape[0]:
        raise AudioError(
            f"samples: found shape {list(signal.shape)}, which looks like [n, channels]; expected [n] or [B, n]; "
            "take the mean over the channels, or transpose to classify each"
        )
    recordings = [
        list(audio.windows([audio.array_block(clip, rate, spec.sample_rate)], spec, rate))
        for clip in np.atleast_2d(signal)
    ]
    if signal.ndim == 1:
        return recordings, False, level_warnings(signal)
    warnings = tuple(f"recording {i}: {text}" for i, clip in enumerate(signal) for text in level_warnings(clip))
    return recordings, True, warnings


def infer_windows(
    engine: Engine,
    recordings: list[list[Window]],
    routing: Routing,
    rules: DecisionRules = DEFAULT_RULES,
    batched: bool = False,
    warnings: tuple[str, ...] = (),
) -> Result:
    """Answers for recordings that are cut into windows already; ``batched`` keeps the batch axis of the result."""
    stream = run_stream(engine, (window for windows in recordings for window in windows), routing)
    outputs = Outputs.join([part for _, part in stream])
    ends = list(accumulate(len(windows) for windows in recordings))
    spans = [slice(end - len(windows), end) for end, windows in zip(ends, recordings, strict=True)]
    trace = make_trace(engine, outputs, routing)
    pooled = [Pooling(outputs.scores.shape[1], rules.pool) for _ in spans]
    for pooling, span, windows in zip(pooled, spans, recordings, strict=True):
        pooling.add(outputs.scores[span], outputs.sounding[span], [window.start_s for window in windows])
    scores, max_scores, max_at_s = (
        np.stack([getattr(pooling, name) for pooling in pooled]) for name in ("scores", "max_scores", "max_at_s")
    )
    labels = tuple(
        decide(row, engine.task, rules, trace.novelty(row, span) if rules.uses_novelty else 0.0)
        for row, span in zip(scores, spans, strict=True)
    )
    degraded = bool(outputs.left_out.any())
    if batched:
        return Result(
            labels,
            scores,
            trace,
            degraded,
            outputs.late,
            tuple(spans),
            classes=engine.task.labels,
            max_scores=max_scores,
            max_at_s=max_at_s,
            warnings=warnings,
        )
    return Result(
        labels[0],
        scores[0],
        trace,
        degraded,
        outputs.late,
        classes=engine.task.labels,
        max_scores=max_scores[0],
        max_at_s=max_at_s[0],
        warnings=warnings,
    )


def make_trace(engine: Engine, outputs: Outputs, routing: Routing) -> Trace:
    """The trace of a batch of windows."""
    return Trace(
        routing=routing,
        experts=engine.experts,
        attribute_names=engine.attribute_names,
        attributes=outputs.attributes,
        saliency=outputs.saliency,
        gates=outputs.gates,
        ms=outputs.ms,
        left_out=outputs.left_out,
        predicted_ms=outputs.predicted_ms,
        usual=engine.usual,
        sounding=outputs.sounding,
    )


def answer(
    engine: Engine,
    outputs: Outputs,
    routing: Routing,
    rules: DecisionRules,
    span: tuple[float, float],
    channel: int | None,
) -> WindowResult:
    """The answer for one window that spans two times in seconds.

    Raises:
        AudioError: the model's answer is not finite.
    """
    check_outputs(outputs)
    trace = make_trace(engine, outputs, routing)
    scores, degraded = outputs.scores[0], bool(outputs.left_out.any())
    labels = decide(scores, engine.task, rules.of_window(), trace.novelty(scores) if rules.uses_novelty else 0.0)
    result = Result(labels, scores, trace, degraded, outputs.late, classes=engine.task.labels)
    return WindowResult(*span, channel, result)


class FileWindows(Iterator[tuple[int | None, Window]]):
    """(channel number or None for a mixture, window) over a whole file; with ``each``, channel by channel.

    Args:
        path: the file.
        spec: of the model.
        channel: ``mix``, ``each`` or the number of a channel.
        hop: samples from window to window; the model's own if None.

    Raises:
        AudioError: on the way, when the file cannot be used.
    """

    def __init__(self, path: Path, spec: AudioSpec, channel: int | str = "mix", hop: int | None = None) -> None:
        self._path, self._spec, self._channel, self._hop = path, spec, channel, hop
        self._recording: Recording | None = None
        self._warnings: list[str] = []
        self._windows = ((passage.channel, window) for passage in self.passages() for window in passage.windows)

    @property
    def completeness(self) -> Completeness | None:
        """How much of the file was decoded; None before the end was reached."""
        return None if self._recording is None else self._recording.completeness

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the channels that were read, a sentence each."""
        return tuple(self._warnings)

    def __next__(self) -> tuple[int | None, Window]:
        return next(self._windows)

    def passages(self) -> Iterator[Passage]:
        """Yield the channels one after the other, instead of all their windows; to be taken once."""
        self._recording = recording = audio.open_recording(self._path)
        numbers: list[int | str] = list(range(recording.channels)) if self._channel == "each" else [self._channel]
        for number in numbers:
            levels = ChannelLevels(number, recording.subtype)
            blocks = audio.read_blocks(recording, self._spec.sample_rate, number, levels)
            windows = audio.windows(
                *(blocks, self._spec, recording.samplerate),
                hop=self._hop,
                name=str(self._path),
                encoding=recording.subtype,
            )
            passage = Passage(
                None if number == "mix" else int(number), windows, levels, recording.samplerate, self._spec
            )
            yield passage
            self._warnings += passage.warnings


def file_windows(path: Path, spec: AudioSpec, channel: int | str = "mix", hop: int | None = None) -> FileWindows:
    """Return the windows of a file, as :class:`FileWindows` describes them."""
    return FileWindows(path, spec, channel, hop)


class Passage:
    """One channel of a file, or the mix of all, on its way through the windows.

    Args:
        channel: its number; None for a mix.
        windows: of the channel.
        levels: that the reader fills.
        native_rate: of the file, in Hz.
        spec: of the model.
    """

    def __init__(
        self, channel: int | None, windows: Iterator[Window], levels: ChannelLevels, native_rate: int, spec: AudioSpec
    ) -> None:
        self.channel, self._windows, self._levels = channel, windows, levels
        self._native_rate, self._rounding_s = native_rate, 1.5 / spec.sample_rate
        self._end_s = self._gaps_s = 0.0

    @property
    def windows(self) -> Iterator[Window]:
        """The windows, to be taken once; the properties below are complete when all were."""
        for window in self._windows:
            self._gaps_s += max(window.start_s - self._end_s, 0.0)
            self._end_s = window.end_s
            yield window

    @property
    def covered_s(self) -> float:
        """Seconds that are in a window, or in several."""
        return self._end_s - self._gaps_s

    @property
    def skipped_s(self) -> float:
        """Seconds that no window covers, since the hop is longer than a clip."""
        after = self._levels.frames / self._native_rate - self._end_s
        return self._gaps_s + (after if after > self._rounding_s else 0.0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the channels, a sentence each."""
        return self._levels.warnings()
