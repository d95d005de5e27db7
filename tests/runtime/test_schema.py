"""The published JSON Schemas are those of the code, and what leaves the process keeps to them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import pytest

from xaimoe_runtime import Runtime
from xaimoe_runtime.published import SCHEMAS, json_schemas
from xaimoe_runtime.schema import Manifest


def published(name: str) -> dict[str, object]:
    schema: dict[str, object] = json.loads((SCHEMAS / name).read_bytes())
    return schema


@pytest.mark.parametrize("name", ["manifest.schema.json", "records.schema.json"])
def test_the_published_schema_is_that_of_the_code(name: str) -> None:
    assert (SCHEMAS / name).read_bytes() == json_schemas()[name], "run `make schemas`"


@pytest.mark.parametrize("name", ["manifest.schema.json", "records.schema.json"])
def test_the_published_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(published(name))


def test_a_manifest_keeps_to_its_schema(bundle: Path) -> None:
    jsonschema.validate(json.loads((bundle / "manifest.json").read_bytes()), published("manifest.schema.json"))


def test_a_manifest_with_an_unknown_field_breaks_its_schema(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes()) | {"colour": "red"}
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate(manifest, published("manifest.schema.json"))


def test_a_manifest_survives_writing_and_reading(runtime: Runtime) -> None:
    assert msgspec.json.decode(msgspec.json.encode(runtime.manifest), type=Manifest) == runtime.manifest


def test_a_graph_is_found_by_role_and_expert(runtime: Runtime) -> None:
    manifest = runtime.manifest
    assert manifest.graph("head").file == "head.onnx"
    assert [manifest.graph("expert", name).expert for name in runtime.experts] == list(runtime.experts)


def test_a_graph_that_the_bundle_does_not_have_is_a_key_error(runtime: Runtime) -> None:
    with pytest.raises(KeyError, match="expert Nobody"):
        runtime.manifest.graph("expert", "Nobody")
