"""The one building block that glance and experts share."""

from __future__ import annotations

from torch import nn

Pair = tuple[int, int]


def convolution(channels_in: int, channels_out: int, kernel: Pair = (3, 3), stride: Pair = (1, 1)) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; the map keeps its size for stride 1."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )


def separable(channels_in: int, channels_out: int, kernel: Pair = (3, 3), stride: Pair = (1, 1)) -> nn.Sequential:
    """Depthwise, then pointwise convolution (A. G. Howard et al., "MobileNets", 2017), each normalised, then ReLU."""
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, kernel, stride, padding, groups=channels_in, bias=False),
        nn.BatchNorm2d(channels_in),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    )
