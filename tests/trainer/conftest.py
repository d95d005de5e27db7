"""A small untrained model and a small dataset that the tests of the trainer share; nobody may alter them."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.configs import model_config, random_model

from xaimoe_audio.checkpoint import CheckpointInfo, save_checkpoint
from xaimoe_audio.config import ModelConfig, Overrides
from xaimoe_audio.model.moe import MoEAudioModel


@pytest.fixture(scope="session")
def config() -> ModelConfig:
    """The smaller model for clips of 1 s and three classes; tiles of half the height give several rows."""
    return model_config("latency", ("boat", "rain", "whale"), {"duration": 1.0}, tile=(24, 32))


@pytest.fixture(scope="module")
def few(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small part of the scenes: two classes."""
    folder = tmp_path_factory.mktemp("few")
    lines = (scenes / "metadata.csv").read_text().splitlines()
    kept = [line for line in lines[1:] if line.split(",")[2] in ("rain", "ping")]
    (folder / "metadata.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    (folder / "audio").symlink_to(scenes / "audio")
    return folder


@pytest.fixture(scope="session")
def model(config: ModelConfig) -> MoEAudioModel:
    """Random weights, in evaluation mode; the router's are large enough for clips to differ in their experts."""
    return random_model(config)


@pytest.fixture(scope="session")
def untrained(model: MoEAudioModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``best.pt`` of the model with random weights, for tests of what happens around a model."""
    path = tmp_path_factory.mktemp("untrained") / "best.pt"
    info = CheckpointInfo(
        model=model.config,
        budget="latency",
        auto_config=True,
        overrides=Overrides(seed=5),
        thresholds=(0.5,) * len(model.config.labels),
        attributes=(),
        dataset_sha256="0" * 64,
        seed=5,
        versions={},
        metrics={},
    )
    save_checkpoint(path, model, info)
    return path
