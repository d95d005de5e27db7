"""Whether what is heard is like what the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.schema import AttributeSpec

Floats = NDArray[np.float32]

MARGIN = 1.0
"""Of the distance between the 5th and the 95th percentile of the training split: what is that far outside is drift:
of ESC-10, four fifths of which the model was trained on, 3 % of the windows; at half of it 9 %."""
LEAST_MARGIN = {"dB": 6.0, "dBFS": 6.0, "Hz": 200.0, "log10": 0.3, "1": 0.05}
"""By unit: where all of the training split is alike, drift begins only there."""


def drifted(attributes: Floats, usual: Sequence[AttributeSpec]) -> tuple[tuple[str, ...], ...]:
    """Names of the signal attributes of each window that lie outside what is usual.

    Args:
        attributes: [N, A].
        usual: how each of the A attributes is distributed over the training split; without, nothing is drift.
    """
    if not usual:
        return ((),) * len(attributes)
    low, high = (np.array(limits, np.float32) for limits in zip(*map(_limits, usual), strict=True))
    outside = (attributes < low) | (attributes > high)
    names = [item.name for item in usual]
    return tuple(tuple(name for name, out in zip(names, row, strict=True) if out) for row in outside.tolist())


def _limits(item: AttributeSpec) -> tuple[float, float]:
    margin = max(MARGIN * (item.q95 - item.q05), LEAST_MARGIN.get(item.unit, 0.0))
    return item.q05 - margin, item.q95 + margin
