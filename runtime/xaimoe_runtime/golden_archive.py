"""The golden answers of a bundle, read without taking more memory than its graphs' tensors."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.schema import PRECISIONS, ROUTINGS, Manifest

Shape = tuple[int | str, ...]
ARRAY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \((?P<shape>[0-9, ]{0,200})\), \} *\n",
    re.DOTALL,
)
"""As NumPy writes it; read by no parser of Python."""
PREFIX = 10
"""Bytes before the header, of which the last two are its length."""
MAX_HEADER = 1024
"""Bytes of a header."""
MAX_BYTES = 1 << 28
"""That the arrays may unpack to."""


def read_golden(path: Path, content: bytes, manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a NumPy archive by name.

    Each array's shape is compared with the manifest before the array is unpacked.

    Raises:
        BundleError: the archive is broken, or holds other arrays than those of the bundle's graphs.
    """
    expected = _expected_shapes(manifest)
    limit = max(manifest.audio.clip_samples, manifest.patches.grid.count * max(len(manifest.experts), 1))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            names = [member.filename.removesuffix(".npy") for member in members]
            if len(set(names)) < len(names):
                raise ValueError("found an array twice")
            if strangers := sorted(set(names) - set(expected)):
                raise ValueError(f"found the array {strangers[0][:100]!r}, expected those of the bundle's graphs")
            _check_sizes(members, len(content))
            found, left = {}, MAX_BYTES
            for name, member in zip(names, members, strict=True):
                with archive.open(member) as file:
                    found[name] = _read_array(file, name, expected[name], limit, left)
                left -= found[name].nbytes
            return found
    except (ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path}: not a NumPy archive of arrays ({error}); export the bundle again") from error


def _expected_shapes(manifest: Manifest) -> dict[str, list[Shape]]:
    """Return the shapes that an array may have, by its name; of one that several graphs share, each graph's."""
    shapes: dict[str, list[Shape]] = {}
    for graph in manifest.graphs:
        for tensor in (*graph.inputs, *graph.outputs):
            shapes.setdefault(graph.golden(tensor.name), []).append(tensor.shape)
    for routing in ROUTINGS:
        shapes[f"scores/{routing}"] = [("B", len(manifest.task.labels))]
    return shapes | {f"{precision}/{name}": of for precision in PRECISIONS for name, of in shapes.items()}


def _check_sizes(members: list[zipfile.ZipInfo], size: int) -> None:
    """Check what the archive's directory says, which may be wrong; the arrays are read with limits of their own."""
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{member.filename} is compressed by another method than deflate")
    if (packed := sum(member.compress_size for member in members)) > size:
        raise ValueError(f"its arrays have {packed} packed bytes, the file {size}")
    if (unpacked := sum(member.file_size for member in members)) > MAX_BYTES:
        raise ValueError(f"it unpacks to {unpacked} bytes, expected at most {MAX_BYTES}")


def _read_array(file: IO[bytes], name: str, expected: list[Shape], limit: int, left: int) -> NDArray[np.float32]:
    """Return one array: float32, of an expected shape, with just the bytes that its shape needs."""
    start = file.read(PREFIX)
    length = int.from_bytes(start[PREFIX - 2 :], "little")
    header = ARRAY_HEADER.fullmatch(start + file.read(min(length, MAX_HEADER)))
    if header is None or length > MAX_HEADER:
        raise ValueError(f"{name} is no float32 array in C order")
    shape = tuple(int(size) for size in header["shape"].replace(b",", b" ").split())
    if not any(_fits(shape, one, limit) for one in expected):
        raise ValueError(f"{name} has the shape {list(shape)}, the graphs have {list(expected[0])}")
    size = prod(shape) * 4
    if size > left:
        raise ValueError(f"{name} has {size} bytes, expected at most {left}")
    content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{name} has {'more' if len(content) > size else len(content)} bytes, its shape needs {size}")
    return np.frombuffer(content, np.float32).reshape(shape)


def _fits(shape: tuple[int, ...], expected: Shape, limit: int) -> bool:
    """Tell whether a shape has the sizes of a tensor; axes without a size have any up to a limit."""
    return len(shape) == len(expected) and all(
        size == one if isinstance(one, int) else size <= limit for size, one in zip(shape, expected, strict=True)
    )
