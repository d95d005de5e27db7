"""The JSON Schemas of what leaves the process: the manifest and the records."""

from __future__ import annotations

from pathlib import Path

import msgspec

from xaimoe_runtime.records import Record
from xaimoe_runtime.schema import Manifest

SCHEMAS = Path(__file__).parent / "schemas"
"""Where the published JSON Schemas lie."""


def json_schemas() -> dict[str, bytes]:
    """The published JSON Schemas, by file name."""
    return {
        name: msgspec.json.format(msgspec.json.encode(msgspec.json.schema(kind)), indent=2) + b"\n"
        for name, kind in (("manifest.schema.json", Manifest), ("records.schema.json", Record))
    }


def write_schemas() -> None:
    """Writes the published JSON Schemas; ``make schemas`` calls it, and a test compares."""
    for file, content in json_schemas().items():
        (SCHEMAS / file).write_bytes(content)
