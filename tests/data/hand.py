"""A model made by hand, that is none of the product's: any five roles can be exported."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import Tensor, nn

from data import noise
from xaimoe_export import BundleDescription, ExportReport, GraphModule, Recordings
from xaimoe_runtime.grid import PatchGrid
from xaimoe_runtime.schema import (
    AttributeSpec,
    AudioSpec,
    ExpertSpec,
    FrontendSpec,
    PatchSpec,
    Provenance,
    Routing,
    TaskSpec,
)

RATE, HOP, BINS, FRAMES = 1_000, 32, 8, 12
CLIP = HOP * FRAMES
WIDE_ONE = "expert Bright one"
"""The graph that gains from INT8."""
LABELS = ("calm", "loud")
EXPERTS = ("Bright one", "dull")
FEATURES = 3
WIDE = 128
"""Channels of the expert that is made of convolutions."""
GRID = PatchGrid(rows=BINS, columns=FRAMES, tile=(4, 4), stride=(4, 2))


class HandFrontend(nn.Module):
    """Power of short stretches, laid out as a picture; the level as the one attribute."""

    def forward(self, waveform: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        power = torch.square(waveform).reshape(-1, FRAMES, BINS, HOP // BINS).mean(3).transpose(1, 2)
        level = torch.log(torch.clamp(power.mean((1, 2)), min=1e-9))
        return torch.log(torch.clamp(power, min=1e-6))[:, None] / 10, torch.stack([level, source[:, 1]], dim=1)


class HandSaliency(nn.Module):
    """No feature map: patches come from the spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(1, 1, 3, padding=1)
        self.prior = nn.Linear(BINS, len(LABELS))
        with torch.no_grad():  # it knows calm from loud
            self.prior.weight.copy_(torch.tensor([[-5.0], [5.0]]).expand(-1, BINS) / BINS)
            self.prior.bias.copy_(torch.tensor([-3.0, 3.0]))

    def forward(self, spectrogram: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tiles = nn.functional.avg_pool2d(spectrogram + 0.1 * self.look(spectrogram), GRID.tile, GRID.stride).flatten(1)
        rows = spectrogram.mean((1, 3))
        return torch.softmax(tiles, dim=1), rows, self.prior(rows)


class HandRouter(nn.Module):
    """Salient patches go to one expert or to the other, by the context."""

    def forward(self, saliency: Tensor, context: Tensor, attributes: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.sigmoid(context.mean(1) + 0.01 * attributes[:, 0])
        both = torch.stack([share, 1 - share], dim=1)
        dense = saliency[:, :, None] * both[:, None]
        return torch.relu(dense - 0.03), dense


class HandExpert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(GRID.tile[0] * GRID.tile[1] + 2, FEATURES)

    def forward(self, patches: Tensor, position: Tensor) -> Tensor:
        return torch.tanh(self.answer(torch.cat([patches.flatten(1), position], dim=1)))


class HandConvolutions(nn.Module):
    """An expert wide enough to gain from INT8."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, WIDE, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDE, WIDE, 1),
            nn.ReLU(),
            nn.Conv2d(WIDE, FEATURES, 1),
        )

    def forward(self, patches: Tensor, position: Tensor) -> Tensor:
        return torch.tanh(self.body(patches).mean((2, 3)) + position[:, :1])


class HandHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = nn.Linear(FEATURES, len(LABELS))

    def forward(self, mixture: Tensor, mass: Tensor, prior_logits: Tensor) -> Tensor:
        return torch.softmax(prior_logits + self.answer(mixture) * mass, dim=1)


def hand_made(head: nn.Module | None = None) -> tuple[GraphModule, ...]:
    torch.manual_seed(0)
    experts = [
        GraphModule("expert", module.eval(), name)
        for name, module in zip(EXPERTS, (HandConvolutions(), HandExpert()), strict=True)
    ]
    return (
        GraphModule("frontend", HandFrontend().eval()),
        GraphModule("saliency", HandSaliency().eval()),
        GraphModule("router", HandRouter().eval()),
        *experts,
        GraphModule("head", (head or HandHead()).eval()),
    )


def description(routing: Routing = "routed") -> BundleDescription:
    return BundleDescription(
        task=TaskSpec(kind="single_label", labels=LABELS, thresholds=(0.5, 0.5), temperatures=(1.0, 1.0)),
        audio=AudioSpec(sample_rate=RATE, clip_samples=CLIP, frame_hop=HOP, window_hop=CLIP),
        frontend=FrontendSpec(
            backend="by hand",
            streamable=False,
            n_fft=HOP,
            win_length=HOP,
            bins=BINS,
            frames=FRAMES,
            fmin=0.0,
            fmax=RATE / 2,
            centres_hz=tuple((i + 0.5) * RATE / 2 / BINS for i in range(BINS)),
            context_samples=0,
        ),
        patches=PatchSpec(source="spectrogram", grid=GRID),
        attributes=tuple(AttributeSpec(name=name, unit="1", q05=0, q50=0, q95=1) for name in ("level", "clipping")),
        experts=tuple(
            ExpertSpec(name=name, family="hand", purpose="a test", band=(0, 1), parameters=57, macs=54)
            for name in EXPERTS
        ),
        features=FEATURES,
        provenance=Provenance(
            exporter_version="0",
            checkpoint_sha256=hashlib.sha256(b"hand").hexdigest(),
            dataset_sha256=hashlib.sha256(b"none").hexdigest(),
            seed=0,
            versions={},
            metrics={},
        ),
        routing=routing,
    )


def recordings(count: int, seed: int = 0) -> Recordings:
    """Calm and loud ones by turns, two windows each."""
    draw = np.random.default_rng(seed)
    levels = np.where(np.arange(count) % 2, 0.5, 0.005) * draw.uniform(0.8, 1.2, count)
    windows = [noise(CLIP, seed + i, float(levels[i // 2])) for i in range(2 * count)]
    return Recordings(
        waveform=np.stack(windows).astype(np.float32),
        source=np.array([[RATE, 0.0]] * (2 * count), np.float32),
        owners=np.repeat(np.arange(count), 2),
        targets=np.eye(2, dtype=np.float32)[np.arange(count) % 2],
    )


@dataclass(frozen=True)
class Rich:
    """The bundle and what lies around it."""

    bundle: Path
    report: ExportReport
    triton: Path
    private_key: Path
    public_key: Path


def write_keys(folder: Path) -> tuple[Path, Path]:
    """A new private and its public key, as PEM files."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "public.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public
