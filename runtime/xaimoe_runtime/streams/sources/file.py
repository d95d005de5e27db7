"""A recording as a source."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from xaimoe_runtime.audio import open_recording
from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.streams.sources.base import BLOCK_S, Item


class FileSource:
    """A recording, as fast as it is taken.

    Args:
        path: any file that libsndfile reads.
        realtime: as fast as it was recorded, like a live source; for trying things out.

    Raises:
        AudioError: the file cannot be used.
    """

    encoding: str

    def __init__(self, path: str | Path, realtime: bool = False) -> None:
        self.path, self.name, self.live = Path(path), str(path), realtime
        self._recording = recording = open_recording(self.path)
        self.rate, self.channels, self.encoding = recording.samplerate, recording.channels, recording.subtype
        self._closed = False

    def read(self) -> Iterator[Item]:
        """Blocks of the recording.

        Raises:
            AudioError: at the end, if part of the recording could not be decoded.
        """
        began, frames = time.monotonic(), 0
        for block in self._recording.blocks(max(round(BLOCK_S * self.rate), 1)):
            frames += len(block)
            if self.live:
                time.sleep(max(began + frames / self.rate - time.monotonic(), 0.0))
            yield block
            if self._closed:
                return
        completeness = self._recording.completeness
        if completeness is not None and not completeness.complete:
            raise AudioError(f"{self.path}: incomplete: {completeness.message}")

    def close(self) -> None:
        """Ends after the block being read."""
        self._closed = True
