"""XAI-MoE-Audio: train a saliency-routed mixture of experts on labelled recordings, and export it for a device."""

from typing import TYPE_CHECKING, Any

from xaimoe_runtime import __version__

if TYPE_CHECKING:
    from xaimoe_audio.classifier import MoEAudioClassifier

__all__ = ["MoEAudioClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    """Imports the classifier, and with it PyTorch, when it is first asked for."""
    if name == "MoEAudioClassifier":
        from xaimoe_audio.classifier import MoEAudioClassifier

        return MoEAudioClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
