"""``best.pt``: tensors, and one JSON string with everything needed to rebuild the model around them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch

from xaimoe_audio.config import Budget, ModelConfig, Overrides
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.spectrogram.frontend import Frontend
from xaimoe_audio.tensor_file import TensorFile, TensorInfo, read_file
from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.schema import AttributeSpec
from xaimoe_runtime.writing import replacing

SCHEMA = 4
NAMED = 5
"""Tensors that an error names."""
MAX_SEED = 2**63 - 1
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Text = Annotated[str, msgspec.Meta(max_length=200)]


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of its model."""

    model: ModelConfig
    budget: Budget
    auto_config: bool
    """Whether the library chose the rest by the dataset's profile."""
    overrides: Overrides
    """What the user chose instead of the library."""
    thresholds: tuple[Share, ...]
    """Score from which a class counts as present, per class."""
    attributes: Annotated[tuple[AttributeSpec, ...], msgspec.Meta(max_length=1000)]
    """Signal attributes as they are distributed over the training split."""
    dataset_sha256: Text
    seed: Annotated[int, msgspec.Meta(ge=0, le=MAX_SEED)]
    versions: Annotated[dict[Text, Text], msgspec.Meta(max_length=100)]
    metrics: Annotated[dict[Text, float], msgspec.Meta(max_length=1000)]
    """Headline figures on the validation and test splits."""

    def __post_init__(self) -> None:
        if len(self.thresholds) != len(self.model.labels):
            raise ValueError(
                f"found {len(self.thresholds)} thresholds, expected {len(self.model.labels)}, one for each label"
            )


@dataclass(frozen=True)
class Checkpoint:
    """A model in evaluation mode, and what is known about it."""

    model: MoEAudioModel
    info: CheckpointInfo
    path: Path
    sha256: str
    """Of the file."""


def save_checkpoint(path: Path, model: MoEAudioModel, info: CheckpointInfo) -> None:
    """Writes a checkpoint beside its place, then moves it there."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    content = {"schema": SCHEMA, "state_dict": state, "config": msgspec.json.encode(info).decode()}
    with replacing(path) as file:
        torch.save(content, file)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint; nothing in the file is executed.

    Raises:
        BundleError: missing, not a checkpoint, cut short, or of another schema.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(f"{path}: no such checkpoint; expected the best.pt of a training run")
    try:
        raw = read_file(path)
        file = TensorFile(raw)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except ValueError as error:
        raise BundleError(
            f"{path}: not a checkpoint of tensors and plain values ({error}): cut short, broken, or made to run code; "
            "expected the best.pt of a training run, get it again from where it was made"
        ) from error
    content = file.content
    if not isinstance(content, dict) or not {"schema", "state_dict", "config"} <= content.keys():
        raise BundleError(f"{path}: found no schema, state_dict and config; expected the best.pt of a training run")
    if content["schema"] != SCHEMA:
        raise BundleError(
            f"{path}: found checkpoint schema {str(content['schema'])[:40]}, this release reads {SCHEMA}; "
            "use the release that wrote it"
        )
    try:
        info = msgspec.json.decode(content["config"], type=CheckpointInfo)
        frontend = Frontend(info.model.frontend)
        check_state(content["state_dict"], info.model, frontend)
        model = MoEAudioModel(info.model, frontend)
        model.load_state_dict(file.load()["state_dict"])
    except (
        msgspec.DecodeError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        raise BundleError(f"{path}: tensors and configuration do not fit: {' '.join(str(error).split())}") from error
    return Checkpoint(model.eval(), info, path, hashlib.sha256(raw).hexdigest())


def check_state(state: Any, config: ModelConfig, frontend: Frontend) -> None:
    """Compare the tensors of a file with those of the model, which is built without any memory for its weights.

    Args:
        state: a :class:`~xaimoe_audio.tensor_file.TensorInfo` for each name.
        config: of the model.
        frontend: of the model.

    Raises:
        ValueError: a tensor is missing, too many, or of another shape or type.
    """
    with torch.device("meta"):
        expected = {name: TensorInfo(tuple(value.shape), value.dtype) for name, value in _state(config, frontend)}
    if not isinstance(state, dict) or not all(isinstance(value, TensorInfo) for value in state.values()):
        raise ValueError("state_dict: found other things than tensors by name")
    missing, extra = sorted(expected.keys() - state.keys()), sorted(map(str, state.keys() - expected.keys()))
    if missing or extra:
        raise ValueError(
            f"state_dict: missing {', '.join(missing[:NAMED]) or 'none'}; "
            f"not expected {', '.join(extra[:NAMED])[:1000] or 'none'}"
        )
    for name, value in expected.items():
        actual = state[name]
        if actual != value:
            raise ValueError(
                f"{name}: found shape {list(actual.shape)} of {actual.dtype}, expected {list(value.shape)} of "
                f"{value.dtype}"
            )


def _state(config: ModelConfig, frontend: Frontend) -> Iterable[tuple[str, torch.Tensor]]:
    return MoEAudioModel(config, frontend).state_dict().items()
