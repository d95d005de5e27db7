"""What training and validation hear: clips at random places, and whole recordings window by window.

The frontend learns nothing, so its work is done once and kept as far as memory allows. Training keeps the power in each
band and frame, before normalisation: there, sounds can be mixed and noise added by adding powers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from xaimoe_audio.data.dataset import LabelledRecording, windows_of
from xaimoe_audio.data.pieces import overlapping_pieces
from xaimoe_audio.engine import audio_spec
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.spectrogram.backend import backend_class
from xaimoe_runtime.audio import fill_clip
from xaimoe_runtime.console import progress
from xaimoe_runtime.inference import BATCH, inputs_of
from xaimoe_runtime.silence import sounding_share

Floats = NDArray[np.float32]
KEPT_BYTES = 4 * 2**30
"""Frames, and again spectrograms of the validation split, that are kept in memory. Of frames, what is more is computed
anew each time; of spectrograms, all are, if there are more."""
CHUNK = 4_000
"""Frames of a long recording that are computed at once: what bounds the samples in memory."""


class Clips(NamedTuple):
    """A batch of training clips, as the first stage of the frontend gives them."""

    power: Tensor
    """[B, F, T], power in each band and frame."""
    sums: Tensor
    """[B, BANDS + 2, T], what the signal attributes need of each frame."""
    source: Tensor
    """[B, 2], native rate in Hz and native clipping rate."""
    targets: Tensor
    """[B, L], weight of each class."""
    taught: Tensor
    """[B, C], what another classifier answers; C is 0 without one."""


class TrainingClips(Dataset[Clips]):
    """Clips at random places, without the batch axis.

    A recording gives as many clips an epoch as it has clip lengths, so long recordings are not heard less.

    Args:
        items: the recordings.
        targets: [N, L], 1 for each class heard.
        model: its frontend computes the frames.
        taught: [N, C], another classifier's answers.
    """

    def __init__(
        self, items: list[LabelledRecording], targets: Floats, model: MoEAudioModel, taught: Floats | None = None
    ) -> None:
        self.items, self.targets, self.model = items, torch.from_numpy(targets), model
        self.taught = torch.from_numpy(taught) if taught is not None else torch.zeros(len(items), 0)
        self.config = config = model.config.frontend
        self.streamable = backend_class(config.spectrogram).streamable
        repeats = [-(-item.recording.length // config.clip_samples) for item in items]
        self.order = np.repeat(np.arange(len(items)), repeats)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        room = KEPT_BYTES
        with progress("computing spectrograms", len(items)) as advance:
            for i, item in enumerate(items):
                size = 4 * (config.bins + 34) * max(item.recording.length // config.hop, config.frames)
                if size <= room and (self.streamable or item.recording.length <= config.clip_samples):
                    room -= size
                    self.kept[i] = self._all_frames(i)
                advance()

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Clips:
        which = int(self.order[index])
        recording, config = self.items[which].recording, self.config
        if which in self.kept:
            power, sums = self.kept[which]
            start = int(torch.randint(power.shape[1] - config.frames + 1, ()))
            power, sums = (part[:, start : start + config.frames] for part in (power, sums))
        else:
            spare = max(recording.length - config.clip_samples, 0)
            start = int(torch.randint(spare + 1, ()))
            power, sums = self._frames([self._clip(which, start)])
        source = torch.tensor([float(recording.native_rate), recording.clipping_rate])
        return Clips(power, sums, source, self.targets[which], self.taught[which])

    def _clip(self, which: int, start: int) -> Floats:
        """Return the samples of a clip, repeated if the recording is shorter."""
        samples = self.items[which].recording.samples(start, self.config.clip_samples)
        return fill_clip(samples, self.config.clip_samples)

    def _all_frames(self, which: int) -> tuple[Tensor, Tensor]:
        """Return ``power`` [F, n] and ``sums`` [BANDS + 2, n] of a whole recording, of which no more than a chunk of
        samples is in memory."""
        recording = self.items[which].recording
        if recording.length <= self.config.clip_samples:
            return self._frames([self._clip(which, 0)])
        return self._frames(block.samples[:, 0] for block in recording.blocks())

    @torch.no_grad()
    def _frames(self, blocks: Iterable[Floats]) -> tuple[Tensor, Tensor]:
        """Return ``power`` [F, n] and ``sums`` [BANDS + 2, n] of consecutive samples, computed by chunks."""
        device = next(self.model.parameters()).device
        chunks = self._chunks(blocks) if self.streamable else blocks
        parts = []
        for chunk in chunks:
            waveform = torch.from_numpy(np.ascontiguousarray(chunk))[None].to(device)
            parts.append([part[0].cpu() for part in self.model.frontend.frame(waveform)])
        power, sums = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
        return power, sums

    def _chunks(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        """Yield the samples of ``CHUNK`` frames at a time, then those of the whole frames that are left."""
        hop, win_length = self.config.hop, self.config.win_length
        size, step = (CHUNK - 1) * hop + win_length, CHUNK * hop
        for piece in overlapping_pieces(blocks, size, step):
            if len(piece) >= win_length:
                yield piece[: (len(piece) - win_length) // hop * hop + win_length]


Window = tuple[Tensor, Tensor, Tensor, float, int]
"""Spectrogram [1, F, T], attributes [A], target [L], share that is not silent, and the index of the recording."""


class ValidationWindows(IterableDataset[Window]):
    """Windows over whole recordings."""

    def __init__(self, items: list[LabelledRecording], targets: Floats, model: MoEAudioModel) -> None:
        self.items, self.targets, self.model = items, torch.from_numpy(targets), model
        self.spec = audio_spec(model.config)
        self.kept: list[Window] = []
        self.whole = False
        """Whether all windows are kept."""

    def __iter__(self) -> Iterator[Window]:
        if self.whole:
            yield from self.kept
            return
        self.kept.clear()
        room = KEPT_BYTES
        for window in self._windows():
            room -= window[0].nbytes
            if room >= 0:
                self.kept.append(window)
            else:
                self.kept.clear()  # a part would have to be computed again to get at the rest
            yield window
        self.whole = room >= 0

    @torch.no_grad()
    def _windows(self) -> Iterator[Window]:
        device, source = next(self.model.parameters()).device, windows_of(self.items, self.spec)
        while group := list(islice(source, BATCH)):
            inputs = (torch.from_numpy(part).to(device) for part in inputs_of([window for _, window in group]))
            spectrograms, attributes = self.model.frontend(*inputs)
            for (owner, window), spectrogram, found in zip(group, spectrograms.cpu(), attributes.cpu(), strict=True):
                sounding = sounding_share(window.samples, self.spec.frame_hop, window.encoding)
                yield spectrogram, found, self.targets[owner], sounding, owner
