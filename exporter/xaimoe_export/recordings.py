"""Real recordings that an export is measured on, and what it is measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.result import pool
from xaimoe_runtime.schema import TaskSpec

Floats = NDArray[np.float32]
BATCH = 16
"""Windows run at a time."""


@dataclass(frozen=True)
class Recordings:
    """Labelled recordings, cut into the N windows that the model hears."""

    waveform: Floats
    """[N, S] at the model's rate."""
    source: Floats
    """[N, 2], native rate in Hz and native clipping rate."""
    owners: NDArray[np.intp]
    """[N], which of the R recordings each window is from."""
    targets: Floats
    """[R, L], 1 for each class heard."""

    @property
    def sha256(self) -> str:
        """Of what they hold."""
        digest = hashlib.sha256()
        for part in (self.waveform, self.source, self.owners, self.targets):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()

    @staticmethod
    def unlabelled(waveform: Floats, source: Floats, labels: int) -> Recordings:
        """Windows [N, S] and their source [N, 2] that nobody said anything of; their accuracy is 0 for all models."""
        return Recordings(waveform, source, np.arange(len(waveform)), np.zeros((0, labels), np.float32))

    def scores(self, run: Callable[[Floats, Floats], Floats]) -> Floats:
        """Scores [N, L] of all windows, by ``run`` of (waveform, source) in batches."""
        starts = range(0, len(self.waveform), BATCH)
        return np.concatenate([run(self.waveform[i : i + BATCH], self.source[i : i + BATCH]) for i in starts])

    def accuracy(self, scores: Floats, task: TaskSpec) -> float:
        """Share of recordings recognised, or, of several labels, of right decisions, given scores [N, L] of windows."""
        if not len(self.targets):
            return 0.0
        pooled = np.stack([pool(scores[self.owners == i]) for i in range(len(self.targets))])
        if task.kind == "single_label":
            return float((pooled.argmax(1) == self.targets.argmax(1)).mean())
        return float(((pooled >= np.asarray(task.thresholds, np.float32)) == (self.targets > 0)).mean())
