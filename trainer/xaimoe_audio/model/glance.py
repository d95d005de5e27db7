"""The glance: a cheap look at the whole spectrogram that says where to look closer, and already guesses the answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xaimoe_audio.config import GlanceKind
from xaimoe_audio.model.descriptors import DESCRIPTORS, PatchDescriptors
from xaimoe_audio.model.eyes import EYES
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
JUDGES = 32
"""Values between what a patch and its clip are like and the patch's saliency."""


class Glance(nn.Module):
    """``spectrogram`` [B, 1, F, T] -> ``saliency`` [B, P], ``context`` [B, C], ``prior_logits`` [B, L].

    It sees the whole spectrogram at once: averaged into a coarse map, at a hundredth of the cost of looking closely
    everywhere, or as it is, at a twenty-fifth (:mod:`xaimoe_audio.model.eyes`). A patch is judged beside what the whole
    clip is like: a burst in a recording of rain is not the rain. The saliency sums to 1; it is exactly uniform when the
    spectrogram lies on its floor everywhere. The context holds ``GLOBAL_CONTEXT`` values for the clip, then
    ``PATCH_CONTEXT`` for each patch, its measured descriptors first, and last how unsure the prior is.
    """

    temperature: Tensor
    """Of the prior, fitted on the validation split."""

    def __init__(self, grid: PatchGrid, labels: int, task: TaskKind, kind: GlanceKind = "coarse") -> None:
        super().__init__()
        self.task = task
        self.register_buffer("temperature", torch.ones(()))
        self.eye = EYES[kind](grid)
        (height, width), deep = self.eye.cell, self.eye.channels
        tile = grid.tile[0] // height, grid.tile[1] // width
        stride = grid.stride[0] // height, grid.stride[1] // width
        self.mean, self.most = nn.AvgPool2d(tile, stride), nn.MaxPool2d(tile, stride)
        self.describe = PatchDescriptors(grid)
        self.patch_context = nn.Sequential(nn.Linear(deep, LEARNED_CONTEXT), nn.Tanh())
        self.global_context = nn.Sequential(nn.Linear(deep, GLOBAL_CONTEXT), nn.Tanh())
        self.saliency = nn.Sequential(nn.Linear(2 * deep, JUDGES), nn.ReLU(), nn.Linear(JUDGES, 1))
        self.prior = nn.Sequential(nn.Dropout(0.2), nn.Linear(deep, labels))

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        deep = self.eye(spectrogram)
        patches = (self.mean(deep) + self.most(deep)).flatten(2).transpose(1, 2)  # [B, P, deep]
        summary = deep.mean((2, 3)) + deep.amax((2, 3))
        # From just above the floor, so that rounding is not taken for sound.
        activity = ramp(spectrogram.amax((1, 2, 3)), 0.01 - SPECTROGRAM_LIMIT, 1 - SPECTROGRAM_LIMIT)
        beside = torch.cat([patches, summary[:, None].expand_as(patches)], dim=2)
        saliency = torch.softmax(self.saliency(beside).squeeze(-1) * activity[:, None], dim=1)
        about_patches = torch.cat([self.describe(spectrogram), self.patch_context(patches)], dim=2)
        prior = self.prior(summary)
        context = torch.cat([self.global_context(summary), about_patches.flatten(1), self.unsure(prior)], dim=1)
        return saliency, context, prior

    def unsure(self, prior_logits: Tensor) -> Tensor:
        """How unsure a prior [B, L] is, [B, 1]: 0…1 of it lies on other labels, or on the less likely half of the label
        that is the least clear."""
        logits = prior_logits / self.temperature
        if self.task == "single_label":
            return 1 - torch.softmax(logits, dim=1).amax(1, keepdim=True)
        return 2 * torch.sigmoid(-logits.abs()).amax(1, keepdim=True)
