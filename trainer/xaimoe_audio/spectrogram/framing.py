"""How long the frames of a spectrogram are, in samples."""

from __future__ import annotations

FACTOR = 32
"""All lengths are multiples of it: the rows that the DFT works on, of 8 to 32 samples for most frames, divide them."""
MIN_FRAME = 256
"""Samples of the shortest frame: 16 would not tell one band from the next."""


def frame_lengths(rate: float, frame_s: float, hop_s: float) -> tuple[int, int, int]:
    """``n_fft``, ``win_length`` and ``hop`` in samples, near the lengths in seconds.

    All are multiples of ``FACTOR``, the hop at most half a window, and the DFT as long as the window: zeros after it
    would cost time and tell nothing new.
    """
    win_length = max(MIN_FRAME, round(frame_s * rate / FACTOR) * FACTOR)
    hop = min(max(FACTOR, round(hop_s * rate / FACTOR) * FACTOR), win_length // 2 // FACTOR * FACTOR)
    return win_length, win_length, hop


def constant_q(fmin: float, fmax: float, bins: int) -> float:
    """Centre frequency over bandwidth of ``bins`` bands in constant ratio between two frequencies above 0 Hz."""
    return float(1 / ((fmax / fmin) ** (1 / bins) - 1))
