"""Opening a bundle: every file is read once, and what was checked is what is run."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.errors import BundleError, ConfigError, XaimoeError
from xaimoe_runtime.golden_archive import read_golden
from xaimoe_runtime.schema import CONTRACT, EXCHANGE, LINE, SCHEMA_VERSION, STREAM, FileSpec, GraphSpec, Manifest, Role
from xaimoe_runtime.signature import check_signature
from xaimoe_runtime.streams.events import check_settings
from xaimoe_runtime.validation import find_defects

MANIFEST = "manifest.json"
NAMED = 5
"""Defects that an error names."""
LARGEST_MANIFEST = 1 << 23
"""Bytes."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is valid and whose files are those that the manifest names."""

    path: Path
    manifest: Manifest
    files: dict[str, bytes]
    """Each graph by its path in the bundle, as :func:`xaimoe_runtime.onnxfile.check` wrote it anew: the bytes that ONNX
    Runtime is given. Hashes in the manifest are those of the files."""
    golden: dict[str, NDArray[np.float32]]
    """Arrays of the golden clip, named ``graph/tensor``."""

    @classmethod
    def open(cls, path: str | Path, public_key: str | Path | None = None) -> Bundle:
        """Reads and checks a bundle folder.

        Args:
            path: the folder.
            public_key: file with an Ed25519 public key in PEM, whose owner must have signed the bundle.

        Raises:
            BundleError: no bundle, of a newer schema, incomplete, altered, not signed by the owner of the key, or with
                graphs that hold more than standard operators and their weights.
            ConfigError: the key cannot be used.
        """
        from xaimoe_runtime import onnxfile  # here, since an import of the package alone need not have it

        folder = Path(path)
        manifest = _read_manifest(folder, public_key)
        files = {
            graph.file: onnxfile.check(str(folder / graph.file), _read(folder, graph), graph, manifest).content
            for graph in manifest.graphs
        }
        for document in manifest.documents:
            _read(folder, document)
        golden = _read(folder, manifest.golden)
        return cls(folder, manifest, files, read_golden(folder / manifest.golden.file, golden, manifest))


def _read_manifest(folder: Path, public_key: str | Path | None) -> Manifest:
    path = folder / MANIFEST
    if path.is_symlink():
        raise BundleError(f"{path}: found a link, expected a regular file inside the bundle")
    if not path.is_file():
        raise BundleError(f"{folder}: found no {MANIFEST}; expected the folder that `xaimoe-audio export` wrote")
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise ValueError(f"found {path.stat().st_size} bytes, expected at most {LARGEST_MANIFEST}")
        raw = path.read_bytes()
        if public_key is not None:
            check_signature(folder, raw, public_key)
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"{path}: found schema version {version}, this release reads up to {SCHEMA_VERSION}; "
                "upgrade xai-moe-audio, or export the checkpoint with this release"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except XaimoeError:
        raise
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check who may read it") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not a valid manifest: {error}; export or copy the bundle again") from error
    if manifest.digest != manifest.compute_digest():
        raise BundleError(f"{path}: altered; it does not fit its own digest; export or copy the bundle again")
    _check_consistent(path, manifest)
    return manifest


class _Version(msgspec.Struct):
    schema_version: int


def _check_consistent(path: Path, manifest: Manifest) -> None:
    """What single fields cannot say: that the parts fit each other."""
    found_roles = {graph.role for graph in manifest.graphs}
    beside = [role for together in (STREAM, EXCHANGE) if found_roles & set(together) for role in together]
    wanted: list[tuple[Role, str | None]] = [(role, None) for role in (*LINE, *beside)]
    wanted += [("expert", expert.name) for expert in manifest.experts]
    found = Counter((graph.role, graph.expert, graph.precision) for graph in manifest.graphs)
    missing = [
        _name(role, expert) + ("" if precision == "fp32" else f" ({precision})")
        for precision in manifest.precisions
        for role, expert in wanted
        if not found[role, expert, precision] and not found[role, expert, "fp32"]
    ]
    extra = [
        _name(role, expert)
        for (role, expert, precision), count in found.items()
        if count > 1
        or (role, expert) not in (*wanted, ("fused", None))
        or precision not in (*manifest.precisions, "fp32")
    ]
    if missing or extra:
        raise BundleError(
            f"{path}: graphs do not match the experts; missing: {', '.join(missing) or 'none'}; "
            f"not expected: {', '.join(extra) or 'none'}; export the bundle again"
        )
    task = manifest.task
    if len(task.thresholds) != len(task.labels):
        raise BundleError(f"{path}: found {len(task.thresholds)} thresholds, expected {len(task.labels)}, one a label")
    if len(set(task.labels)) != len(task.labels):
        raise BundleError(f"{path}: found a label twice, expected different labels")
    for what, values in (
        ("precisions", manifest.precisions),
        ("names of experts", [expert.name for expert in manifest.experts]),
        ("buckets", manifest.buckets),
    ):
        if len(set(values)) < len(values) or (what == "buckets" and sorted(values) != list(values)):
            raise BundleError(
                f"{path}: found {what} {', '.join(map(str, values))}, expected each once and, if numbers, rising"
            )
    try:
        check_settings(manifest.events, task)
    except ConfigError as error:
        raise BundleError(f"{path}: {error}; export the bundle again") from error
    for graph in manifest.graphs:
        _check_names(path, graph, manifest.patches.source)
    wanted_sizes = _sizes(manifest)
    for graph in manifest.graphs:
        for tensor in (*graph.inputs, *graph.outputs):
            # A stream's waveform and frames have any length.
            sizes = tensor.shape[1:] if graph.role in STREAM else wanted_sizes.get(tensor.name, tensor.shape[1:])
            if tensor.shape[1:] != sizes:
                raise BundleError(
                    f"{path}: {graph.file} has {tensor.name} of shape {list(tensor.shape)}; "
                    f"labels, clip, grid and experts make it {[tensor.shape[0], *sizes]}; export the bundle again"
                )
    if len(manifest.frontend.centres_hz) != manifest.frontend.bins:
        raise BundleError(
            f"{path}: found {len(manifest.frontend.centres_hz)} centres of bands, expected {manifest.frontend.bins}"
        )
    if defects := list(islice(find_defects(manifest), NAMED)):
        raise BundleError(f"{path}: {'; '.join(defects)}; export the bundle again")


def _check_names(path: Path, graph: GraphSpec, patch_source: str) -> None:
    """That a graph takes and gives what its role promises."""
    inputs, outputs = (sorted(tensor.name for tensor in side) for side in (graph.inputs, graph.outputs))
    takes, gives = (sorted(names) for names in CONTRACT[graph.role])
    if patch_source != "feature_map" and "feature_map" not in outputs:
        gives = [name for name in gives if name != "feature_map"]
    if (inputs, outputs) != (takes, gives):
        raise BundleError(
            f"{path}: {graph.file}: found inputs {', '.join(inputs)} and outputs {', '.join(outputs)}, expected "
            f"{', '.join(takes)} and {', '.join(gives)}; export the bundle again"
        )


def _sizes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Sizes of the tensors, but for the first axis, that follow from the rest of the manifest."""
    frontend, grid, source = manifest.frontend, manifest.patches.grid, manifest.patches.source
    patches, experts, labels = grid.count, len(manifest.experts), len(manifest.task.labels)
    sizes: dict[str, tuple[int, ...]] = {
        "waveform": (manifest.audio.clip_samples,),
        "source": (2,),
        "spectrogram": (1, frontend.bins, frontend.frames),
        "attributes": (len(manifest.attributes),),
        "saliency": (patches,),
        "prior_logits": (labels,),
        "gates": (patches, experts),
        "gates_dense": (patches, experts),
        "position": (2,),
        "features": (manifest.features,),
        "mixture": (manifest.features,),
        "so_far": (manifest.features,),
        "mass": (1,),
        "scores": (labels,),
    }
    channels = 1
    saliency = next(graph for graph in manifest.graphs if graph.role == "saliency")  # of any precision
    for tensor in saliency.outputs:
        if source == "feature_map" and tensor.name == source and len(tensor.shape) == 4:
            channels = tensor.shape[1] if isinstance(tensor.shape[1], int) else channels
            sizes[source] = (channels, grid.rows, grid.columns)
    sizes["patches"] = (channels, *grid.tile)
    return sizes


def _name(role: str, expert: str | None) -> str:
    return role if expert is None else f"{role} {expert}"


def _read(folder: Path, spec: FileSpec) -> bytes:
    """The content of one file of the bundle, its size and hash checked on the bytes that are returned."""
    file, size, sha256 = spec.file, spec.bytes, spec.sha256
    parts = PurePosixPath(file)
    if parts.is_absolute() or ".." in parts.parts or "\\" in file or ":" in file or not parts.parts:
        raise BundleError(f"{folder / MANIFEST}: found the file path {file!r}, expected a path inside the bundle")
    path = folder
    try:
        for part in parts.parts:
            path = path / part
            if path.is_symlink():
                raise BundleError(f"{path}: found a link, expected a regular file inside the bundle")
        if not path.is_file():
            raise BundleError(f"{path}: missing; the manifest names it; export or copy the bundle again")
        if path.stat().st_size != size:
            raise BundleError(
                f"{path}: found {path.stat().st_size} bytes, expected {size}; export or copy the bundle again"
            )
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise BundleError(
            f"{path}: altered; found SHA-256 {found[:12]}…, the manifest has {sha256[:12]}…; "
            "export or copy the bundle again"
        )
    return content
