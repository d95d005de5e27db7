"""XAI-MoE-Audio's runtime: saliency-routed audio classification with numpy and ONNX Runtime alone.

>>> from xaimoe_runtime import Runtime
>>> runtime = Runtime.load("bundle")
>>> result = runtime.infer(samples, sample_rate=48_000)
>>> result.labels, result.scores, result.trace
>>> stream = runtime.open_stream(sample_rate=48_000, hop_s=0.5)
>>> windows = stream.push(samples)
"""

from xaimoe_runtime.errors import (
    AudioError,
    BundleError,
    ConfigError,
    DatasetError,
    OutputError,
    ProviderError,
    XaimoeError,
)
from xaimoe_runtime.result import Result, Trace, WindowResult
from xaimoe_runtime.runtime import Runtime
from xaimoe_runtime.schema import EventSettings
from xaimoe_runtime.streams.listener import Listener, Listening
from xaimoe_runtime.streams.stream import Stream

__version__ = "0.1.0"

__all__ = [
    "AudioError",
    "BundleError",
    "ConfigError",
    "DatasetError",
    "EventSettings",
    "Listener",
    "Listening",
    "OutputError",
    "ProviderError",
    "Result",
    "Runtime",
    "Stream",
    "Trace",
    "WindowResult",
    "XaimoeError",
    "__version__",
]


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
