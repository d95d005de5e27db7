"""Several processes train one model together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

from xaimoe_audio.checkpoint import load_checkpoint


def test_two_processes_on_the_cpu_train_one_model(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        str(Path(sys.executable).with_name("xaimoe-audio")),
        "train",
        "--dataset",
        str(scenes),
        "--out",
        str(out),
    ]
    command += ["--epochs", "2", "--batch-size", "4", "--budget", "latency", "--device", "cpu", "--devices", "2"]
    command += ["--clip-s", "0.5", "--sample-rate", "8000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["test"]["recordings"] == 8
    load_checkpoint(out / "best.pt")
    last = torch.load(out / "last.pt", weights_only=True)
    curves = pd.read_csv(out / "logs" / "metrics.csv").groupby("epoch").last()
    assert len(curves) == 2
    # 32 training recordings of two clips, four clips a step in each of two processes, two epochs.
    assert last["global_step"] == 2 * 64 // 8
    assert not [path.name for path in out.rglob("*") if path.name.startswith(".")]
