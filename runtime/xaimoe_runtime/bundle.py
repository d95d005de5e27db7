"""Opening a bundle: every file is read once, and what was checked is what is run."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.errors import BundleError
from xaimoe_runtime.schema import SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is valid and whose files are those that the manifest names."""

    path: Path
    manifest: Manifest
    files: dict[str, bytes]
    """Content of each graph, by its path in the bundle."""
    golden: dict[str, NDArray[np.float32]]
    """Arrays of the golden clip, named ``graph/tensor``."""

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Reads and checks a bundle folder.

        Raises:
            BundleError: no bundle, of a newer schema, incomplete, or altered.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        files = {graph.file: _read(folder, graph.file, graph.bytes, graph.sha256) for graph in manifest.graphs}
        golden = _read(folder, manifest.golden.file, manifest.golden.bytes, manifest.golden.sha256)
        return cls(folder, manifest, files, _read_arrays(folder / manifest.golden.file, golden))


def _read_arrays(path: Path, content: bytes) -> dict[str, NDArray[np.float32]]:
    try:
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError("one array instead of an archive")
        return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path}: not a NumPy archive of arrays ({error}); export the bundle again") from error


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder}: found no {MANIFEST}; expected the folder that `xaimoe-audio export` wrote")
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"{path}: found schema version {version}, this release reads up to {SCHEMA_VERSION}; "
                "upgrade xai-moe-audio, or export the checkpoint with this release"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except BundleError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not a valid manifest: {error}") from error
    if manifest.digest != manifest.compute_digest():
        raise BundleError(f"{path}: altered; it does not fit its own digest; export or copy the bundle again")
    _check_consistent(path, manifest)
    return manifest


class _Version(msgspec.Struct):
    schema_version: int


def _check_consistent(path: Path, manifest: Manifest) -> None:
    """What single fields cannot say: that the parts fit each other."""
    wanted: list[tuple[str, str | None]] = [(role, None) for role in ("frontend", "saliency", "router", "head")]
    wanted += [("expert", expert.name) for expert in manifest.experts]
    found = [(graph.role, graph.expert) for graph in manifest.graphs]
    if sorted(map(str, wanted)) != sorted(map(str, found)):
        missing = [_name(*item) for item in wanted if item not in found]
        extra = [_name(*item) for item in found if item not in wanted or found.count(item) > 1]
        raise BundleError(
            f"{path}: graphs do not match the experts; missing: {', '.join(missing) or 'none'}; "
            f"not expected: {', '.join(extra) or 'none'}; export the bundle again"
        )
    task = manifest.task
    if len(task.thresholds) != len(task.labels):
        raise BundleError(f"{path}: found {len(task.thresholds)} thresholds, expected {len(task.labels)}, one a label")
    if len(set(task.labels)) != len(task.labels):
        raise BundleError(f"{path}: found a label twice, expected different labels")
    wanted_sizes = _sizes(manifest)
    for graph in manifest.graphs:
        for tensor in (*graph.inputs, *graph.outputs):
            sizes = wanted_sizes.get(tensor.name, tensor.shape[1:])
            if tensor.shape[1:] != sizes:
                raise BundleError(
                    f"{path}: {graph.file} has {tensor.name} of shape {list(tensor.shape)}; "
                    f"labels, clip, grid and experts make it {[tensor.shape[0], *sizes]}; export the bundle again"
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
        "mass": (1,),
        "scores": (labels,),
    }
    channels = 1
    for tensor in manifest.graph("saliency").outputs:
        if source == "feature_map" and tensor.name == source and len(tensor.shape) == 4:
            channels = int(tensor.shape[1])
            sizes[source] = (channels, grid.rows, grid.columns)
    sizes["patches"] = (channels, *grid.tile)
    return sizes


def _name(role: str, expert: str | None) -> str:
    return role if expert is None else f"{role} {expert}"


def _read(folder: Path, file: str, size: int, sha256: str) -> bytes:
    """The content of one file of the bundle, its size and hash checked on the bytes that are returned."""
    parts = PurePosixPath(file)
    if parts.is_absolute() or ".." in parts.parts or "\\" in file or ":" in file or not parts.parts:
        raise BundleError(f"{folder / MANIFEST}: found the file path {file!r}, expected a path inside the bundle")
    path = folder
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
    try:
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
