"""Recordings in, clips of the model's rate out: decoding, channels, resampling, clipping and windows.

Files are read block by block, so a recording of any length takes the same memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xaimoe_runtime.clipping import ClippedSamples, native_position
from xaimoe_runtime.errors import AudioError, ConfigError
from xaimoe_runtime.recording import Recording
from xaimoe_runtime.recording import check_rate as check_rate
from xaimoe_runtime.schema import AudioSpec

if TYPE_CHECKING:
    from xaimoe_runtime.silence import ChannelLevels

Floats = NDArray[np.float32]

FULL_SCALE = 0.999
"""Magnitude from which a sample counts as clipped; 1 is full scale."""
CODED_FULL_SCALE = {"PCM_S8": 0.99, "PCM_U8": 0.99, "ULAW": 0.98, "ALAW": 0.984}
"""The same for encodings whose largest positive value lies clearly under 1, by libsndfile's name."""


@dataclass(frozen=True)
class Block:
    """Consecutive samples of one recording."""

    samples: Floats
    """[n, channels] at the wanted rate."""
    native_frames: int
    """Native frames the block was decoded from."""
    clipped: NDArray[np.bool_]
    """[native_frames, channels], whether each native sample is clipped."""


@dataclass(frozen=True)
class Window:
    """One clip's worth of a recording."""

    samples: Floats
    """[S] at the model's rate."""
    start_s: float
    end_s: float
    """Where the recorded samples end; less than a clip later when the recording was too short."""
    native_rate: float
    """Hz"""
    clipping_rate: float
    """Share of the native samples that were clipped."""
    encoding: str = ""
    """Of the native samples, by libsndfile's name; empty for floating point in memory."""

    @property
    def source(self) -> tuple[float, float]:
        """One row of the graphs' ``source`` input."""
        return self.native_rate, self.clipping_rate


def clipped(samples: ArrayLike, encoding: str = "") -> NDArray[np.bool_]:
    """Which native samples are at the full scale of their encoding. Resampling hides clipping: ask before it."""
    full: NDArray[np.bool_] = np.abs(np.asarray(samples)) >= CODED_FULL_SCALE.get(encoding, FULL_SCALE)
    return full


def parse_channel(text: str) -> int | str:
    """``mix``, ``each`` or the number of a channel, from 0."""
    if text in ("mix", "each"):
        return text
    if text.isdecimal():
        return int(text)
    raise ConfigError(f"channel: found {text!r}, expected mix, each or the number of a channel, from 0")


def select_channel(frames: Floats, channel: int | str, name: str) -> Floats:
    """The wanted channels of ``frames`` [n, channels]: [n, 1] for ``mix`` or a number, all of them for ``each``."""
    if channel == "each":
        return frames
    if channel == "mix":
        mixed: Floats = frames.mean(axis=1, keepdims=True, dtype=np.float32)
        return mixed
    number = int(channel)
    if number >= frames.shape[1]:
        raise AudioError(f"{name}: found {frames.shape[1]} channel(s), expected channel {number}; they count from 0")
    return frames[:, number : number + 1]


def pick(frames: Floats, channel: int | str, encoding: str, name: str) -> tuple[Floats, NDArray[np.bool_]]:
    """The wanted channels of native ``frames`` [n, channels], and whether each of their samples is clipped: of a
    mixture, where any of its channels is."""
    picked = select_channel(frames, channel, name)
    full = clipped(frames if channel == "mix" else picked, encoding)
    if channel == "mix":
        full = np.asarray(full.any(1, keepdims=True))
    return picked, full


def resample(samples: Floats, rate: float, wanted: float) -> Floats:
    """``samples`` [n] or [n, channels] from one rate in Hz to another."""
    if rate == wanted:
        return samples
    import soxr  # here, so that importing the package stays cheap

    offset = _constant_start(samples)
    resampled: Floats = soxr.resample(samples - offset if offset.any() else samples, rate, wanted)
    return resampled + offset if offset.any() else resampled


MIN_CONSTANT = 32
"""Equal samples at the start of a signal from which they are an offset: a recorder that gives nothing else, say."""


def _constant_start(samples: Floats) -> Floats:
    """Return the value [] or [channels] that a signal [n] or [n, channels] begins with, if it stays there; else 0."""
    start = samples[:MIN_CONSTANT]
    constant = (start == start[:1]).all(axis=0)
    return np.where(constant, samples[0], np.float32(0)) if len(start) else np.zeros(samples.shape[1:], np.float32)


class Resampler:
    """Resamples a signal as it comes.

    A resampler takes what lies before and after a signal for 0, so an offset begins and ends with a step, which would
    be the only sound of a recording that is constant. An offset that the signal begins with is therefore taken off
    before, and added after; other signals are resampled as they are.

    Args:
        rate: of the signal, in Hz.
        wanted: rate of what comes out, in Hz.
        channels: of the signal.
    """

    def __init__(self, rate: float, wanted: float, channels: int) -> None:
        import soxr  # here, so that importing the package stays cheap

        self._stream = soxr.ResampleStream(rate, wanted, channels, dtype="float32")
        self._start: Floats | None = None  # too few samples to see an offset
        self._offset: Floats | None = None

    def resample_chunk(self, samples: Floats, last: bool = False) -> Floats:
        """Return what the next samples [n] or [n, channels] complete."""
        if self._offset is None:
            samples = samples if self._start is None else np.concatenate([self._start, samples])
            if len(samples) < MIN_CONSTANT and not last:
                self._start = samples
                return samples[:0]
            self._offset, self._start = _constant_start(samples), None
        if not self._offset.any():
            resampled: Floats = self._stream.resample_chunk(samples, last=last)
            return resampled
        shifted: Floats = self._stream.resample_chunk(samples - self._offset, last=last) + self._offset
        return shifted


def check_finite(samples: Floats, name: str) -> float:
    """The largest magnitude of the samples.

    Raises:
        AudioError: a sample is NaN or infinite.
    """
    highest, lowest = float(samples.max(initial=0.0)), float(samples.min(initial=0.0))  # both NaN if any sample is
    if not math.isfinite(highest - lowest):
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        raise AudioError(f"{name}: found {bad} samples that are NaN or infinite, expected finite samples")
    return max(highest, -lowest)


def open_recording(path: Path) -> Recording:
    """Return the recording in a file that libsndfile reads.

    Raises:
        AudioError: the file is missing, not a file, not audio, empty, or of an impossible rate.
    """
    return Recording(path)


def read_blocks(
    source: Path | Recording, rate: float, channel: int | str = "mix", levels: ChannelLevels | None = None
) -> Iterator[Block]:
    """Decode a recording block by block to the end of its data, at ``rate`` Hz.

    What could not be decoded is stated by the ``completeness`` of a :class:`Recording`, after the last block.

    Args:
        source: the recording or its file.
        rate: of the blocks, in Hz.
        channel: ``mix``, ``each`` or the number of a channel, from 0.
        levels: measures the native samples, if given.

    Raises:
        AudioError: nothing can be decoded, or samples are not finite.
    """
    recording = source if isinstance(source, Recording) else Recording(source)
    native, name, stream = recording.samplerate, str(recording.path), None
    for frames in recording.blocks():
        picked, full = pick(frames, channel, recording.subtype, name)
        check_finite(picked, name)
        if levels is not None:
            levels.add(frames, picked)
        if native != rate:
            if stream is None:
                stream = Resampler(native, rate, picked.shape[1])
            resampled = stream.resample_chunk(np.ascontiguousarray(picked))
            picked = resampled.reshape(-1, picked.shape[1])
        picked = np.ascontiguousarray(picked)  # a channel alone, not with the others that it was decoded with
        yield Block(picked, len(frames), full)
    if stream is not None:
        last = stream.resample_chunk(np.empty((0, full.shape[1]), np.float32), last=True)
        yield Block(last.reshape(-1, full.shape[1]), 0, np.zeros((0, full.shape[1]), np.bool_))


def fill_clip(samples: Floats, length: int) -> Floats:
    """``samples`` [n], n <= length, repeated until they fill a clip [length].

    Repetition rather than silence: zeros would read as a noise floor of nothing and make any recording look clean.
    """
    return samples if len(samples) == length else np.resize(samples, length)


def windows(
    blocks: Iterable[Block],
    spec: AudioSpec,
    native_rate: float,
    channel: int = 0,
    hop: int | None = None,
    name: str = "samples",
    encoding: str = "",
) -> Iterator[Window]:
    """Cuts one channel of a recording into windows of a clip's length, every ``hop`` samples at the model's rate.

    The last window ends with the recording, so that nothing goes unheard; a recording shorter than a clip is
    repeated to fill it. A hop longer than a clip skips what lies between.
    """
    size, hop = spec.clip_samples, hop or spec.window_hop
    buffer = np.empty(0, np.float32)
    first = 0  # position of buffer[0]
    start = 0  # of the next window
    heard = 0  # end of the last window
    meter = ClippedSamples()
    rate = spec.sample_rate

    def window(begin: int) -> Window:
        samples = buffer[begin - first : begin - first + size]
        end = begin + len(samples)
        share = meter.rate(native_position(begin, rate, native_rate), native_position(end, rate, native_rate))
        return Window(fill_clip(samples, size), begin / rate, end / rate, native_rate, share, encoding)

    for block in blocks:
        heard_now = block.samples[:, channel]
        buffer = np.concatenate([buffer, heard_now]) if len(buffer) else heard_now
        meter.add(block.clipped[:, channel])
        # Strictly more than a window: the last one is left for the end, where the recording's length is known.
        while first + len(buffer) > start + size:
            yield window(start)
            heard = start + size
            start += hop
        keep = max(first, min(start, first + len(buffer) - size))
        meter.drop_before(native_position(keep, rate, native_rate))
        buffer, first = buffer[keep - first :], keep
    total = first + len(buffer)
    if total == 0:
        raise AudioError(
            f"{name}: found too few samples to resample from {native_rate:g} Hz, expected a longer recording"
        )
    if heard < total and start < total:
        yield window(max(0, min(start, total - size)))


def window_count(samples: int, spec: AudioSpec, hop: int | None = None) -> int:
    """How many windows :func:`windows` cuts of so many samples at the model's rate."""
    hop = hop or spec.window_hop
    return 1 + max(0, math.ceil((samples - max(spec.clip_samples, hop)) / hop))


def check_samples(samples: ArrayLike, dims: tuple[int, ...] = (1,)) -> tuple[Floats, float]:
    """Samples [n] in memory as float32, or [n, channels] where ``dims`` has 2; and their largest magnitude.

    Raises:
        AudioError: of another shape, empty, of integers, or not finite.
    """
    signal = np.asarray(samples)
    if signal.ndim not in dims or signal.size == 0:
        expected = "[n] with n >= 1 for each clip" if dims == (1,) else "[n] or [n, channels] with n >= 1"
        raise AudioError(f"samples: found shape {list(signal.shape)}, expected {expected}")
    if not np.issubdtype(signal.dtype, np.floating):
        raise AudioError(
            f"samples: found {signal.dtype}, expected floating point with full scale at 1.0; "
            "divide integer samples by their full scale (32768 for 16 bit)"
        )
    with np.errstate(over="ignore"):  # what overflows is reported as infinite below
        signal = signal.astype(np.float32, copy=False)
    return signal, check_finite(signal, "samples")


def array_block(samples: ArrayLike, rate: float, wanted: float) -> Block:
    """Samples [n] in memory as one block at the wanted rate.

    Raises:
        AudioError: not one-dimensional, empty, not finite, or at an impossible rate.
    """
    signal, peak = check_samples(samples)
    check_rate(rate, "sample_rate")
    full = np.zeros(len(signal), np.bool_) if peak < FULL_SCALE else clipped(signal)
    return Block(resample(signal, rate, wanted)[:, None], len(signal), full[:, None])
