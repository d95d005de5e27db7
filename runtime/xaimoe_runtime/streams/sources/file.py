"""A recording as a source."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from xaimoe_runtime.audio import open_recording
from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.streams.sources.base import BLOCK_S, Floats, Trouble


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
        with open_recording(self.path) as recording:
            self.rate, self.channels, self.encoding = recording.samplerate, recording.channels, recording.subtype
        self._closed = False

    def read(self) -> Iterator[Floats | Trouble]:
        """Blocks of the recording."""
        import soundfile

        began, heard = time.monotonic(), 0
        with open_recording(self.path) as recording:
            while not self._closed:
                try:
                    block = recording.read(max(round(BLOCK_S * self.rate), 1), dtype="float32", always_2d=True)
                except (soundfile.LibsndfileError, RuntimeError) as error:
                    raise AudioError(f"{self.path}: broken after {heard / self.rate:.2f} s ({error})") from error
                heard += len(block)
                if len(block) == 0:
                    if heard < recording.frames:
                        raise AudioError(
                            f"{self.path}: cut short; found {heard} samples, the header promises {recording.frames}; "
                            "copy the file again"
                        )
                    return
                if self.live:
                    time.sleep(max(began + heard / self.rate - time.monotonic(), 0.0))
                yield block

    def close(self) -> None:
        """Ends after the block being read."""
        self._closed = True
