"""Signatures: who made a bundle is known, and a bundle of anyone else is refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from data.hand import Rich, write_keys

from xaimoe_export.sign import signer
from xaimoe_runtime import BundleError, ConfigError, Runtime
from xaimoe_runtime.bundle import Bundle


def test_a_signed_bundle_is_taken_with_the_key_of_its_maker_and_without(rich: Rich) -> None:
    assert Runtime.load(rich.bundle, "cpu", public_key=rich.public_key).labels
    assert Runtime.load(rich.bundle, "cpu").labels


def test_a_bundle_signed_by_another_is_refused(rich: Rich, tmp_path: Path) -> None:
    _, public = write_keys(tmp_path)
    with pytest.raises(BundleError, match=r"manifest\.sig: does not fit the manifest and .*public\.pem"):
        Runtime.load(rich.bundle, "cpu", public_key=public)


@pytest.mark.parametrize("change", ["manifest", "signature", "long signature", "no signature", "link"])
def test_an_altered_manifest_or_signature_is_refused(rich: Rich, tmp_path: Path, change: str) -> None:
    bundle = Path(shutil.copytree(rich.bundle, tmp_path / "bundle"))
    signature, manifest = bundle / "manifest.sig", bundle / "manifest.json"
    if change == "manifest":
        manifest.write_bytes(manifest.read_bytes() + b" ")  # which would fit its own digest
        assert Bundle.open(bundle)
    elif change == "signature":
        signature.write_bytes(bytes(64))
    elif change == "long signature":
        signature.write_bytes(signature.read_bytes() + b"\0")
    elif change == "link":
        signature.rename(tmp_path / "elsewhere.sig")
        signature.symlink_to(tmp_path / "elsewhere.sig")
    else:
        signature.unlink()
    why = (
        "found no manifest.sig, expected a bundle signed for" if change in ("no signature", "link") else "does not fit"
    )
    with pytest.raises(BundleError, match=why):
        Bundle.open(bundle, rich.public_key)


def other_key(folder: Path) -> tuple[Path, Path]:
    """An RSA key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private, public = folder / "rsa.pem", folder / "rsa.pub"
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_keys_that_cannot_be_used_are_named(rich: Rich, tmp_path: Path) -> None:
    private, public = other_key(tmp_path)
    (tmp_path / "text").write_text("no key")
    for path, why in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "text", "found no public key"),
        (public, "found a .*RSAPublicKey; expected an Ed25519 public key"),
    ):
        with pytest.raises(ConfigError, match=why):
            Bundle.open(rich.bundle, path)
    for path, why in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "text", "found no private key that can be used"),
        (private, "found a .*RSAPrivateKey; expected an Ed25519 private key"),
        (rich.public_key, "found no private key that can be used"),
    ):
        with pytest.raises(ConfigError, match=why):
            signer(path)


def test_without_cryptography_the_way_out_is_named(rich: Rich, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r'pip install "xai-moe-audio\[sign\]"'):
        Bundle.open(rich.bundle, rich.public_key)
    with pytest.raises(ConfigError, match=r'pip install "xai-moe-audio\[sign\]"'):
        signer(rich.private_key)
    assert Bundle.open(rich.bundle)
