"""XAI-MoE-Audio: train a saliency-routed mixture of experts on labelled recordings, and export it for a device."""

from typing import TYPE_CHECKING, Any

from xaimoe_runtime import __version__
from xaimoe_runtime.user_name import ensure_user_name

if TYPE_CHECKING:
    from xaimoe_audio.classifier import MoEAudioClassifier

__all__ = ["MoEAudioClassifier", "__version__"]

ensure_user_name()  # before the first import of PyTorch


def __dir__() -> list[str]:
    """Return the public names, also the one that is imported when it is first asked for."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Imports the classifier, and with it PyTorch, when it is first asked for."""
    if name == "MoEAudioClassifier":
        from xaimoe_audio.classifier import MoEAudioClassifier

        return MoEAudioClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
