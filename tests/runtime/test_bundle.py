"""Opening a bundle: what was altered, left out or does not fit is refused, and the message names it."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.bundles import EditableBundle
from data.onnx_models import field, varint

from xaimoe_runtime import BundleError
from xaimoe_runtime.bundle import Bundle
from xaimoe_runtime.schema import SCHEMA_VERSION


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    return str(caught.value)


def test_what_was_checked_is_what_is_kept(bundle: Path) -> None:
    opened = Bundle.open(str(bundle))
    assert set(opened.files) == {graph.file for graph in opened.manifest.graphs}
    assert all((bundle / file).read_bytes() == content for file, content in opened.files.items())
    assert opened.golden["waveform"].shape[1] == opened.manifest.audio.clip_samples


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["head.onnx", "golden.npz", "README.md", "experts/NoiseRobust_Broadband.onnx"])
def test_one_flipped_bit_is_noticed(bundle_copy: Path, file: str) -> None:
    content = bytearray((bundle_copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle_copy / file).write_bytes(content)
    message = refusal(bundle_copy)
    assert str(bundle_copy / file) in message
    assert "altered; found SHA-256" in message


@pytest.mark.parametrize("file", ["router.onnx", "golden.npz"])
def test_a_missing_file_is_named(bundle_copy: Path, file: str) -> None:
    (bundle_copy / file).unlink()
    assert f"{bundle_copy / file}: missing; the manifest names it" in refusal(bundle_copy)


def test_a_file_cut_short_is_noticed_by_its_size(bundle_copy: Path) -> None:
    path = bundle_copy / "frontend.onnx"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    assert f"{path}: found {size - 1} bytes, expected {size}" in refusal(bundle_copy)


@pytest.mark.parametrize("file", ["../x", "/etc/hostname", "experts/../../x", "a\\b.onnx", "C:x.onnx", ".", ""])
def test_a_path_out_of_the_bundle_is_refused(editable: EditableBundle, file: str) -> None:
    editable.graph("head")["file"] = file
    assert f"manifest.json: found the file path {file!r}, expected a path inside the bundle" in refusal(editable.save())


def test_a_link_is_refused_even_to_the_right_content(bundle_copy: Path, tmp_path: Path) -> None:
    path = bundle_copy / "head.onnx"
    path.rename(tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    assert f"{path}: found a link, expected a regular file" in refusal(bundle_copy)


def test_a_linked_folder_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "experts").rename(tmp_path / "elsewhere")
    (bundle_copy / "experts").symlink_to(tmp_path / "elsewhere")
    assert f"{bundle_copy / 'experts'}: found a link" in refusal(bundle_copy)


# Manifest ------------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert f"{tmp_path}: found no manifest.json; expected the folder that" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not json", b"[]", b"\xff\xfe", b"{}", b'{"schema_version": "1"}'])
def test_a_manifest_that_is_none_is_refused(bundle_copy: Path, content: bytes) -> None:
    (bundle_copy / "manifest.json").write_bytes(content)
    message = refusal(bundle_copy)
    assert message.startswith(f"{bundle_copy / 'manifest.json'}: not a valid manifest")
    assert message.endswith("; export or copy the bundle again")


def test_a_manifest_that_may_not_be_read_is_not_called_invalid(
    bundle_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    message = f"{bundle_copy / 'manifest.json'}: cannot be read (Permission denied); check who may read it"
    assert refusal(bundle_copy) == message


def test_a_newer_schema_is_refused_before_anything_else_is_read(editable: EditableBundle) -> None:
    editable.manifest = {"schema_version": SCHEMA_VERSION + 1, "of_another_kind": True}
    message = refusal(editable.save())
    assert f"found schema version {SCHEMA_VERSION + 1}, this release reads up to {SCHEMA_VERSION}; upgrade" in message


def set_field(manifest: dict[str, Any], field: str, value: object) -> None:
    *outer, last = field.split(".")
    for name in outer:
        manifest = manifest[name]
    manifest[last] = value


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("colour", "red", "unknown field `colour`"),
        ("routing", "sometimes", r"Invalid enum value 'sometimes' - at `\$.routing`"),
        ("audio.sample_rate", 0, r">= 1 - at `\$.audio.sample_rate`"),
        ("audio.clip_samples", "many", r"got `str` - at `\$.audio.clip_samples`"),
        ("bundle_id", "xyz", r"at `\$.bundle_id`"),
        ("patches.grid.stride", [5, 7], "do not cover"),
        ("task.thresholds", [0.5], "found 1 thresholds, expected 8, one a label"),
        ("task.labels", ["a"] * 8, "found a label twice"),
        ("buckets", [8, 4], "found buckets 8, 4, expected each once and, if numbers, rising"),
        ("precisions", ["fp32", "fp32"], "found precisions fp32, fp32, expected each once"),
        ("precisions", [], r"at `\$.precisions`"),
        ("patches.grid.rows", 2_000_000_000, "patch grid"),
        (
            "patches.source",
            "feature_map",
            "saliency.onnx: found inputs spectrogram and outputs .*, expected .*feature_map",
        ),
    ],
)
def test_a_field_that_makes_no_sense_is_named(editable: EditableBundle, field: str, value: object, what: str) -> None:
    set_field(editable.manifest, field, value)
    with pytest.raises(BundleError, match=what) as caught:
        Bundle.open(editable.save())
    assert str(editable.file) in str(caught.value)


def test_an_expert_without_a_graph_is_named(editable: EditableBundle) -> None:
    entry = editable.graph("expert")
    editable.manifest["graphs"].remove(entry)
    assert f"missing: expert {entry['expert']}; not expected: none" in refusal(editable.save())


def test_a_graph_without_an_expert_is_named(editable: EditableBundle) -> None:
    expert = editable.manifest["experts"].pop()
    assert f"missing: none; not expected: expert {expert['name']}" in refusal(editable.save())


def test_a_missing_role_is_named(editable: EditableBundle) -> None:
    editable.manifest["graphs"].remove(editable.graph("saliency"))
    assert "missing: saliency; not expected: none" in refusal(editable.save())


def test_two_graphs_of_one_role_are_refused(editable: EditableBundle) -> None:
    editable.manifest["graphs"].append(editable.graph("head"))
    assert "missing: none; not expected: head" in refusal(editable.save())


# Golden answers ------------------------------------------------------------------------------------------------------


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


def _objects() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, payload=np.array([{}], object))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"hello", b"PK\x03\x04 looks like an archive", _npy(), _objects()],
    ids=["text", "broken archive", "single array", "pickled objects"],
)
def test_golden_answers_that_are_no_archive_of_arrays_are_refused(editable: EditableBundle, content: bytes) -> None:
    editable.put(editable.manifest["golden"], content)
    assert f"{editable.path / 'golden.npz'}: not a NumPy archive of arrays" in refusal(editable.save())


def _archive(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def _array(header: str, content: bytes = b"") -> bytes:
    padded = header.encode() + b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + content


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            _archive(source=_array("{'descr': '<f4', 'fortran_order': False, 'shape': (100000, 100000), }")),
            "the shape [100000, 100000], the graphs have",
        ),
        (
            _archive(source=_array("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(8))),
            "no float32 array",
        ),
        (
            _archive(source=_array("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8))),
            "no float32 array",
        ),
        (_archive(source=b"(" * 1000), "no float32 array"),
        (_archive(source=b"").replace(b"\x08\x00", b"\x63\x00"), "compressed by another method"),
    ],
    ids=["40 GB", "float64", "objects", "nested", "another compression"],
)
def test_golden_answers_that_are_not_what_they_declare_are_refused(
    editable: EditableBundle, content: bytes, why: str
) -> None:
    editable.put(editable.manifest["golden"], content)
    message = refusal(editable.save())
    assert "not a NumPy archive of arrays" in message
    assert why in message


def test_golden_answers_that_unpack_too_large_are_refused(
    editable: EditableBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xaimoe_runtime.golden_archive.MAX_BYTES", 1000)
    assert "bytes, expected at most 1000" in refusal(editable.path)


def test_a_linked_manifest_is_refused(bundle_copy: Path, tmp_path: Path) -> None:
    (bundle_copy / "manifest.json").rename(tmp_path / "elsewhere.json")
    (bundle_copy / "manifest.json").symlink_to(tmp_path / "elsewhere.json")
    assert f"{bundle_copy / 'manifest.json'}: found a link" in refusal(bundle_copy)


# Graphs --------------------------------------------------------------------------------------------------------------


def test_a_graph_of_an_unknown_operator_is_refused(editable: EditableBundle) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(editable.path / "router.onnx")
    model.graph.node[0].op_type = "Unheard"
    editable.put(editable.graph("router"), model.SerializeToString())
    assert f"{editable.path / 'router.onnx'}: found the operator Unheard in node" in refusal(editable.save())


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_a_graph_with_other_names_than_the_manifest_says_is_refused(editable: EditableBundle, kind: str) -> None:
    editable.graph("head")[kind][0]["name"] = "something_else"
    message = refusal(editable.save())
    assert "head.onnx: found inputs" in message
    assert "something_else" in message


@pytest.mark.parametrize("kind", ["input", "output"])
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(editable: EditableBundle, kind: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(editable.path / "head.onnx")
    renamed = getattr(model.graph, kind)[0]
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["something_else" if name == renamed.name else name for name in names]
    renamed.name = "something_else"
    editable.put(editable.graph("head"), model.SerializeToString())
    message = refusal(editable.save())
    assert str(editable.path / "head.onnx") in message
    assert f"found {kind}s" in message
    assert "something_else" in message


def test_weights_outside_the_graph_are_refused(
    editable: EditableBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)  # ONNX Runtime would look for the weights here
    model = onnx.load(editable.path / "head.onnx")
    onnx.save(model, "head.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert Path("weights.bin").is_file()
    editable.put(editable.graph("head"), Path("head.onnx").read_bytes())
    message = refusal(editable.save())
    assert f"{editable.path / 'head.onnx'}: found the weights" in message
    assert "in another file, expected weights inside the graph" in message


def hidden(number: int, payload: bytes) -> bytes:
    """A field whose tag overflows 32 bits: some parsers drop what is over, others do not know the field."""
    return varint(number << 3 | 2 | 1 << 32) + varint(len(payload)) + payload


def test_weights_outside_the_graph_that_are_hidden_from_some_parsers_are_refused(editable: EditableBundle) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(editable.path / "head.onnx")
    graph = model.graph.SerializeToString()
    model.ClearField("graph")
    location = hidden(13, field(1, b"location") + field(2, b"etc/hostname"))
    place = varint(14 << 3) + varint(1) + field(14, b"")  # as a number, and once more with another wire type
    for secret in (location, place):
        tensor = field(8, b"secret") + varint(1 << 3) + varint(4) + varint(2 << 3) + varint(2) + secret
        content = model.SerializeToString() + field(7, graph + field(5, tensor + field(9, b"1234")))
        editable.put(editable.graph("head"), content)
        message = refusal(editable.save())
        assert f"{editable.path / 'head.onnx'}: no ONNX graph (byte " in message
        assert "expected" in message


def test_a_file_that_is_a_model_in_another_format_too_is_refused(editable: EditableBundle) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(editable.path / "head.onnx")
    model.ir_version, model.producer_name = 9, "ORTM"
    content = model.SerializeToString()
    assert content[4:8] == b"ORTM"
    editable.put(editable.graph("head"), content)
    assert "found a model in ONNX Runtime's own format (ORTM), expected an ONNX graph" in refusal(editable.save())


def test_what_is_run_is_what_was_checked_and_not_the_file(editable: EditableBundle) -> None:
    """Fields in another order: the same graph, other bytes."""
    onnx = pytest.importorskip("onnx")
    whole = onnx.load(editable.path / "head.onnx")
    graph = field(7, whole.graph.SerializeToString())
    usual = whole.SerializeToString()
    whole.ClearField("graph")
    editable.put(editable.graph("head"), graph + whole.SerializeToString())
    opened = Bundle.open(editable.save())
    assert (editable.path / "head.onnx").read_bytes() != opened.files["head.onnx"] == usual


def test_operators_of_an_unknown_domain_are_refused(editable: EditableBundle) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(editable.path / "head.onnx")
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    editable.put(editable.graph("head"), model.SerializeToString())
    message = refusal(editable.save())
    assert f"{editable.path / 'head.onnx'}: found the operator domain 'com.example'" in message


def test_a_manifest_that_was_altered_does_not_fit_its_digest(bundle_copy: Path) -> None:
    """One byte is enough: a sample rate of 18000 Hz is as valid as one of 16000, and every answer would be wrong."""
    manifest = bundle_copy / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"sample_rate": 16000', b'"sample_rate": 18000'))
    assert f"{manifest}: altered; it does not fit its own digest" in refusal(bundle_copy)


@pytest.mark.parametrize(
    ("where", "name", "value", "tensor"),
    [
        ("audio", "clip_samples", 16_000, "waveform"),
        ("frontend", "bins", 50, "spectrogram"),
        (None, "features", 7, "features"),
    ],
)
def test_a_manifest_that_does_not_fit_its_graphs_is_refused(
    bundle_copy: Path, where: str | None, name: str, value: int, tensor: str
) -> None:
    editable = EditableBundle(bundle_copy)
    (editable.manifest if where is None else editable.manifest[where])[name] = value
    assert f"has {tensor} of shape" in refusal(editable.save())


def test_bands_without_a_centre_are_refused(editable: EditableBundle) -> None:
    del editable.manifest["frontend"]["centres_hz"][0]
    with pytest.raises(BundleError, match="centres of bands, expected"):
        Bundle.open(editable.save())
