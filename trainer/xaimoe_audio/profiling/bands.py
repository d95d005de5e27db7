"""The third-octave bands of acoustics, base ten (IEC 61260-1:2014), from 10 Hz to 100 kHz."""

from __future__ import annotations

import numpy as np

BAND_CENTRES = 10 ** (np.arange(10, 51) / 10)
"""Exact centre frequencies in Hz."""
BAND_EDGES = 10 ** ((np.arange(10, 52) - 0.5) / 10)
"""Edges in Hz, one more than there are bands."""
