"""What ``fit`` leaves behind in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xaimoe_audio.checkpoint import load_checkpoint
from xaimoe_audio.scenes import CLASSES


@pytest.mark.parametrize(
    "name",
    [
        *("best.pt", "last.pt", "run_config.json", "profile.json", "policy.json", "spectro_config.json"),
        *("metrics.json", "expert_usage.json", "architecture.txt"),
    ],
)
def test_the_run_folder_holds(run_folder: Path, name: str) -> None:
    assert (run_folder / name).stat().st_size > 0


def test_the_run_folder_holds_no_left_overs(run_folder: Path) -> None:
    assert not [path.name for path in run_folder.rglob("*") if path.name.startswith(".")]


def test_the_run_config_says_how_to_repeat_the_run(run_folder: Path) -> None:
    config = json.loads((run_folder / "run_config.json").read_text())
    assert config["labels"] == sorted(CLASSES)
    assert (config["seed"], config["epochs"], config["batch_size"]) == (3, 8, 4)
    assert config["overrides"] == {"seed": 3}
    assert (config["task"], config["budget"], config["device"]) == ("single_label", "latency", "cpu")
    assert {"torch", "python", "xai-moe-audio"} <= config["versions"].keys()
    assert len(config["dataset_sha256"]) == 64
    assert config["recipe"]["learning_rate"] > 0
    assert config["policy"] == json.loads((run_folder / "policy.json").read_text())
    assert config["profile"] == json.loads((run_folder / "profile.json").read_text())
    assert config["model"]["frontend"] == json.loads((run_folder / "spectro_config.json").read_text())


def test_the_policy_follows_the_profile(run_folder: Path) -> None:
    """The scenes come at 8 to 48 kHz; the model's rate is one that half of them reach."""
    policy = json.loads((run_folder / "policy.json").read_text())
    chosen = {choice["choice"]: choice for choice in policy["choices"]}
    assert chosen["sample_rate"]["rule"] == "mixture of rates"
    assert chosen["sample_rate"]["value"] <= policy["facts"]["rate"] * 1.1
    assert load_checkpoint(run_folder / "best.pt").info.model.frontend.sample_rate == chosen["sample_rate"]["value"]


def test_metrics_cover_val_and_test_and_every_routing(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert set(metrics) == {"val", "test"}
    for figures in metrics.values():
        assert figures["recordings"] == len(CLASSES)
        assert set(figures["by_routing"]) == {"routed", "dense", "glance"}
        assert figures["by_routing"]["routed"] == {"accuracy": figures["accuracy"], "ece": figures["ece"]}
        assert np.shape(figures["confusion"]) == (len(CLASSES), len(CLASSES))


def test_metrics_count_the_multiply_accumulates_of_a_window(run_folder: Path) -> None:
    metrics = json.loads((run_folder / "metrics.json").read_text())
    usage = json.loads((run_folder / "expert_usage.json").read_text())
    for split, figures in metrics.items():
        macs = figures["macs"]
        assert macs["floor"] <= macs["routed"] <= macs["dense"]
        assert macs["routed"] == pytest.approx(macs["floor"] + macs["experts_share"] * macs["experts_dense"])
        assert (macs["experts_share"] > 0) == (usage[split]["pairs_per_window"] > 0)


@pytest.mark.parametrize("name", ["confusion_val.png", "confusion_test.png", "learning_curves.png"])
def test_figures_are_drawn(run_folder: Path, name: str) -> None:
    assert (run_folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_learning_curves_follow_the_saliency(run_folder: Path) -> None:
    curves = pd.read_csv(run_folder / "logs" / "metrics.csv").groupby("epoch").last()
    assert len(curves) == 8
    for column in ("loss", "val_loss", "val_score", "val_pairs_share", "val_experts_share"):
        assert curves[column].notna().all()
    assert curves["val_rank_correlation"].between(-1, 1).all()
    assert curves["val_deletion"].between(0, 1).all()
    assert curves["val_insertion"].between(0, 1).all()


def test_expert_usage_adds_up(run_folder: Path) -> None:
    usage = json.loads((run_folder / "expert_usage.json").read_text())
    config = load_checkpoint(run_folder / "best.pt").info.model
    for found in usage.values():
        assert set(found["selection_rate"]) == set(config.experts)
        windows = sum(found["k_histogram"].values())
        assert found["k_mean"] == pytest.approx(sum(int(k) * n for k, n in found["k_histogram"].items()) / windows)
        assert found["k_mean"] == pytest.approx(sum(found["selection_rate"].values()))
        assert all(n == 0 for k, n in found["k_histogram"].items() if int(k) > config.router.k_max)
        assert found["pairs_per_window"] <= config.router.max_pairs
        if found["pairs_per_window"]:
            assert sum(found["pair_share"].values()) == pytest.approx(1)
            assert 1 <= found["load_balance"] <= len(config.experts)


def test_training_adds_no_file_to_the_dataset(scenes: Path, run_folder: Path) -> None:
    assert {path.name for path in scenes.iterdir()} == {"audio", "metadata.csv"}
