"""Manifests and golden answers that somebody altered: refused at opening, in words, before memory is taken."""

from __future__ import annotations

import copy
import io
import json
import shutil
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.bundles import EditableBundle
from data.hand import description, hand_made

from xaimoe_runtime import BundleError
from xaimoe_runtime.bundle import Bundle

MB = 1 << 20


@pytest.fixture(scope="module")
def hand_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from xaimoe_export import export_bundle

    out = tmp_path_factory.mktemp("hand") / "bundle"
    export_bundle(hand_made(), description(), out)
    return out


@pytest.fixture
def edited(hand_bundle: Path, tmp_path: Path) -> EditableBundle:
    return EditableBundle(Path(shutil.copytree(hand_bundle, tmp_path / "bundle")))


def refusal(bundle: EditableBundle) -> str:
    """What is said of a bundle that is refused without taking memory."""
    bundle.save()
    tracemalloc.start()
    try:
        with pytest.raises(BundleError) as caught:
            Bundle.open(bundle.path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * MB
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(bundle.path))
    return message


def set_at(manifest: dict[str, Any], place: str, value: Any) -> None:
    *outer, last = place.split(".")
    inner: Any = manifest
    for name in outer:
        inner = inner[int(name) if name.isdigit() else name]
    inner[int(last) if last.isdigit() else last] = value


HOSTILE: list[tuple[str, Any, str]] = [
    ("audio.sample_rate", 10**30, "sample_rate"),
    ("audio.clip_samples", 10**12, "clip_samples"),
    ("audio.frame_hop", 10**9, "frame_hop"),
    ("audio.window_hop", 0, "window_hop"),
    ("frontend.context_samples", 480_000_000_000_000, "context_samples"),
    ("frontend.context_samples", 1_000_000, "context_samples 1000000, expected at most 384"),
    ("frontend.n_fft", 1 << 40, "n_fft"),
    ("frontend.win_length", 64, "a window of 64 samples, expected at most n_fft, 32"),
    ("frontend.bins", 1 << 30, "bins"),
    ("frontend.fmax", 1e300, "fmax"),
    ("frontend.fmax", 501.0, "fmax 501 Hz"),
    ("frontend.fmin", 500.0, "fmin 500"),
    ("frontend.centres_hz.0", 499.0, "centres of bands that do not rise"),
    ("frontend.backend", "a\x1b[2Jb", "backend"),
    ("task.labels.0", "calm\nerror: none", "labels"),
    ("task.labels.0", "calm\u202e", "labels"),
    ("task.labels.0", "", "labels"),
    ("task.labels.0", "a" * 100_000, "labels"),
    ("task.labels", [str(i) for i in range(70_000)], "labels"),
    ("task.thresholds.0", 1e9, "thresholds"),
    ("task.thresholds", [0.5], "found 1 thresholds, expected 2"),
    ("task.temperatures.0", 0, "temperatures"),
    ("attributes.0.q05", 2.0, "quantiles 2, 0, 1, expected them rising"),
    ("attributes.0.q95", 1e300, "q95"),
    ("attributes.1.name", "level", "attributes: found a name twice"),
    ("experts.0.band", [1.0, 0.0], "its lower end first"),
    ("experts.0.macs", 10**40, "macs"),
    ("features", 10**12, "features"),
    ("buckets", [1 << 16] * 2, "buckets"),
    ("buckets", list(range(1, 1000)), "buckets"),
    ("events.smooth", 10**12, "smooth"),
    ("events.refractory_s", 1e300, "refractory_s"),
    ("events.on", {"calm": 2.0}, "on"),
    ("patches.grid.rows", 16, "experts make it"),
    ("patches.grid", {"rows": 60_000, "columns": 60_000, "tile": [1, 1], "stride": [1, 1]}, "patch grid"),
    ("graphs.0.inputs.0.shape", ["B", 10**12], "shape"),
    ("graphs.0.inputs.0.shape", ["B", -384], "shape"),
    ("graphs.0.inputs.0.shape", ["B"] * 100, "shape"),
    ("graphs.0.bytes", 10**15, "bytes"),
    ("graphs.0.profiles", {"Q": {"min": 1, "opt": 1, "max": 1}}, "a profile for the axis 'Q'"),
    ("graphs.0.profiles.B", {"min": 2, "opt": 1, "max": 3}, "expected min <= opt <= max"),
    ("documents.0.file", "head.onnx", "a path twice"),
    ("provenance.seed", 10**40, "seed"),
    ("provenance.versions", {f"{i}": "1" for i in range(1000)}, "versions"),
    ("provenance.metrics", {"accuracy": 1e300}, "metrics"),
]


@pytest.mark.parametrize(("place", "value", "message"), HOSTILE)
def test_a_number_or_text_out_of_bounds_is_refused(
    edited: EditableBundle, place: str, value: Any, message: str
) -> None:
    set_at(edited.manifest, place, value)
    assert message in refusal(edited)


def test_a_window_that_does_not_fit_into_memory_is_refused(edited: EditableBundle) -> None:
    """Every number is within its own bound."""
    for graph in edited.manifest["graphs"]:
        for tensor in graph["inputs"] + graph["outputs"]:
            if tensor["name"] == "context":
                tensor["shape"] = ["B", 1 << 28]
    assert "a window takes 10" in refusal(edited)


def test_a_batch_that_does_not_fit_into_memory_is_refused(edited: EditableBundle) -> None:
    import msgspec

    from xaimoe_runtime.schema import Manifest
    from xaimoe_runtime.validation import find_defects

    edited.manifest["buckets"] = [1 << 16]
    for graph in edited.manifest["graphs"]:
        for tensor in graph["inputs"] + graph["outputs"]:
            if tensor["name"] == "patches":
                tensor["shape"] = ["M", 1, 128, 64]
    defects = list(find_defects(msgspec.convert(edited.manifest, Manifest, strict=False)))
    assert any("buckets: found 65536 patches" in defect for defect in defects)


# The golden answers --------------------------------------------------------------------------------------------------


def repacked(edited: EditableBundle, **changed: Any) -> None:
    arrays = dict(np.load(edited.path / "golden.npz")) | changed
    file = io.BytesIO()
    np.savez_compressed(file, **{name: value for name, value in arrays.items() if value is not None})
    edited.put(edited.manifest["golden"], file.getvalue())


@pytest.mark.parametrize(
    ("name", "shape"),
    [("waveform", (1, 5)), ("waveform", (384,)), ("scores/dense", (1, 3)), ("patches", (10_000, 1, 4, 4))],
)
def test_golden_answers_of_other_shapes_are_refused(edited: EditableBundle, name: str, shape: tuple[int, ...]) -> None:
    repacked(edited, **{name: np.zeros(shape, np.float32)})
    assert f"{name} has the shape {list(shape)}, the graphs have" in refusal(edited)


def test_golden_answers_that_no_graph_has_are_refused(edited: EditableBundle) -> None:
    repacked(edited, extra=np.zeros(3, np.float32))
    assert "found the array 'extra'" in refusal(edited)


def test_golden_answers_that_unpack_to_a_gigabyte_are_refused(edited: EditableBundle) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("waveform.npy", "w") as member:
        for _ in range(1024):
            member.write(bytes(MB))
    edited.put(edited.manifest["golden"], file.getvalue())
    assert "it unpacks to 1073741824 bytes, expected at most 268435456" in refusal(edited)


@pytest.mark.parametrize("size", [10, 1 << 20, 1 << 30])
def test_an_archive_that_says_another_size_than_it_has_is_refused(edited: EditableBundle, size: int) -> None:
    """The waveform's size in the directory and before the member is another; it unpacks to 300 MB."""
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 384), }"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("waveform.npy", "w") as member:
        member.write(header + b" " * (127 - len(header)) + b"\n")
        for _ in range(300):
            member.write(bytes(MB))
    raw, real = file.getvalue(), (128 + 300 * MB).to_bytes(4, "little")
    assert raw.count(real) == 2
    edited.put(edited.manifest["golden"], raw.replace(real, size.to_bytes(4, "little")))
    assert "not a NumPy archive of arrays" in refusal(edited)


def test_an_array_twice_is_refused(edited: EditableBundle) -> None:
    path = edited.path / "golden.npz"
    raw = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(raw, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("source.npy", archive.read("source.npy"))
    edited.put(edited.manifest["golden"], raw.getvalue())
    assert "an array twice" in refusal(edited)


# Anything ------------------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    *(None, True, "", "a", "\x00", "B", "\ud83d\ude00", [], {}, [[]], {"a": 1}),
    *(0, -1, 1, 2, 3, 255, 65_536, 2**31, 2**53, 2**63, 2**64, 10**30, -(10**30)),
    *(0.0, -0.0, 0.5, 1e-300, 1e300, -1e300, 1.5),
)


def places(inside: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a manifest has values, its lists and mappings too."""
    if path:
        yield path
    items = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for name, value in items:
        yield from places(value, (*path, name))


def mutated(manifest: dict[str, Any], draw: np.random.Generator) -> dict[str, Any]:
    """A manifest with one to three values replaced, repeated, removed or put elsewhere."""
    changed = copy.deepcopy(manifest)
    for _ in range(int(draw.integers(1, 4))):
        every = list(places(changed))
        *outer, last = every[int(draw.integers(len(every)))]
        inner: Any = changed
        for name in outer:
            inner = inner[name]
        way = draw.random()
        if way < 0.6:
            inner[last] = VALUES[int(draw.integers(len(VALUES)))]
        elif way < 0.7:
            del inner[last]
        elif way < 0.8 and isinstance(inner[last], list):
            inner[last] = inner[last] * int(draw.integers(2, 50))
        elif way < 0.9 and isinstance(inner[last], (int, float)):
            inner[last] = inner[last] * 10 ** int(draw.integers(1, 12))
        else:
            inner[last] = copy.deepcopy(manifest[list(manifest)[int(draw.integers(len(manifest)))]])
    return changed


def test_any_mutation_of_a_manifest_is_a_bundle_or_is_refused_in_words(edited: EditableBundle) -> None:
    draw, whole = np.random.default_rng(0), edited.manifest
    refused = 0
    for _ in range(500):
        edited.manifest = mutated(whole, draw)
        try:
            edited.save()
        except (TypeError, ValueError, OverflowError):  # what not even a manifest's digest can be computed of
            edited.file.write_text(json.dumps(edited.manifest), encoding="utf-8")
        try:
            Bundle.open(edited.path)
        except BundleError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 350, "the mutations change nothing"


def test_any_mutation_of_the_golden_answers_is_an_archive_or_is_refused_in_words(edited: EditableBundle) -> None:
    draw, whole = np.random.default_rng(0), (edited.path / "golden.npz").read_bytes()
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(int(draw.integers(1, 6))):
            content[int(draw.integers(len(content)))] = int(draw.integers(256))
        if draw.random() < 0.2:
            del content[int(draw.integers(len(content))) :]
        edited.put(edited.manifest["golden"], bytes(content) or b"P")
        edited.save()
        try:
            Bundle.open(edited.path)
        except BundleError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100
