"""Going on with a training that was stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from typer.testing import CliRunner

from xaimoe_audio import MoEAudioClassifier, cli
from xaimoe_audio.run import locked
from xaimoe_audio.training.loop import Patience
from xaimoe_audio.training.module import TrainingModule
from xaimoe_runtime.errors import ConfigError

TINY: dict[str, Any] = {"budget": "latency", "device": "cpu", "clip_s": 0.5, "sample_rate": 8_000}


@pytest.fixture(scope="module")
def one_epoch(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch on two classes, with seed 1."""
    out = tmp_path_factory.mktemp("one")
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=1, batch_size=4, out_dir=out)
    return out


def test_resume_goes_on_from_the_last_epoch(few: Path, one_epoch: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(one_epoch, tmp_path / "run"))
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=2, batch_size=4, out_dir=out, resume=True)
    before, after = (torch.load(run / "last.pt", weights_only=True) for run in (one_epoch, out))
    assert (before["epoch"], after["epoch"]) == (0, 1)
    assert after["global_step"] == 2 * before["global_step"]


KILLED = """
import os, signal, sys
from xaimoe_audio import MoEAudioClassifier

fsync, sendfile = os.fsync, os.sendfile

def name(descriptor):
    return os.readlink(f"/proc/self/fd/{descriptor}")

def kill_at_fsync(descriptor):
    if "last.pt.xaimoe" in name(descriptor):
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

def kill_at_copy(target, source, *arguments):  # by which a file is copied from another file system
    if "last.pt" in name(target) and name(source).startswith(os.environ["TMPDIR"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return sendfile(target, source, *arguments)

os.fsync, os.sendfile = kill_at_fsync, kill_at_copy
tiny = {"budget": "latency", "device": "cpu", "clip_s": 0.5, "sample_rate": 8_000}
MoEAudioClassifier(seed=1, **tiny).fit(sys.argv[1], epochs=2, batch_size=4, out_dir=sys.argv[2], resume=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks up a descriptor's file in /proc")
def test_a_kill_while_last_pt_is_written_leaves_the_earlier_one(few: Path, one_epoch: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(one_epoch, tmp_path / "run"))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        command = [sys.executable, "-c", KILLED, str(few), str(out)]
        environment = os.environ | {"TMPDIR": elsewhere}
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert (out / "last.pt").read_bytes() == (one_epoch / "last.pt").read_bytes()
    left = list(out.rglob("*last.pt.xaimoe*"))
    assert left, "the process was not killed in the middle of writing, so this proves nothing"
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=2, batch_size=4, out_dir=out, resume=True)
    assert torch.load(out / "last.pt", weights_only=True)["epoch"] == 1
    assert not any(path.exists() for path in left)


def test_experts_that_have_parted_are_not_made_copies_again_by_a_longer_run(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=2, batch_size=4, out_dir=tmp_path)
    monkeypatch.delattr(TrainingModule, "_heard_whole")  # two epochs of six would be the generalist's
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=6, batch_size=4, out_dir=tmp_path, resume=True)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["parted"] is True


def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_self: Patience, trainer: lightning.Trainer, _module: lightning.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=2, batch_size=4, out_dir=whole)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Patience, "on_train_epoch_start", stop)
        MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=2, batch_size=4, out_dir=stopped)
    assert not (stopped / "metrics.json").exists()
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=2, batch_size=4, out_dir=stopped, resume=True)
    assert (stopped / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("name", "force"), [("SIGHUP", True), ("SIGTERM", False)])
def test_a_signal_ends_a_training_in_order(
    few: Path, one_epoch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, force: bool
) -> None:
    """It comes in the second epoch, several times. The exit code is 130, and what is left can be resumed."""
    out = tmp_path / "run"
    if force:
        shutil.copytree(one_epoch, out)

    def send(_self: Patience, trainer: lightning.Trainer, _module: lightning.LightningModule) -> None:
        if trainer.current_epoch == 1:
            for _ in range(3):
                os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(Patience, "on_train_epoch_start", send)
    # Other tests may have left handlers of their own: Ray does.
    before = {which: signal.signal(which, signal.SIG_DFL) for which in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        options = [
            "--clip-s",
            "0.5",
            "--sample-rate",
            "8000",
            "--budget",
            "latency",
            "--device",
            "cpu",
            "--epochs",
            "3",
        ]
        command = ["train", "--dataset", few, "--out", out, "--batch-size", "4", *options, *(["--force"] * force)]
        ran = CliRunner().invoke(cli.app, [str(word) for word in command])
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
    assert ran.exit_code == 130, ran.output
    assert ran.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in ran.stderr
    folder = out / "new_run" if force else out
    assert torch.load(folder / "last.pt", weights_only=True)["epoch"] == 0
    assert not list(out.rglob("*.xaimoe*")) and not (folder / "metrics.json").exists()
    with locked(out):  # the lock is free
        pass
    if force:
        assert (out / "metrics.json").read_bytes() == (one_epoch / "metrics.json").read_bytes()


def test_a_run_that_has_gone_further_is_not_resumed_for_fewer_epochs(few: Path, tmp_path: Path) -> None:
    MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=2, batch_size=4, out_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"epochs: found 1, but .*last\.pt has 2 already; ask for more"):
        MoEAudioClassifier(seed=1, **TINY).fit(few, epochs=1, batch_size=4, out_dir=tmp_path, resume=True)


def test_resume_of_nothing_is_refused(few: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"last\.pt: no such file; expected the folder of an earlier run to resume"):
        MoEAudioClassifier(**TINY).fit(few, epochs=1, out_dir=tmp_path / "new", resume=True)
