"""The glance: a cheap look at the whole spectrogram that says where to look closer, and already guesses the answer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xaimoe_audio.model.layers import convolution, separable
from xaimoe_audio.spectrogram.attributes import ramp
from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT
from xaimoe_runtime.grid import PatchGrid

GLOBAL_CONTEXT = 16
"""Context values that describe the whole clip."""
PATCH_CONTEXT = 8
"""Context values that describe one patch."""


class Glance(nn.Module):
    """``spectrogram`` [B, 1, F, T] -> ``saliency`` [B, P], ``context`` [B, C], ``prior_logits`` [B, L],
    ``feature_map``.

    The saliency sums to 1; it is exactly uniform when the spectrogram lies on its floor everywhere. The context holds
    ``GLOBAL_CONTEXT`` values for the clip, then ``PATCH_CONTEXT`` for each patch. The feature map [B, C', F', T'] is
    where the experts' patches are cut from.
    """

    pooling: Tensor

    def __init__(self, grid: PatchGrid, channels: int, labels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolution(1, channels, stride=(2, 2)), separable(channels, channels))
        self.body = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True),
            separable(channels, 2 * channels, stride=(2, 2)),
            separable(2 * channels, 4 * channels, stride=(1, 1)),
        )
        deep = 4 * channels
        height, width = math.ceil(math.ceil(grid.rows / 2) / 2), math.ceil(math.ceil(grid.columns / 2) / 2)
        self.register_buffer("pooling", _overlap(grid, height, width), persistent=False)
        self.patch_context = nn.Sequential(nn.Linear(deep, PATCH_CONTEXT), nn.Tanh())
        self.global_context = nn.Sequential(nn.Linear(deep, GLOBAL_CONTEXT), nn.Tanh())
        self.saliency = nn.Linear(deep, 1)
        self.prior = nn.Sequential(nn.Dropout(0.2), nn.Linear(deep, labels))

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        feature_map = self.stem(spectrogram)
        deep = self.body(feature_map)
        patches = deep.flatten(2).transpose(1, 2)  # [B, cells, deep]
        patches = self.pooling @ patches  # [B, P, deep]
        summary = deep.mean((2, 3)) + deep.amax((2, 3))
        activity = ramp(spectrogram.amax((1, 2, 3)), -SPECTROGRAM_LIMIT, 1 - SPECTROGRAM_LIMIT)
        saliency = torch.softmax(self.saliency(patches).squeeze(-1) * activity[:, None], dim=1)
        context = torch.cat([self.global_context(summary), self.patch_context(patches).flatten(1)], dim=1)
        return saliency, context, self.prior(summary), feature_map


def _overlap(grid: PatchGrid, height: int, width: int) -> Tensor:
    """Share of each deep cell in each patch, [P, height * width]; rows sum to 1."""

    def axis(count: int, tile: int, stride: int, size: int, cells: int) -> Tensor:
        start = torch.arange(count)[:, None] * stride / size * cells
        stop = start + tile / size * cells
        left = torch.arange(cells)[None, :]
        return torch.clamp(torch.minimum(stop, left + 1.0) - torch.maximum(start, left.float()), min=0)

    n_freq, n_time = grid.shape
    freq = axis(n_freq, grid.tile[0], grid.stride[0], grid.rows, height)
    time = axis(n_time, grid.tile[1], grid.stride[1], grid.columns, width)
    both = torch.einsum("fh,tw->fthw", freq, time).reshape(grid.count, height * width)
    return both / both.sum(1, keepdim=True)
