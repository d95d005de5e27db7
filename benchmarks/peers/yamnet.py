"""YAMNet as it is used on small CPUs: INT8 in ONNX Runtime, with a frontend in numpy.

M. Plakal and D. Ellis, "YAMNet", 2020: log-mel at 16 kHz, 96 frames a patch, every 48 frames; 521 classes of AudioSet.
With a linear classifier on its mean scores it has 0.9625 on ESC-10's five folds (the figure of those who made the INT8
file that the benchmark takes).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Floats = NDArray[np.float32]
RATE = 16_000
WINDOW, HOP, FFT, BANDS = 400, 160, 512, 64
LOW_HZ, HIGH_HZ = 125.0, 7500.0
OFFSET = 0.001
PATCH, STEP = 96, 48
ACCURACY = 0.9625


def mel_filters() -> Floats:
    """Triangles of equal width in mel, [FFT / 2 + 1, BANDS]."""

    def mel(hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return np.asarray(1127 * np.log1p(np.asarray(hz) / 700))

    edges = np.linspace(mel(LOW_HZ), mel(HIGH_HZ), BANDS + 2)
    lines = mel(np.linspace(0, RATE / 2, FFT // 2 + 1))[:, None]
    rising = (lines - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - lines) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling))
    filters[0] = 0
    return filters.astype(np.float32)


class YAMNet:
    """``samples`` [n] at 16 kHz -> mean scores [521]."""

    def __init__(self, model: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.filters = mel_filters()
        self.window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)

    def patches(self, samples: Floats) -> Floats:
        """Log-mel patches, [P, 96, 64]."""
        frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP] * self.window
        bands = np.log(np.abs(np.fft.rfft(frames, FFT)).astype(np.float32) @ self.filters + np.float32(OFFSET))
        return np.lib.stride_tricks.sliding_window_view(bands, PATCH, axis=0)[::STEP].transpose(0, 2, 1)

    def network(self, patches: Floats) -> Floats:
        """Mean scores of patches, one a run, as its input asks for."""
        scores = [self.session.run(None, {self.input: np.ascontiguousarray(one[None])})[0][0] for one in patches]
        return np.asarray(np.mean(scores, axis=0))

    def __call__(self, samples: Floats) -> Floats:
        return self.network(self.patches(samples))
