"""The parts of any file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from xaimoe_runtime.containers import flac, mpeg, ogg, stated, stretch
from xaimoe_runtime.containers.part import Part


def find_parts(path: Path) -> tuple[Part, ...]:
    """Return the parts of a recording; a container that is not known is one part, as libsndfile reads it.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        size = file.seek(0, 2)
        if magic == ogg.MAGIC:
            parts = ogg.find_parts(file, size)
        elif magic == flac.MAGIC:
            parts = flac.find_parts(file, size)
        elif magic[:3] == b"ID3" or mpeg.parse_frame(magic) is not None:
            parts = mpeg.find_parts(file, 0, size) or []  # none if a tag stands before another container
        elif magic == b"NIST":
            parts = [Part(stated_frames=_nist_frames(file))]
        elif (part := stated.find_part(file, size)) is not None:
            parts = [part]
        elif path.suffix.lower() in mpeg.SUFFIXES:  # cut out of a stream, it may begin within a frame
            parts = stretch.find_parts(file) or mpeg.find_parts(file, 0, size) or []
        else:
            parts = stretch.find_parts(file) or []
    return tuple(parts) or (Part(),)


def _nist_frames(file: BinaryIO) -> int | None:
    """Return the samples of a channel that the text header of a NIST file states; None if it does not."""
    file.seek(0)
    found = re.search(rb"\nsample_count -i (\d{1,18})\s", file.read(1_024))
    return int(found[1]) if found else None
