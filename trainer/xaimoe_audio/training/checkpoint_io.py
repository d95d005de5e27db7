"""How lightning's checkpoints reach the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from xaimoe_runtime.writing import replacing


class ReplacingCheckpointIO(TorchCheckpointIO):
    """Writes ``last.pt`` to a temporary file in the same folder, which takes its place once it is on the disk.

    Lightning writes to the system's temporary folder; from another file system it would copy over the earlier file.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OutputError: it cannot be written.
        """
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)
