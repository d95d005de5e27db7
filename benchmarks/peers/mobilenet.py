"""A network of EfficientAT's mn04 shape, ours, with random weights: for its time, not for its answers.

F. Schmid, K. Koutini and G. Widmer, "Efficient Large-Scale Audio Tagging via Transformer-to-CNN Knowledge
Distillation", 2023: MobileNetV3-Large (A. Howard et al., 2019) of width 0.4 over a log-mel of 128 bands, a frame every
10 ms. With 527 classes it has the published 0.983 M parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RATE, BANDS, FRAMES = 32_000, 128, 500
"""Of a clip of 5 s."""
WIDTH = 0.4
# kernel, expanded channels, channels, squeeze-and-excitation, hard swish, stride
BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


def channels(count: int) -> int:
    """A number of channels at this width, in eights, and not a tenth less."""
    scaled = count * WIDTH
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class SqueezeExcitation(nn.Module):
    """Weighs channels by what all of a map is like."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(8, int(width / 4 + 4) // 8 * 8)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, narrow, 1),
            nn.ReLU(),
            nn.Conv2d(narrow, width, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.weigh(maps)


def normed(before: int, after: int, kernel: int, stride: int, groups: int, activation: nn.Module) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), activation)


class Inverted(nn.Module):
    """Expands, filters each channel by itself, and narrows again; added to its input where shapes allow."""

    def __init__(
        self, before: int, kernel: int, wide: int, after: int, weighed: bool, swish: bool, stride: int
    ) -> None:
        super().__init__()
        activation: nn.Module = nn.Hardswish() if swish else nn.ReLU()
        self.body = nn.Sequential(
            normed(before, wide, 1, 1, 1, activation) if wide != before else nn.Identity(),
            normed(wide, wide, kernel, stride, wide, activation),
            SqueezeExcitation(wide) if weighed else nn.Identity(),
            normed(wide, after, 1, 1, 1, nn.Identity()),
        )
        self.adds = stride == 1 and before == after

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.body(maps)
        return maps + found if self.adds else found


class MobileNet(nn.Module):
    """``spectrogram`` [B, 1, 128, T] -> logits [B, L]."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        before = channels(16)
        layers: list[nn.Module] = [normed(1, before, 3, 2, 1, nn.Hardswish())]
        for kernel, wide, after, weighed, swish, stride in BLOCKS:
            layers.append(Inverted(before, kernel, channels(wide), channels(after), weighed, swish, stride))
            before = channels(after)
        last = 6 * before
        self.body = nn.Sequential(*layers, normed(before, last, 1, 1, 1, nn.Hardswish()))
        self.answer = nn.Sequential(nn.Linear(last, channels(1280)), nn.Hardswish(), nn.Linear(channels(1280), labels))

    def forward(self, spectrogram: Tensor) -> Tensor:
        logits: Tensor = self.answer(self.body(spectrogram).mean((2, 3)))
        return logits


def network(labels: int) -> MobileNet:
    """The network with seeded random weights, ready for export."""
    torch.manual_seed(0)
    return MobileNet(labels).eval()
