"""The glance: a cheap look at the whole spectrogram that says where to look closer, and already guesses the answer."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

from xaimoe_audio.model.descriptors import DESCRIPTORS, PatchDescriptors
from xaimoe_audio.model.layers import convolution, separable
from xaimoe_audio.spectrogram.attributes import ramp
from xaimoe_audio.spectrogram.frontend import SPECTROGRAM_LIMIT
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.schema import TaskKind

GLOBAL_CONTEXT = 16
"""Context values that describe the whole clip."""
LEARNED_CONTEXT = 4
"""Context values that the glance learns to say of one patch, after the measured descriptors."""
PATCH_CONTEXT = len(DESCRIPTORS) + LEARNED_CONTEXT
"""Context values of one patch."""
ROWS, COLUMNS = 8, 4
"""Least height of the coarse map, and least width that a tile has in it."""
CHANNELS = (12, 24, 64)
JUDGES = 32
"""Values between what a patch and its clip are like and the patch's saliency."""


class Glance(nn.Module):
    """``spectrogram`` [B, 1, F, T] -> ``saliency`` [B, P], ``context`` [B, C], ``prior_logits`` [B, L].

    It sees a coarse map of the spectrogram, some 16 bands by eight columns a tile: enough to find where something is
    and roughly what, at a hundredth of the cost of looking closely everywhere. A patch is judged beside what the whole
    clip is like: a burst in a recording of rain is not the rain. The saliency sums to 1. A patch that lies on the floor
    of the spectrogram has none, so that no expert is asked about silence; where all do, it is exactly uniform. The
    context holds ``GLOBAL_CONTEXT`` values for the clip, then ``PATCH_CONTEXT`` for each patch, its measured
    descriptors first, and last how unsure the prior is. Where the clip is recognised as plain background noise, for
    which no expert is needed, that is 0, too.
    """

    temperature: Tensor
    """Of the prior, fitted on the validation split."""
    background_weight: Tensor
    """[deep + 2 · descriptors], with the bias fitted after the training (``training.background``): of the logit of the
    clip's being more than background noise."""
    background_bias: Tensor

    def __init__(self, grid: PatchGrid, labels: int, task: TaskKind, detects_background: bool = False) -> None:
        super().__init__()
        self.task, self.detects_background = task, detects_background
        self.register_buffer("temperature", torch.ones(()))
        height = 2 * _coarse(gcd(grid.tile[0], grid.stride[0]) // 2, grid.rows // (2 * ROWS))
        width = 2 * _coarse(gcd(grid.tile[1], grid.stride[1]) // 2, grid.tile[1] // (2 * COLUMNS))
        first, second, deep = CHANNELS
        if detects_background:  # until it is fitted, nothing is background
            self.register_buffer("background_weight", torch.zeros(deep + 2 * len(DESCRIPTORS)))
            self.register_buffer("background_bias", torch.ones(()))
        pooled = height // 2, width // 2
        self.loudest = nn.Sequential(nn.AvgPool2d(pooled), nn.MaxPool2d(*_shrunk(grid, *pooled)))
        self.body = nn.Sequential(
            nn.AvgPool2d(pooled),
            convolution(1, first, stride=(2, 1)),
            separable(first, second, stride=(1, 2)),
            separable(second, deep),
            separable(deep, deep),
        )
        tile, stride = _shrunk(grid, height, width)
        self.mean, self.most = nn.AvgPool2d(tile, stride), nn.MaxPool2d(tile, stride)
        self.describe = PatchDescriptors(grid)
        self.patch_context = nn.Sequential(nn.Linear(deep, LEARNED_CONTEXT), nn.Tanh())
        self.global_context = nn.Sequential(nn.Linear(deep, GLOBAL_CONTEXT), nn.Tanh())
        self.saliency = nn.Sequential(nn.Linear(2 * deep, JUDGES), nn.ReLU(), nn.Linear(JUDGES, 1))
        self.prior = nn.Sequential(nn.Dropout(0.2), nn.Linear(deep, labels))

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        deep = self.body(spectrogram)
        summary = _summary(deep)
        patches = (self.mean(deep) + self.most(deep)).flatten(2).transpose(1, 2)  # [B, P, deep]
        beside = torch.cat([patches, summary[:, None].expand_as(patches)], dim=2)
        saliency = self._where_sound_is(self.saliency(beside).squeeze(-1), spectrogram)
        descriptors = self.describe(spectrogram)
        about_patches = torch.cat([descriptors, self.patch_context(patches)], dim=2)
        prior = self.prior(summary)
        unsure = self.unsure(prior)
        if self.detects_background:
            logit = _whole_clip(summary, descriptors) @ self.background_weight[:, None] + self.background_bias
            unsure = unsure * ramp(logit, 0.0, 1.0)
        context = torch.cat([self.global_context(summary), about_patches.flatten(1), unsure], dim=1)
        return saliency, context, prior

    def background_features(self, spectrogram: Tensor) -> Tensor:
        """Return what the detector of background noise weighs, [B, deep + 2 · descriptors]."""
        return _whole_clip(_summary(self.body(spectrogram)), self.describe(spectrogram))

    def _where_sound_is(self, judged: Tensor, spectrogram: Tensor) -> Tensor:
        """Saliency [B, P] by what the patches [B, P] were judged to be worth; a silent one among others has none."""
        # From just above the floor, so that rounding is not taken for sound.
        sounds = ramp(self.loudest(spectrogram).flatten(1), 0.01 - SPECTROGRAM_LIMIT, 1 - SPECTROGRAM_LIMIT)
        any_sounds = sounds.amax(1, keepdim=True)
        saliency = torch.softmax(judged * any_sounds, dim=1) * (sounds + 1 - any_sounds)
        return saliency / saliency.sum(1, keepdim=True)

    def unsure(self, prior_logits: Tensor) -> Tensor:
        """How unsure a prior [B, L] is, [B, 1]: 0…1 of it lies on other labels, or on the less likely half of the label
        that is the least clear."""
        logits = prior_logits / self.temperature
        if self.task == "single_label":
            return 1 - torch.softmax(logits, dim=1).amax(1, keepdim=True)
        return 2 * torch.sigmoid(-logits.abs()).amax(1, keepdim=True)


def _summary(deep: Tensor) -> Tensor:
    """Return the sum of mean and maximum of each channel of the last feature maps [B, C, H, W], [B, C]."""
    return deep.mean((2, 3)) + deep.amax((2, 3))


def _whole_clip(summary: Tensor, descriptors: Tensor) -> Tensor:
    """Return the summary [B, C] with mean and maximum over the patches of the descriptors [B, P, D], [B, C + 2 · D]."""
    return torch.cat([summary, descriptors.mean(1), descriptors.amax(1)], dim=1)


def _shrunk(grid: PatchGrid, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Tile and stride in a map whose cells are ``height`` by ``width`` of the spectrogram's."""
    (tile_f, tile_t), (stride_f, stride_t) = grid.tile, grid.stride
    return (tile_f // height, tile_t // width), (stride_f // height, stride_t // width)


def _coarse(size: int, most: int) -> int:
    """The largest divisor of ``size`` that is no larger than ``most``, and at least 1."""
    return next(cells for cells in range(max(min(most, size), 1), 0, -1) if size % cells == 0)
