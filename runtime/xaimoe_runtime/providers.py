"""ONNX Runtime: whether it is there, which execution provider to use, and sessions made with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from xaimoe_runtime.errors import BundleError, ConfigError, ProviderError
from xaimoe_runtime.schema import ProviderName

if TYPE_CHECKING:
    import onnxruntime

Provider = Literal["auto", "cuda", "cpu"]

EXECUTION_PROVIDERS: dict[ProviderName, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
OPTIONS: dict[ProviderName, dict[str, str]] = {
    # The exhaustive default tunes again at every new batch size.
    "cuda": {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"},
    "cpu": {},
}


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


def resolve(provider: str, available: list[str]) -> ProviderName:
    """``cuda`` or ``cpu``: what ``provider`` means where ONNX Runtime offers ``available``.

    ``auto`` takes the best that is there; a provider asked for by name is never replaced by another.

    Raises:
        ConfigError: no such provider.
        ProviderError: the provider is missing.
    """
    if provider == "auto":
        return next((name for name, ep in EXECUTION_PROVIDERS.items() if ep in available), "cpu")
    for name, execution_provider in EXECUTION_PROVIDERS.items():
        if name != provider:
            continue
        if execution_provider not in available:
            raise ProviderError(
                f"provider {provider!r} is missing; this ONNX Runtime offers {', '.join(available)}; "
                'run pip install "xai-moe-audio[gpu]", or use --provider auto'
            )
        return name
    raise ConfigError(f"provider: found {provider!r}, expected {', '.join(get_args(Provider))}")


class SessionFactory:
    """Makes sessions that all use one provider and one set of thread options."""

    def __init__(self, provider: str = "auto", threads: int = 1) -> None:
        if threads < 1:
            raise ConfigError(f"threads: found {threads}, expected 1 or more")
        self.ort = load_onnxruntime()
        self.threads = threads
        self.provider = resolve(provider, self.ort.get_available_providers())
        self._may_fall_back = provider == "auto" and self.provider != "cpu"

    @property
    def prefers_few_sizes(self) -> bool:
        """Whether each new batch size costs time once: GPUs choose their kernels by it."""
        return self.provider != "cpu"

    def create(self, name: str, model: bytes, threads: int | None = None) -> onnxruntime.InferenceSession:
        """A session on the bytes of a graph; ``name`` is for messages.

        Raises:
            BundleError: ONNX Runtime refuses the graph.
            ProviderError: the provider was not used although it was asked for by name.
        """
        ort = self.ort
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = [(EXECUTION_PROVIDERS[self.provider], OPTIONS[self.provider])]
        if self.provider != "cpu":
            providers.append((EXECUTION_PROVIDERS["cpu"], {}))
        try:
            session = ort.InferenceSession(model, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise BundleError(f"{name}: ONNX Runtime {ort.__version__} refuses the graph: {error}") from error
        used = session.get_providers()[0]
        if used != EXECUTION_PROVIDERS[self.provider]:
            if not self._may_fall_back:
                raise ProviderError(
                    f"provider {self.provider!r} was asked for, but ONNX Runtime used {used}; check the GPU driver and "
                    "the CUDA and cuDNN libraries, or use --provider auto"
                )
            self.provider, self._may_fall_back = "cpu", False
        return session
