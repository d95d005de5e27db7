"""The spectrogram's level in the training recordings, by which every spectrogram is normalised."""

from __future__ import annotations

import torch

from xaimoe_audio.data.dataset import LabelledRecording
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.training.assess import batches

WINDOWS_COUNTED = 4
"""Windows of a recording that count for the normalisation, so that a few very long ones do not outweigh the rest."""
LEAST_DEVIATION = 0.1
"""Of a spectrogram's level; a dataset in which nothing happens must not be blown up either."""


@torch.no_grad()
def fit_normalisation(model: MoEAudioModel, items: list[LabelledRecording], device: torch.device) -> None:
    """Sets the spectrogram's mean in each band and its one deviation from the training recordings.

    Silent cells do not count, and of each recording only the first ``WINDOWS_COUNTED`` windows.
    """
    total = square = count = torch.zeros((), dtype=torch.float64)
    window = model.frontend.window
    for _, waveform, _ in batches(model, items, device, WINDOWS_COUNTED):
        level, sounding = (part.cpu().double() for part in window.level(model.frontend.frame(waveform)[0]))
        total = total + (level * sounding).sum((0, 2))
        square = square + (torch.square(level) * sounding).sum((0, 2))
        count = count + sounding.sum((0, 2))
    count = torch.clamp(count, min=1.0)
    mean = total / count
    spread = torch.sqrt(torch.clamp((square / count - torch.square(mean)).mean(), min=0))
    window.mean.copy_(mean)
    # One deviation for all bands: a band in which nothing happens must not be blown up.
    window.deviation.fill_(max(float(spread), LEAST_DEVIATION))
