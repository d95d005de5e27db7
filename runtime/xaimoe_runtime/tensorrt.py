"""TensorRT's engines: built once by ``xaimoe-runtime build-engines``, kept in the user's cache folder, used from there.

An engine takes minutes to build on a small board and holds for one graph, ONNX Runtime, TensorRT and GPU; so it is
never built by the first inference. Each graph has a folder of its own: ONNX Runtime names engines by a graph's
structure, which experts share.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct

from xaimoe_runtime.caching import cache_folder
from xaimoe_runtime.errors import BundleError, ConfigError, ProviderError
from xaimoe_runtime.gpu import gpu_name
from xaimoe_runtime.schema import GraphSpec, Manifest, PrecisionChoice
from xaimoe_runtime.writing import replacing

if TYPE_CHECKING:
    from xaimoe_runtime.bundle import Bundle
    from xaimoe_runtime.providers import SessionFactory

LIBRARY = "libnvinfer.so.10"
DYNAMIC = re.compile(r"(?:(?P<times>\d{1,9})\*)?(?P<name>[A-Za-z]\w*)(?: \+ (?P<plus>\d{1,9}))?")
BUILT = "built.json"
"""Beside the engine of a graph, once it is whole."""


class Engine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``built.json`` says of the engine beside it."""

    graph: str
    sha256: str
    onnxruntime: str
    tensorrt: str
    gpu: str
    seconds: float
    """That it took to build."""


def version() -> str:
    """TensorRT's version, as its library has it.

    Raises:
        ProviderError: the library is missing.
    """
    with suppress(ImportError):
        importlib.import_module("tensorrt")  # of PyPI: loads the libraries that lie in its package
    try:
        number = int(ctypes.CDLL(LIBRARY).getInferLibVersion())
    except (OSError, AttributeError) as error:
        raise ProviderError(
            f"TensorRT's {LIBRARY} is missing ({error}); install TensorRT 10, as in pip install "
            '"xai-moe-audio[tensorrt]", or use --provider cuda'
        ) from error
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def folder_of(spec: GraphSpec, ort: Any, gpu: str, options: Mapping[str, str]) -> Path:
    """Where the engine of a graph is kept for this ONNX Runtime, TensorRT, GPU and the user's options.

    Raises:
        ProviderError: TensorRT or the GPU is missing.
    """
    if not gpu:
        raise ProviderError("no NVIDIA GPU is found, which TensorRT needs; check its driver, or use --provider auto")
    told = sorted((name, value) for name, value in options.items() if name != "device_id")
    here = hashlib.sha256(f"{ort.__version__} {version()} {gpu} {told}".encode()).hexdigest()[:16]
    return cache_folder("engines") / here / spec.sha256[:32]


def options_of(spec: GraphSpec, ort: Any, gpu: str, options: Mapping[str, str]) -> dict[str, str]:
    """What ONNX Runtime's TensorRT provider is told about a graph: where its engine is, and for which sizes.

    Raises:
        ProviderError: TensorRT or the GPU is missing, or the engine is not built.
    """
    folder = folder_of(spec, ort, gpu, options)
    if not (folder / BUILT).is_file():
        raise ProviderError(
            f"{spec.file}: no TensorRT engine is kept for this GPU, TensorRT, ONNX Runtime and these options; run "
            "xaimoe-runtime build-engines with the same --precision and --provider-option, or use --provider cuda"
        )
    return _told(spec, folder)


def _told(spec: GraphSpec, folder: Path) -> dict[str, str]:
    told = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder.parent),
        "trt_fp16_enable": "1" if spec.precision == "fp16" else "0",
    }
    for which in ("min", "opt", "max"):
        shapes = ",".join(
            f"{tensor.name}:" + "x".join(str(_size(spec, axis, which)) for axis in tensor.shape)
            for tensor in spec.inputs
        )
        told[f"trt_profile_{which}_shapes"] = shapes
    return told


def _size(spec: GraphSpec, axis: int | str, which: str) -> int:
    """Of an axis in a profile; a dynamic one is named, or depends on a named one as ``160*n + 864`` does."""
    if isinstance(axis, int):
        return axis
    found = DYNAMIC.fullmatch(axis)
    if found is None or found["name"] not in spec.profiles:
        raise BundleError(f"{spec.file}: found no profile for the axis {axis!r}; export the bundle again")
    return int(found["times"] or 1) * int(getattr(spec.profiles[found["name"]], which)) + int(found["plus"] or 0)


def is_built(manifest: Manifest | None, ort: Any) -> bool:
    """Whether the engines of all graphs are kept that a bundle means for TensorRT."""
    if manifest is None or "TensorrtExecutionProvider" not in ort.get_available_providers():
        return False
    try:
        return all((folder_of(spec, ort, gpu_name(), {}) / BUILT).is_file() for spec in wanted(manifest))
    except (ProviderError, ConfigError):  # no TensorRT, no GPU, or no cache folder
        return False


def wanted(manifest: Manifest, precision: PrecisionChoice = "auto") -> list[GraphSpec]:
    """The graphs that TensorRT runs: by default in the precision that is meant for it, without the fused one.

    Raises:
        ConfigError: the bundle has no such precision.
    """
    precision = manifest.precision(precision, "tensorrt")
    names = dict.fromkeys((graph.role, graph.expert) for graph in manifest.graphs if graph.role != "fused")
    return [manifest.graph(role, expert, precision) for role, expert in names]


def build(
    bundle: Bundle,
    factory: SessionFactory,
    again: bool,
    tell: Callable[[str, float], None],
    precision: PrecisionChoice = "auto",
) -> Path:
    """Builds the engines that are not kept yet, each for the smallest, the usual and the largest sizes of its profile;
    gives their folder. One that is interrupted is built again.

    Args:
        bundle: whose graphs these are.
        factory: of TensorRT.
        again: whether to build those that are kept, too.
        tell: is called with each graph's name and the seconds its engine took, 0 for one that was kept.
        precision: of the graphs; what is meant for TensorRT by default.

    Raises:
        BundleError: TensorRT refuses a graph.
        ProviderError: TensorRT or the GPU is missing.
        ConfigError: the folder cannot be written, or the bundle has no such precision.
    """
    ort = factory.ort
    for spec in wanted(bundle.manifest, precision):
        folder = folder_of(spec, ort, factory.gpu, factory.options)
        mark = folder / BUILT
        if mark.is_file() and not again:
            tell(spec.name, 0.0)
            continue
        mark.unlink(missing_ok=True)
        with replacing(mark) as file:  # which makes the folder, and leaves no mark of what failed
            for old in folder.glob("*.engine"):
                old.unlink()
            start = perf_counter()
            session = factory.create(spec.file, bundle.files[spec.file], told=_told(spec, folder))
            for which in ("min", "opt", "max"):
                shapes = {tensor.name: [_size(spec, axis, which) for axis in tensor.shape] for tensor in spec.inputs}
                session.run(None, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
            seconds = perf_counter() - start
            engine = Engine(
                graph=spec.name,
                sha256=spec.sha256,
                onnxruntime=ort.__version__,
                tensorrt=version(),
                gpu=factory.gpu,
                seconds=round(seconds, 3),
            )
            file.write(msgspec.json.format(msgspec.json.encode(engine)))
        tell(spec.name, seconds)
    return folder.parent
