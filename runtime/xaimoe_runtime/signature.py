"""Who made a bundle: the Ed25519 signature of its manifest, which in turn has the hash of every other file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xaimoe_runtime.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE = "manifest.sig"
"""Beside the manifest; the 64 bytes of the signature."""
WANTED = "expected an Ed25519 public key in PEM, as from: openssl pkey -in key.pem -pubout"


def check_signature(folder: Path, manifest: bytes, public_key: str | Path) -> None:
    """Refuses a manifest that the owner of a key has not signed.

    Args:
        folder: the bundle.
        manifest: the bytes of its manifest.
        public_key: file with an Ed25519 public key in PEM.

    Raises:
        BundleError: unsigned, or signed by another.
        ConfigError: the key cannot be used, or the package ``cryptography`` is missing.
    """
    key = _public_key(Path(public_key))
    path = folder / SIGNATURE
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            f"{folder}: found no {SIGNATURE}, expected a bundle signed for {public_key}; sign it with "
            "`xaimoe-audio export --sign KEY`, or load it without a public key"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        with path.open("rb") as file:
            key.verify(file.read(65), manifest)
    except InvalidSignature as error:
        raise BundleError(
            f"{path}: does not fit the manifest and {public_key}; the bundle was altered, or signed by another"
        ) from error


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise ConfigError(
            'public_key: checking signatures needs cryptography; install it with: pip install "xai-moe-audio[sign]"'
        ) from error
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); expected an Ed25519 public key in PEM"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: found no public key ({error}); {WANTED}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: found a {type(key).__name__}; {WANTED}")
    return key
