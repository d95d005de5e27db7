"""Checkpoints that somebody made to fill the memory, and others that are broken: refused in words, before they are
loaded."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from data.configs import model_config

from xaimoe_audio.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from xaimoe_audio.config import Overrides
from xaimoe_audio.model.moe import MoEAudioModel
from xaimoe_audio.tensor_file import TensorFile, TensorInfo
from xaimoe_audio.training.checkpoint_io import ReplacingCheckpointIO
from xaimoe_runtime.errors import BundleError

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model that was never trained."""
    torch.manual_seed(0)
    config = model_config("latency", LABELS, sample_rate=8_000, clip_s=0.5)
    info = CheckpointInfo(
        model=config,
        budget="latency",
        auto_config=True,
        overrides=Overrides(),
        thresholds=(0.5,) * len(LABELS),
        attributes=(),
        dataset_sha256="0" * 64,
        seed=0,
        versions={"torch": str(torch.__version__)},
        metrics={},
    )
    path = tmp_path_factory.mktemp("untrained") / "best.pt"
    save_checkpoint(path, MoEAudioModel(config), info)
    return path


def members_of(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def archive_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def content_of(raw: bytes) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(io.BytesIO(raw), weights_only=True)
    return content


def configured(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """Alter the configuration of a checkpoint."""

    def alter(raw: bytes) -> bytes:
        content = content_of(raw)
        config = json.loads(content["config"])
        change(config)
        return saved(content | {"config": json.dumps(config)})

    return alter


def of_frontend(**values: Any) -> Callable[[bytes], bytes]:
    return configured(lambda config: config["model"]["frontend"].update(values))


def of_model(**values: Any) -> Callable[[bytes], bytes]:
    return configured(lambda config: config["model"].update(values))


def compressed(raw: bytes) -> bytes:
    """2 GB of zeros in 2 MB."""
    members = members_of(raw)
    name = next(name for name in members if "/data/" in name)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in members.items():
            if other != name:
                archive.writestr(other, content)
        with archive.open(name, "w", force_zip64=True) as member:
            for _ in range(2048):
                member.write(bytes(1 << 20))
    return file.getvalue()


def pickled(*operations: bytes) -> Callable[[bytes], bytes]:
    """Put another pickle into the archive."""

    def alter(raw: bytes) -> bytes:
        members = members_of(raw)
        return archive_of(members | {"archive/data.pkl": b"\x80\x02" + b"".join(operations) + b"."})

    return alter


class Crafted:
    """Pickled as a tensor of any shape over a storage of two numbers."""

    def __init__(self, size: tuple[int, ...], stride: tuple[int, ...], offset: int) -> None:
        self.storage, self.arguments = torch.zeros(2)._typed_storage(), (offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_tensor_v2, (self.storage, *self.arguments)


def with_tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Callable[[bytes], bytes]:
    """Add a tensor that is larger than its storage."""
    return lambda raw: saved(content_of(raw) | {"large": Crafted(size, stride, offset)})


def lying_storage(raw: bytes) -> bytes:
    """A storage of 2**28 numbers whose bytes are not there: PyTorch's reader would read beyond them."""
    content = content_of(raw)
    content["state_dict"]["large"] = torch.zeros(77_777)
    members = members_of(saved(content))
    old, new = (b"J" + struct.pack("<i", count) for count in (77_777, 1 << 28))
    assert members["archive/data.pkl"].count(old) >= 1
    return archive_of(members | {"archive/data.pkl": members["archive/data.pkl"].replace(old, new)})


def twice(raw: bytes) -> bytes:
    file = io.BytesIO(archive_of(members_of(raw)))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/data.pkl", members_of(raw)["archive/data.pkl"])
    return file.getvalue()


def flipped(raw: bytes) -> bytes:
    """One bit of a weight is another."""
    name = max((name for name in members_of(raw) if "/data/" in name), key=lambda name: len(members_of(raw)[name]))
    at = raw.index(members_of(raw)[name]) + 100
    return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def most_labels(config: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    count = 1 << 16
    return [(config, {"thresholds": [0.5] * count}), (config["model"], {"labels": [f"{i}" for i in range(count)]})]


CRAFTED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "compressed": (compressed, "compressed, expected it as torch.save stores it"),
    "lying storage": (lying_storage, "expected 268435456 elements"),
    "expanded tensor": (with_tensor((1 << 30,), (0,)), "its storage has 2 elements"),
    "tensor beyond its storage": (with_tensor((2,), (1 << 30,)), "its storage has 2 elements"),
    "tensor before its storage": (with_tensor((2,), (1,), -1), "no whole number from 0 up"),
    "tensor of many axes": (with_tensor((1,) * 60, (1,) * 60), "60 axes"),
    "member twice": (twice, "a member twice"),
    "bit flipped": (flipped, "Bad CRC-32"),
    "call": (pickled(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R"), "found builtins.bytearray"),
    "tensor's constructor": (pickled(b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R"), "found torch.Tensor"),
    "memo": (pickled(b"]r\xff\xff\xff\x7f"), "memo number 2147483647"),
    "other operation": (pickled(b"ccollections\nOrderedDict\n)\x81"), "operation NEWOBJ"),
    "doublings": (pickled(b")q\x00", *(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(40))), "more than"),
    "n_fft": (of_frontend(n_fft=10**9, win_length=10**9), "n_fft"),
    "n_fft without a common divisor": (of_frontend(n_fft=65_521, win_length=65_521, hop=1), "clip_samples"),
    "matrix": (of_frontend(n_fft=65_521, win_length=65_521, hop=3, clip_samples=131_042), "at most 21000000"),
    "clip": (of_frontend(clip_samples=10**12), "clip_samples"),
    "frames": (of_frontend(hop=1, clip_samples=480_000), "frames: found"),
    "smoothing": (of_frontend(spectrogram="logmel+pcen", hop=32, clip_samples=640_000), "at most 6000 for"),
    "filters": (
        of_frontend(spectrogram="fcwt", hop=33, n_fft=512, clip_samples=480_000, fmin=0.2, bins=1024),
        "values, expected at most",
    ),
    "bands": (of_frontend(bins=10**6), "bins"),
    "rate": (of_frontend(sample_rate=10**30), "sample_rate"),
    "edges": (of_frontend(fmin=5.0, fmax=1e300), "fmin, fmax"),
    "width": (of_model(expert_width=10**6), "expert_width"),
    "largest width": (of_model(expert_width=256), "found shape"),
    "labels": (configured(lambda config: config["model"].update(labels=["a"] * 70_000)), "labels"),
    "most labels": (
        configured(
            lambda config: config.update(thresholds=[0.5] * 65_536) or config["model"].update(labels=["a"] * 65_536)
        ),
        "found shape",
    ),
    "patches": (of_model(tile=[48, 24], stride=[48, 10**6]), "patch grid"),
    "experts": (of_model(experts=["TransientExpert"] * 10**5), "experts"),
    "thresholds": (configured(lambda config: config.update(thresholds=[0.5])), "found 1 thresholds, expected 3"),
    "threshold": (configured(lambda config: config.update(thresholds=[0.5, 0.5, 1e9])), "thresholds"),
    "seed": (configured(lambda config: config.update(seed=10**30)), "seed"),
    "depth": (lambda raw: saved(content_of(raw) | {"config": "[" * 10**6}), "tensors and configuration do not fit"),
    "weights of another type": (
        lambda raw: saved(
            (content := content_of(raw))
            | {"state_dict": {name: one.double() for name, one in content["state_dict"].items()}}
        ),
        "torch.float64, expected",
    ),
}

LOAD = """
import sys
from pathlib import Path
from xaimoe_audio.checkpoint import load_checkpoint
from xaimoe_runtime.errors import BundleError

def peak():  # of this process alone; what getrusage says includes the one that started it
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

load_checkpoint(sys.argv[1])
print(peak())
for path in sorted(Path(sys.argv[2]).glob("*.pt")):
    try:
        load_checkpoint(path)
        print(path, "was loaded")
    except BundleError:
        pass
    print(path.name, peak(), file=sys.stderr)
print(peak())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_crafted_files_take_no_memory(untrained: Path, tmp_path: Path) -> None:
    for name, (alter, _) in CRAFTED.items():
        (tmp_path / f"{name}.pt").write_bytes(alter(untrained.read_bytes()))
    command = [sys.executable, "-c", LOAD, str(untrained), str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    before, *loaded, after = ran.stdout.splitlines()
    assert loaded == []
    assert float(after) - float(before) < 300, ran.stderr


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_file_is_refused_in_words(untrained: Path, tmp_path: Path, name: str) -> None:
    alter, message = CRAFTED[name]
    path = tmp_path / "best.pt"
    path.write_bytes(alter(untrained.read_bytes()))
    with pytest.raises(BundleError) as caught:
        load_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_described_is_what_is_loaded(untrained: Path) -> None:
    file = TensorFile(untrained.read_bytes())
    loaded, described = file.load(), file.content
    assert loaded.keys() == described.keys() == {"schema", "state_dict", "config"}
    assert described["config"] == loaded["config"]
    assert described["state_dict"] == {
        name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in loaded["state_dict"].items()
    }
    assert msgspec.json.decode(described["config"], type=CheckpointInfo).model.labels == LABELS


def test_tensors_of_any_layout_come_back(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    content = {"turned": base.transpose(0, 2), "part": base[:, 1], "none": torch.zeros(0, 3), "scalar": torch.tensor(7)}
    loaded = TensorFile(saved(content)).load()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in content.items())


def test_broken_files_end_in_words_and_nothing_else(untrained: Path, tmp_path: Path) -> None:
    """Bytes changed at random, cut and repeated, everywhere and in the pickle."""
    whole, generator = untrained.read_bytes(), np.random.default_rng(0)
    members = members_of(whole)
    path = tmp_path / "best.pt"
    for _ in range(50):
        target = bytearray(members["archive/data.pkl"] if generator.random() < 0.7 else whole)
        inside = len(target) < len(whole)
        for _ in range(int(generator.integers(1, 4))):
            target[int(generator.integers(len(target)))] = int(generator.integers(256))
        raw = archive_of(members | {"archive/data.pkl": bytes(target)}) if inside else bytes(target)
        path.write_bytes(raw[: int(generator.integers(len(raw)))] if generator.random() < 0.1 else raw)
        try:
            load_checkpoint(path)
        except BundleError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("alter", [compressed, lying_storage, lambda raw: raw[:1000], lambda raw: b""])
def test_lightnings_checkpoints_are_checked_as_well(
    untrained: Path, tmp_path: Path, alter: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(alter(untrained.read_bytes()))
    with pytest.raises(BundleError, match=r"last\.pt: cannot be resumed, the file is broken"):
        ReplacingCheckpointIO().load_checkpoint(path)


def test_lightnings_checkpoints_come_back(tmp_path: Path) -> None:
    content = {"epoch": 3, "state": {"weight": torch.arange(3.0)}, "lr": [0.1, None, True]}
    ReplacingCheckpointIO().save_checkpoint(content, tmp_path / "last.pt")
    loaded = ReplacingCheckpointIO().load_checkpoint(tmp_path / "last.pt")
    assert loaded["epoch"] == 3
    assert loaded["lr"] == [0.1, None, True]
    assert torch.equal(loaded["state"]["weight"], torch.arange(3.0))
