"""Bundles that a test alters on purpose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


class EditableBundle:
    """A bundle whose manifest is open for changes; ``save`` writes it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "manifest.json"
        self.manifest: dict[str, Any] = json.loads(self.file.read_bytes())

    def save(self) -> Path:
        """Writes the manifest and gives the bundle's folder."""
        self.file.write_text(json.dumps(self.manifest))
        return self.path

    def graph(self, role: str) -> dict[str, Any]:
        """The manifest's entry of the first graph of a role."""
        entry: dict[str, Any] = next(graph for graph in self.manifest["graphs"] if graph["role"] == role)
        return entry

    def put(self, entry: dict[str, Any], content: bytes) -> None:
        """Gives the entry's file other content, with a size and a hash that fit: altered, yet consistent."""
        (self.path / entry["file"]).write_bytes(content)
        entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()
