"""How lightning's checkpoints reach the disk, and come back from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from xaimoe_audio.tensor_file import TensorFile, read_file
from xaimoe_runtime.errors import BundleError
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

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Return a checkpoint, on the CPU; nothing in the file is executed, whatever ``weights_only`` says.

        Raises:
            BundleError: it is broken, or not what it says.
        """
        try:
            return TensorFile(read_file(Path(path))).load()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        except ValueError as error:
            raise BundleError(f"{path}: cannot be resumed, the file is broken ({error})") from error
