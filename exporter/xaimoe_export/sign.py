"""Signing a bundle's manifest with an Ed25519 key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xaimoe_runtime import ConfigError


def signer(key: Path) -> Callable[[bytes], bytes]:
    """What signs: bytes to their signature of 64 bytes.

    Args:
        key: file with an Ed25519 private key in PEM, not encrypted.

    Raises:
        ConfigError: the key cannot be used, or the package ``cryptography`` is missing.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise ConfigError(
            'sign: signing needs cryptography; install it with: pip install "xai-moe-audio[sign]"'
        ) from error
    wanted = "expected an Ed25519 private key in PEM, as from: openssl genpkey -algorithm ed25519 -out key.pem"
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"{key}: cannot be read ({error.strerror}); {wanted}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{key}: found no private key that can be used ({error}); {wanted}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{key}: found a {type(private).__name__}; {wanted}")
    return private.sign
