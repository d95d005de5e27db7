"""ONNX Runtime for browsers, from npm: fetched once when a live page is made, never by the page."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from xaimoe_runtime.caching import cache_folder
from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.writing import replacing

VERSION = "1.30.0"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package, as npm publishes it."""
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
TIMEOUT_S = 60.0
MOST_BYTES = 200_000_000


def onnxruntime_web(folder: Path | None = None) -> tuple[bytes, bytes]:
    """The script and the WebAssembly of ONNX Runtime for browsers.

    Args:
        folder: of the npm package, unpacked; else what was kept in the user's cache folder, or is fetched now.

    Raises:
        ConfigError: the folder lacks them, or they cannot be fetched, or are not what npm published.
    """
    if folder is not None:
        try:
            return (folder / "dist" / SCRIPT).read_bytes(), (folder / "dist" / WASM).read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{folder}: found no dist/{SCRIPT} and dist/{WASM} ({error.strerror}); expected the npm package "
                "onnxruntime-web, unpacked"
            ) from error
    kept = cache_folder("onnxruntime-web") / VERSION
    if not (kept / WASM).is_file():
        _fetch(kept)
    return (kept / SCRIPT).read_bytes(), (kept / WASM).read_bytes()


def _fetch(kept: Path) -> None:
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT_S) as answer:  # the address is ours
            package = answer.read(MOST_BYTES)
    except (urllib.error.URLError, OSError) as error:
        raise ConfigError(
            f"{URL}: cannot be fetched ({error}); give --onnxruntime-web FOLDER, the npm package onnxruntime-web "
            f"{VERSION}, unpacked"
        ) from error
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != SHA512:
        raise ConfigError(f"{URL}: found the digest {found}, expected {SHA512}; it is not what npm published")
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        for name in (SCRIPT, WASM):  # what tells that all is there comes last
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            with replacing(kept / name) as file:
                file.write(member.read())
