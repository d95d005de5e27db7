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


SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import torch
from xaimoe_audio import MoEAudioClassifier
from xaimoe_audio.training.module import TrainingModule

folder, out = map(Path, sys.argv[1:])

def tell(module):
    weights = b"".join(p.detach().numpy().tobytes() for p in module.parameters())
    told = {"weights": weights, "draws": torch.get_rng_state().numpy().tobytes()}
    told = {name: hashlib.sha256(content).hexdigest() for name, content in told.items()}
    (out / f"rank{module.global_rank}.json").write_text(json.dumps(told))

TrainingModule.on_train_end = tell
made = MoEAudioClassifier(budget="latency", device="cpu", clip_s=0.5, sample_rate=8_000)
made.fit(folder, epochs=1, batch_size=4, out_dir=out / "run", devices=2)
name = "first" if os.environ.get("LOCAL_RANK", "0") == "0" else "second"
(out / f"{name}.json").write_text(json.dumps(made.engine.model.head.temperatures.tolist()))
"""


def test_processes_draw_for_themselves_and_end_with_one_model(few: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(few), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3_000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["draws"] != second["draws"]
    # Both have the calibrated model, also the process that did not calibrate it.
    assert json.loads((tmp_path / "first.json").read_text()) == json.loads((tmp_path / "second.json").read_text())
