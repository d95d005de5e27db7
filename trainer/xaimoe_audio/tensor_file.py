"""Files of tensors that may come from anybody: what they would allocate is checked before they are loaded.

``torch.save`` writes a zip archive of stored members: a pickle, which names each tensor's type, shape and storage, and
the storages. ``torch.load`` allocates what the pickle says, also if the storage is smaller, and unpacks members that
another program compressed.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import torch

MAX_BYTES = 4 << 30
"""Of a file."""
MAX_MEMBERS = 100_000
"""Of an archive: one for each storage, and a few more."""
MAX_PICKLE = 16 << 20
"""Bytes of the pickle; about 120 for each tensor."""
MAX_VALUES = 4_000_000
"""Values in all containers."""
MAX_DEPTH = 100
"""Containers inside one another."""
MAX_AXES = 8
"""Axes of a tensor."""
OPCODES = frozenset(
    "PROTO STOP MARK GLOBAL REDUCE BUILD BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT EMPTY_DICT SETITEM SETITEMS "
    "EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 "
    "LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE".split()
)
"""Of a pickle of tensors and plain values, as ``torch.save`` writes it."""
STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""Types of storages by their names in the pickle."""


@dataclass(frozen=True, slots=True)  # so that the pickle can change nothing of it
class TensorInfo:
    """A tensor of the file, which is not loaded."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: torch.dtype
    size: int
    """Elements."""


class TensorFile:
    """A file that ``torch.save`` wrote, checked but not loaded.

    Args:
        raw: content of the file.

    Raises:
        ValueError: the file is something else, or its parts do not have the sizes that it says.
    """

    def __init__(self, raw: bytes) -> None:
        members = _read_members(raw)
        names = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"found {len(names)} pickles of tensors, expected one")
        folder = names[0].removesuffix("data.pkl")
        if any(not name.startswith(folder) for name in members):
            raise ValueError("found members outside of the archive's folder")
        if members.get(f"{folder}byteorder", b"little") != b"little":
            raise ValueError("found tensors of another byte order, expected little")
        storages = {name.removeprefix(f"{folder}data/"): len(content) for name, content in members.items()}
        self.content: Any = _describe(members[names[0]], storages)
        """What the file holds, with a :class:`TensorInfo` in the place of each tensor."""
        self._members = members

    def load(self) -> Any:
        """Return what the file holds.

        The archive is written anew from the members that were checked, so nothing else reaches PyTorch's own reader.
        """
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, content in self._members.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def read_file(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        ValueError: it is too large.
        OSError: it cannot be read.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"found {size} bytes, expected at most {MAX_BYTES}")
    return path.read_bytes()


def _read_members(raw: bytes) -> dict[str, bytes]:
    """Return the members of an archive, which are stored and no larger than the file."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_MEMBERS:
                raise ValueError(f"found {len(infos)} members, expected at most {MAX_MEMBERS}")
            if len({info.filename for info in infos}) < len(infos):
                raise ValueError("found a member twice")
            for info in infos:
                if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                    raise ValueError(f"found {info.filename!r} compressed, expected it as torch.save stores it")
            if (total := sum(info.file_size for info in infos)) > len(raw):
                raise ValueError(f"its members have {total} bytes, the file only {len(raw)}")
            return {info.filename: archive.read(info) for info in infos}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"not a whole zip archive of torch.save ({error})") from error


def _describe(pickled: bytes, storages: dict[str, int]) -> Any:
    """Return what a pickle holds, with descriptions in the place of tensors; nothing is allocated for them."""
    if len(pickled) > MAX_PICKLE:
        raise ValueError(f"found a pickle of {len(pickled)} bytes, expected at most {MAX_PICKLE}")
    try:
        for operations, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if opcode.name not in OPCODES:
                raise ValueError(f"found the pickle operation {opcode.name}, expected tensors and plain values")
            if (
                opcode.name.endswith("BINPUT") and int(argument or 0) > operations
            ):  # the reader's memory follows the number
                raise ValueError(f"found the memo number {argument}, expected at most {operations}")
        content = _Describer(pickled, storages).load()
        _check_depth(content)
    except (pickle.UnpicklingError, AttributeError, EOFError, IndexError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a pickle of tensors and plain values ({error})") from error
    return content


class _Describer(pickle.Unpickler):
    """Reads the pickle of tensors; knows the few names that it may hold, and calls nothing of PyTorch."""

    def __init__(self, pickled: bytes, storages: dict[str, int]) -> None:
        super().__init__(io.BytesIO(pickled))
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _describe_tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise ValueError(f"found {module}.{name}, expected tensors and plain values")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _device, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise ValueError("found no storage where one was expected")
        if not isinstance(size, int) or size * dtype.itemsize != self.storages.get(key, -1):
            raise ValueError(f"storage {key}: found {self.storages.get(key, 'no')} bytes, expected {size} elements")
        return _Storage(dtype, size)


def _describe_tensor(storage: _Storage, offset: int, shape: Any, stride: Any, *_: Any) -> TensorInfo:
    """Stand for PyTorch's function that makes a tensor: it must be contiguous and lie inside of its storage."""
    if not isinstance(storage, _Storage) or not all(isinstance(part, tuple) for part in (shape, stride)):
        raise ValueError("found a tensor without a storage, a shape or strides")
    if len(shape) > MAX_AXES or len(shape) != len(stride):
        raise ValueError(f"found a tensor of {len(shape)} axes and {len(stride)} strides, expected at most {MAX_AXES}")
    if not all(type(one) is int and one >= 0 for one in (*shape, *stride, offset)):
        raise ValueError("found a shape, a stride or an offset that is no whole number from 0 up")
    end = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
    elements = prod(shape)
    if elements > storage.size or (elements and end > storage.size):
        raise ValueError(f"found a tensor of shape {list(shape)}, its storage has {storage.size} elements")
    return TensorInfo(shape, storage.dtype)


def _check_depth(content: Any) -> None:
    """Check that what walks through the content comes to an end: containers may hold each other, or one many times."""
    level, found = [content], 1
    for _ in range(MAX_DEPTH):
        level = [inner for one in level for inner in _inside(one)]
        found += len(level)
        if found > MAX_VALUES:
            raise ValueError(f"found more than {MAX_VALUES} values")
        if not level:
            return
    raise ValueError(f"found more than {MAX_DEPTH} containers inside one another")


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return chain(value.keys(), value.values())
    return value if isinstance(value, (list, tuple)) else ()
