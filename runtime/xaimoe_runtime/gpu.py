"""Which NVIDIA GPU there is, asked of its driver."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

NAME_LENGTH = 128
MAJOR, MINOR = 75, 76
"""Of the driver's attributes: the compute capability's."""


@cache
def gpu_name(index: int = 0) -> str:
    """Name and compute capability of a GPU, as in ``NVIDIA H100 80GB HBM3, 9.0``; empty without a driver or GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ""
    device, name = ctypes.c_int(), ctypes.create_string_buffer(NAME_LENGTH)
    major, minor = ctypes.c_int(), ctypes.c_int()
    calls: tuple[Callable[[], int], ...] = (
        lambda: driver.cuInit(0),
        lambda: driver.cuDeviceGet(ctypes.byref(device), index),
        lambda: driver.cuDeviceGetName(name, NAME_LENGTH, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device),
        lambda: driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device),
    )
    if any(call() for call in calls):  # an error's code is not 0
        return ""
    return f"{name.value.decode(errors='replace')}, {major.value}.{minor.value}"
