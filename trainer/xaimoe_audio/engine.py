"""The checkpoint as an engine: the same questions as to a bundle, answered by PyTorch."""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from xaimoe_audio.checkpoint import Checkpoint
from xaimoe_audio.config import ModelConfig
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.spectrogram.attributes import ATTRIBUTES
from xaimoe_runtime.errors import ConfigError, ProviderError
from xaimoe_runtime.result import Outputs
from xaimoe_runtime.schema import AttributeSpec, AudioSpec, Routing, TaskSpec

Floats = NDArray[np.float32]


def resolve_device(device: str) -> torch.device:
    """``auto``, ``cuda`` or ``cpu`` as a torch device.

    Raises:
        ConfigError: no such choice.
        ProviderError: CUDA was asked for by name and is not there.
    """
    if device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"device: found {device!r}, expected auto, cuda or cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise ProviderError("device 'cuda' was asked for, but PyTorch finds no CUDA device; use device='auto' or 'cpu'")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def audio_spec(config: ModelConfig) -> AudioSpec:
    """What a model listens to; windows follow each other without overlap."""
    frontend = config.frontend
    return AudioSpec(
        sample_rate=frontend.sample_rate,
        clip_samples=frontend.clip_samples,
        frame_hop=frontend.hop,
        window_hop=frontend.clip_samples,
    )


def task_spec(model: MoEAudioModel, thresholds: tuple[float, ...]) -> TaskSpec:
    """What a model answers."""
    prior, experts = (float(value) for value in model.head.temperatures)
    return TaskSpec(
        kind=model.config.task, labels=model.config.labels, thresholds=thresholds, temperatures=(prior, experts)
    )


class TorchEngine:
    """A model in PyTorch, with the runtime's interface."""

    def __init__(
        self,
        model: MoEAudioModel,
        thresholds: tuple[float, ...],
        device: torch.device,
        name: str,
        usual: tuple[AttributeSpec, ...] = (),
    ) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self.task = task_spec(model, thresholds)
        self.audio = audio_spec(model.config)
        self.provider = f"torch-{device.type}"
        self.name = name
        self.experts = model.config.experts
        self.pairs_possible = model.grid.count * len(self.experts)
        self.attribute_names = tuple(attribute for attribute, _ in ATTRIBUTES)
        self.usual = usual
        self.routing: Routing = "routed"

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: torch.device) -> TorchEngine:
        """The engine of a loaded checkpoint."""
        info = checkpoint.info
        return cls(checkpoint.model, info.thresholds, device, str(checkpoint.path), info.attributes)

    @torch.inference_mode()
    def run(self, waveform: Floats, source: Floats, routing: Routing) -> Outputs:
        """``waveform`` [N, S] at the model's rate and ``source`` [N, 2] -> outputs of the N windows."""
        start = perf_counter()
        inputs = (torch.from_numpy(array).to(self.device) for array in (waveform, source))
        scores, routed = self.model(*inputs, routing)
        gates = routed.gates_for(routing).cpu().numpy()
        return Outputs(
            scores=scores.cpu().numpy(),
            attributes=routed.attributes.cpu().numpy(),
            saliency=routed.saliency.cpu().numpy(),
            gates=gates,
            ms={"model": (perf_counter() - start) * 1e3},
            left_out=np.zeros_like(gates),
        )
