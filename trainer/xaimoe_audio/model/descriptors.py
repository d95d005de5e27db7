"""What each patch is like, measured: the physical grounds on which the router tells the experts' sounds apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xaimoe_runtime.grid import PatchGrid

DESCRIPTORS = ("low", "middle", "high", "tonality", "transience")
"""Names of the values, in order."""
BANDS = 3
"""Equal parts of the spectrogram's height: low, middle and high."""
BAND_SCALE = 3.0
"""Brings differences between the bands, some tenths of a standard deviation, to about 1."""
USUAL_TONALITY, USUAL_TRANSIENCE = 0.2, 0.25
"""Between those of noises and of tones, and of steady sounds and of clicks: in ESC-10 the median of sea waves is 0.08
and 0.07, that of a chainsaw 0.27 and 0.07, that of a clock's ticks 0.21 and 0.67."""
LIMIT = 2.0
"""All descriptors are kept within ± this."""


class PatchDescriptors(nn.Module):
    """``spectrogram`` [B, 1, F, T] -> what each patch is like, [B, P, 5].

    * ``low``, ``middle``, ``high``: level of the patch in each third of the spectrogram over the patch's own level, in
      a third of a standard deviation of the training recordings; 0 for a third that the patch does not reach.
    * ``tonality``: how far a row's mean over time stands out of its two neighbours', the most in the patch; high for
      lines.
    * ``transience``: how much the level changes from frame to frame, the most in the patch; high for clicks.

    The last two as natural logarithms over what is usual.
    """

    bands: Tensor

    def __init__(self, grid: PatchGrid) -> None:
        super().__init__()
        self.grid = grid
        height, width = grid.tile
        down, right = grid.stride
        self.over_time = nn.AvgPool2d((1, width), (1, right))
        self.over_height = nn.AvgPool2d((height, 1), (down, 1))
        self.over_rows = nn.MaxPool2d((height - 2, 1), (down, 1))
        self.over_frames = nn.MaxPool2d((1, width - 1), (1, right))
        with torch.device("cpu"):  # the values are needed, also where the model is only declared (meta)
            band = torch.arange(grid.rows) * BANDS // grid.rows
            weights = torch.zeros(grid.shape[0], BANDS, grid.rows)
            for i in range(grid.shape[0]):
                rows = slice(i * down, i * down + height)
                for part in range(BANDS):
                    inside = (band[rows] == part).float()
                    if inside.any():
                        weights[i, part, rows] = BAND_SCALE * (inside / inside.sum() - 1 / height)
        self.register_buffer("bands", weights.flatten(0, 1), persistent=False)

    def forward(self, spectrogram: Tensor) -> Tensor:
        n_freq, n_time = self.grid.shape
        rows = self.over_time(spectrogram)  # [B, 1, F, n_time]
        bands = torch.clamp(self.bands @ rows.squeeze(1), -LIMIT, LIMIT)
        bands = bands.reshape(-1, n_freq, BANDS, n_time).permute(0, 1, 3, 2)
        lines = torch.abs(rows[:, :, 1:-1] - (rows[:, :, :-2] + rows[:, :, 2:]) / 2)
        tonality = _over(self.over_rows(lines), USUAL_TONALITY)  # [B, 1, n_freq, n_time]
        frames = self.over_height(spectrogram)  # [B, 1, n_freq, T]
        changes = torch.abs(frames[:, :, :, 1:] - frames[:, :, :, :-1])
        transience = _over(self.over_frames(changes), USUAL_TRANSIENCE)
        both = torch.cat([tonality, transience], dim=1).permute(0, 2, 3, 1)
        return torch.cat([bands, both], dim=3).flatten(1, 2)


def _over(value: Tensor, usual: float) -> Tensor:
    """Logarithm of a value over what is usual, within ± ``LIMIT``."""
    return torch.log(torch.clamp(value / usual, math.exp(-LIMIT), math.exp(LIMIT)))
