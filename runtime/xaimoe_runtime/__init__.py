"""XAI-MoE-Audio's runtime: saliency-routed audio classification with numpy and ONNX Runtime alone.

>>> from xaimoe_runtime import Runtime
>>> runtime = Runtime.load("bundle")
>>> result = runtime.infer(samples, sample_rate=48_000)
>>> result.labels, result.scores, result.trace
"""

from xaimoe_runtime.errors import (
    AudioError,
    BundleError,
    ConfigError,
    DatasetError,
    ProviderError,
    XaimoeError,
)
from xaimoe_runtime.result import Result, Trace, WindowResult
from xaimoe_runtime.runtime import Runtime

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "BundleError",
    "ConfigError",
    "DatasetError",
    "ProviderError",
    "Result",
    "Runtime",
    "Trace",
    "WindowResult",
    "XaimoeError",
    "__version__",
]
