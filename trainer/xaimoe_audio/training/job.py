"""One training, as it was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from xaimoe_audio.config import Budget, Overrides
from xaimoe_audio.training.recipe import Recipe
from xaimoe_runtime.schema import TaskKind


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train on, with, and where to."""

    dataset_dir: Path
    metadata_csv: Path
    task: TaskKind
    budget: Budget
    auto_config: bool
    overrides: Overrides
    """What the user chose instead of the library."""
    epochs: int
    batch_size: int
    """Clips a step, on each device."""
    out: Path
    """The run folder."""
    channel: str
    device: torch.device
    recipe: Recipe | None = None
    """How to train; None for what the policy chooses."""
    teacher: Path | None = None
    """Another classifier to learn from, as an ONNX file."""
    devices: int = 1
    """Processes on each node, one for each GPU; on the CPU they share its cores."""
    nodes: int = 1
    """Machines; on each the same command runs, under a launcher such as torchrun or SLURM."""
    resume: bool = False
    """Go on with an earlier training in the run folder."""
    force: bool = False
    """Replace an earlier training in the run folder, once this one is whole."""
    allow_incomplete: bool = False
    """Train on recordings that cannot be decoded completely, too; else they are refused."""
    resume_from: Path | None = None
    """The ``last.pt`` to go on from; that in ``out`` if None."""

    @property
    def seed(self) -> int:
        """Of all randomness."""
        return self.overrides.seed or 0
