"""ONNX Runtime: whether it is there, which execution provider to use, and sessions made with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaimoe_runtime import tensorrt
from xaimoe_runtime.errors import BundleError, ConfigError, ProviderError
from xaimoe_runtime.gpu import gpu_name
from xaimoe_runtime.schema import GraphSpec, Manifest

if TYPE_CHECKING:
    import onnxruntime

ENDING = "ExecutionProvider"
CPU = "CPUExecutionProvider"
BEST = ("cuda", "cpu")
"""What ``auto`` takes where no TensorRT engines are kept, the first that is there."""
OPTIONS: dict[str, dict[str, str]] = {
    # The exhaustive default tries every way at each new shape; by rule one is chosen.
    "cuda": {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"},
}
"""What a provider is told unless the user says otherwise."""
INSTALL = {
    "cuda": 'run pip install "xai-moe-audio[gpu]", or ',
    "tensorrt": 'run pip install "xai-moe-audio[tensorrt]", or ',
}
MOST_THREADS = 1024
NOWHERE = str(Path(os.devnull) / "none")
"""A folder that nobody can make, since the one above it is no folder."""
SETTINGS = {
    "session.intra_op.allow_spinning": "0",
    # The format is never taken from the bytes, which may look like another one, too.
    "session.load_model_format": "ONNX",
    # Weights in other files are refused before; were one overlooked, it would not be found either.
    "session.model_external_initializers_file_folder_path": NOWHERE,
}
"""Of each session; ONNX Runtime 1.22 knows them, too."""
FATAL = 4
"""ONNX Runtime's severity of what it cannot go on after."""
BEHIND: dict[str, tuple[str, ...]] = {"tensorrt": ("CUDAExecutionProvider", CPU), "cpu": ()}
"""Providers that take over the operators a provider does not have; of those not named here, the CPU."""


def load_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        ProviderError: none is installed, or the CPU and the GPU build are, which share one module folder.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise ProviderError(
            "found both onnxruntime and onnxruntime-gpu, which overwrite each other's files; remove both "
            "(pip uninstall onnxruntime onnxruntime-gpu), then install one: "
            'pip install "xai-moe-audio[cpu]" or pip install "xai-moe-audio[gpu]"'
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            'ONNX Runtime is missing; install it with pip install "xai-moe-audio[cpu]", or [gpu] for NVIDIA GPUs'
        ) from error
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    from importlib import metadata  # here, since it is slow to import

    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def short(execution_provider: str) -> str:
    """The name of a provider here: ``cuda`` for ``CUDAExecutionProvider``."""
    return execution_provider.removesuffix(ENDING).lower()


def resolve(provider: str, available: list[str], known: list[str], has_engines: bool = False) -> str:
    """Which provider is meant, by its name in ONNX Runtime.

    ``auto`` takes TensorRT if its engines are kept, else the best that is there; a provider asked for by name is never
    replaced by another.

    Args:
        provider: ``auto``, ``cpu``, ``cuda``, ``tensorrt`` or any other of ONNX Runtime, with its ending or without.
        available: providers of this ONNX Runtime.
        known: providers of any.
        has_engines: whether TensorRT's engines are kept for the bundle.

    Raises:
        ConfigError: no such provider.
        ProviderError: the provider is missing.
    """
    offered = {short(name): name for name in available}
    if provider == "auto":
        order = ("tensorrt", *BEST) if has_engines else BEST
        return next((offered[name] for name in order if name in offered), CPU)
    wanted = short(provider)
    if wanted in offered:
        return offered[wanted]
    if wanted not in {short(name) for name in known}:
        raise ConfigError(
            f"provider: found {provider!r}, expected auto, cpu, cuda, tensorrt or another one of ONNX Runtime's: "
            f"{', '.join(sorted(offered))} are here"
        )
    raise ProviderError(
        f"provider {provider!r} is missing; this ONNX Runtime offers {', '.join(offered)}; "
        f"{INSTALL.get(wanted, '')}use --provider auto"
    )


def parse_options(texts: list[str] | None) -> dict[str, str]:
    """Options of a provider from texts like ``device_id=0``.

    Raises:
        ConfigError: a text is not of that form, or names an option again.
    """
    found: dict[str, str] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not name or not equals or name in found:
            raise ConfigError(f"--provider-option: found {text!r}, expected NAME=VALUE, each name once")
        found[name] = value
    return found


class SessionFactory:
    """Makes sessions that all use one provider and one set of thread options.

    Args:
        provider: as :func:`resolve` takes it.
        threads: that one graph may use.
        options: of the provider, by their names in ONNX Runtime; they come before those of this library.
        manifest: of the bundle that sessions will be made for; without it ``auto`` does not look for its engines.

    Raises:
        ConfigError: no such provider or number of threads, or options of no certain provider.
        ProviderError: the provider, or ONNX Runtime itself, is missing, or TensorRT's engines are not built.
    """

    def __init__(
        self,
        provider: str = "auto",
        threads: int = 1,
        options: Mapping[str, object] | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        if not 1 <= threads <= MOST_THREADS:
            raise ConfigError(
                f"threads: found {threads}, expected 1 to {MOST_THREADS}; this device has {os.cpu_count()} cores"
            )
        self.ort = load_onnxruntime()
        self.threads = threads
        self.options = {name: str(value) for name, value in (options or {}).items()}
        if not self.options.get("device_id", "0").isdecimal():
            raise ConfigError(f"provider option device_id: found {self.options['device_id']!r}, expected a number")
        if self.options and provider == "auto":
            raise ConfigError("provider options: found provider auto, expected the name of the one that they are for")
        available = self.ort.get_available_providers()
        has_engines = provider == "auto" and tensorrt.is_built(manifest, self.ort)
        self.execution_provider = resolve(provider, available, self.ort.get_all_providers(), has_engines)
        self._may_fall_back = provider == "auto" and self.provider != "cpu"
        if self.provider != "cpu" and (preload := getattr(self.ort, "preload_dlls", None)):
            with redirect_stdout(sys.stderr):  # stdout is for records
                preload()  # the libraries of the CUDA packages on PyPI, which the system's loader does not find

    @property
    def provider(self) -> str:
        """The provider's name: ``cpu``, ``cuda``, ``tensorrt`` …"""
        return short(self.execution_provider)

    @property
    def gpu(self) -> str:
        """Name of the NVIDIA GPU that sessions use; empty if there is none, or if it is the CPU's work."""
        return "" if self.provider == "cpu" else gpu_name(int(self.options.get("device_id", "0")))

    @property
    def device(self) -> str | None:
        """Where tensors may stay between graphs, as ONNX Runtime names it; None for the host."""
        return "cuda" if self.provider in ("cuda", "tensorrt") else None

    @property
    def prefers_few_sizes(self) -> bool:
        """Whether each new batch size costs time once: GPUs choose their kernels by it."""
        return self.provider != "cpu"

    @property
    def plans_anew(self) -> bool:
        """Whether a session forgets how to convolve tensors of one shape as soon as it is given another: CUDA's, since
        cuDNN 9, keep the last plan alone. To plan an expert anew took an H100 0.02 to 1 s, to run it 0.001 s."""
        return self.provider == "cuda"

    def create(
        self,
        name: str,
        model: bytes,
        threads: int | None = None,
        spec: GraphSpec | None = None,
        told: Mapping[str, str] | None = None,
    ) -> onnxruntime.InferenceSession:
        """A session on the bytes of a graph.

        Args:
            name: for messages.
            model: the bytes.
            threads: that it may use, if not the factory's.
            spec: what the manifest says of it; TensorRT's engine is found by that.
            told: what the provider is told besides, instead of where that engine is.

        Raises:
            BundleError: ONNX Runtime refuses the graph.
            ProviderError: the provider was not used although it was asked for by name.
        """
        ort = self.ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        for key, value in SETTINGS.items():
            options.add_session_config_entry(key, value)
        providers = self._providers(spec, told)
        try:
            session = ort.InferenceSession(model, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            given = f" with the options {self.options}" if self.options else ""
            raise BundleError(f"{name}: ONNX Runtime {ort.__version__} refuses the graph{given}: {error}") from error
        used = session.get_providers()[0]
        if used != self.execution_provider:
            if not self._may_fall_back:
                raise ProviderError(
                    f"provider {self.provider!r} was asked for, but ONNX Runtime used {used}; check its driver and "
                    "libraries, or use --provider auto"
                )
            self.execution_provider, self._may_fall_back = used, used != CPU
        if self.plans_anew:
            # Without TF32 cuDNN finds no plan at first for many a convolution, which ONNX Runtime calls an error and
            # puts right itself. Why a provider does not start, it has told by now; errors in a call are raised as well.
            ort.set_default_logger_severity(FATAL)
        return session

    def _providers(self, spec: GraphSpec | None, told: Mapping[str, str] | None) -> list[tuple[str, dict[str, str]]]:
        """The provider with its options, and those behind it."""
        behind = BEHIND.get(self.provider, (CPU,))
        if told is None and self.provider == "tensorrt" and spec is not None:
            told = tensorrt.options_of(spec, self.ort, self.gpu, self.options)
        own = {**OPTIONS.get(self.provider, {}), **(told or {}), **self.options}
        device = {name: value for name, value in self.options.items() if name == "device_id"}
        others = ((other, OPTIONS.get(short(other), {}) | (device if other != CPU else {})) for other in behind)
        return [(self.execution_provider, own), *others]
