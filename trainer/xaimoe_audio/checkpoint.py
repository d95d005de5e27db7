"""``best.pt``: tensors, and one JSON string with everything needed to rebuild the model around them."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from xaimoe_audio.config import Budget, ModelConfig, Overrides
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.schema import AttributeSpec
from xaimoe_runtime.writing import replacing

SCHEMA = 4


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint says of its model."""

    model: ModelConfig
    budget: Budget
    auto_config: bool
    """Whether the library chose the rest by the dataset's profile."""
    overrides: Overrides
    """What the user chose instead of the library."""
    thresholds: tuple[float, ...]
    """Score from which a class counts as present, per class."""
    attributes: tuple[AttributeSpec, ...]
    """Signal attributes as they are distributed over the training split."""
    dataset_sha256: str
    seed: int
    versions: dict[str, str]
    metrics: dict[str, float]
    """Headline figures on the validation and test splits."""


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
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    try:
        content = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes make the unpickler fail in any way there is
        # In our words: torch's advise to load it without this protection.
        raise BundleError(
            f"{path}: not a checkpoint of tensors and plain values ({type(error).__name__}): cut short, broken, or "
            "made to run code; expected the best.pt of a training run, get it again from where it was made"
        ) from error
    if not isinstance(content, dict) or not {"schema", "state_dict", "config"} <= content.keys():
        raise BundleError(f"{path}: found no schema, state_dict and config; expected the best.pt of a training run")
    if content["schema"] != SCHEMA:
        raise BundleError(
            f"{path}: found checkpoint schema {content['schema']}, this release reads {SCHEMA}; "
            "use the release that wrote it"
        )
    try:
        info = msgspec.json.decode(content["config"], type=CheckpointInfo)
        model = MoEAudioModel(info.model)
        model.load_state_dict(content["state_dict"])
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
