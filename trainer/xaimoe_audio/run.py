"""The run folder: the files that a training leaves, and how they are written."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.file_lock import lock_folder
from xaimoe_runtime.writing import replacing

BEST = "best.pt"
LAST = "last.pt"
RUN_CONFIG = "run_config.json"
PROFILE = "profile.json"
POLICY = "policy.json"
SPECTRO_CONFIG = "spectro_config.json"
METRICS = "metrics.json"
EXPERT_USAGE = "expert_usage.json"
EXPLAIN = "explain"
ARCHITECTURE = "architecture.txt"
CURVES = "learning_curves.png"
LOGS = "logs"
CONFUSIONS = {split: f"confusion_{split}.png" for split in ("val", "test")}
RECOGNISED = (BEST, LAST)
"""Files of which one at least is in every run folder that has something to lose."""
FILES = (
    *(*RECOGNISED, RUN_CONFIG, PROFILE, POLICY, SPECTRO_CONFIG),
    *(METRICS, EXPERT_USAGE, ARCHITECTURE, CURVES, *CONFUSIONS.values()),
)
FOLDERS = (LOGS, EXPLAIN)
NEW_RUN = "new_run"
"""Folder in the run folder where the successor of an earlier run is trained."""
LOCK = ".training.lock"
WHOLE = "whole.json"
"""File in NEW_RUN that lists the names to move into the run folder; it is there once the new run is whole."""
FIXED = ("model", "recipe", "batch_size", "channel", "seed", "dataset_sha256", "teacher")
"""Fields of ``run_config.json`` that must be the same for a run to go on."""


def write_text(path: Path, text: str) -> None:
    """Writes a text file beside its place, then moves it there."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes anything msgspec can encode, readable for people."""
    write_text(path, msgspec.json.format(msgspec.json.encode(content), indent=2).decode() + "\n")


def clear(out: Path) -> None:
    """Remove the files and folders of a run, and nothing else."""
    for name in FILES:
        (out / name).unlink(missing_ok=True)
    for name in FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the run folder for one training.

    Raises:
        ConfigError: another training holds it, or it cannot be written.
    """
    busy = f"{out}: another training writes there; wait for it to end, or choose another folder"
    with lock_folder(out, busy, LOCK):
        if (out / NEW_RUN / WHOLE).is_file():  # killed while it was put in place
            put_in_place(out)
        yield


def check_free(out: Path, force: bool) -> None:
    """Check that a new training may write to a folder: it holds no earlier one, or that may be replaced.

    Raises:
        ConfigError: it holds an earlier training and ``force`` is false, or files with a run's names that no training
            wrote.
    """
    unfinished = out / NEW_RUN
    held = [name for name in RECOGNISED if (out / name).exists()]
    held += [f"{NEW_RUN}/{name}" for name in RECOGNISED if (unfinished / name).exists()]
    if held and not force:
        raise ConfigError(
            f"{out}: found an earlier training ({', '.join(held)}); go on with it by --resume (resume=True), replace "
            "it by --force (force=True), which keeps it until the new one is whole, or choose another folder"
        )
    # The profile may come from the command profile; all else stands beside one of the others if a training wrote it.
    known = (*RECOGNISED, RUN_CONFIG)
    foreign = [name for name in (*FILES, *FOLDERS) if name not in (*known, PROFILE) and (out / name).exists()]
    if foreign and not any((out / name).exists() for name in known):
        raise ConfigError(
            f"{out}: found {', '.join(foreign)}, which a training would replace, but no {', '.join(known)}: no "
            "training wrote these; move them, or choose another folder"
        )
    if unfinished.exists() and not (unfinished.is_dir() and _is_new_run(unfinished)):
        raise ConfigError(f"{unfinished}: found what no training wrote; move it, or choose another folder")


def folder_to_train_in(out: Path, force: bool, resume: bool) -> Path:
    """Return the folder for the files of a training: the run folder, or one in it if the run there must be kept.

    Of several processes that train together each comes to the same answer, at any time before the first epoch's end.

    Args:
        out: the run folder.
        force: an earlier run may be replaced.
        resume: the training goes on with an earlier one.
    """
    if resume:
        goes_on = (out / NEW_RUN / LAST).is_file() or (out / METRICS).is_file()  # a finished run is kept meanwhile
        return out / NEW_RUN if goes_on else out
    return out / NEW_RUN if force else out


def last_of(out: Path) -> Path:
    """Return the ``last.pt`` that a training in this run folder resumes."""
    unfinished = out / NEW_RUN / LAST
    return unfinished if unfinished.is_file() else out / LAST


def begin(out: Path, folder: Path, resume: bool) -> None:
    """Prepare the folder of a training in a run folder: empty, or with what a resumed training goes on with."""
    if not resume:
        clear(folder)
    elif folder != out and not (folder / LAST).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy2(out / BEST, folder / BEST)
        if (out / LOGS).is_dir():
            shutil.copytree(out / LOGS, folder / LOGS)


def put_in_place(out: Path) -> None:
    """Replace a run by the new one that was trained in its folder; other files in the folder stay.

    A process that is killed meanwhile leaves the list of names, by which the next training finishes this.
    """
    new = out / NEW_RUN
    listing = new / WHOLE
    if not listing.is_file():
        # A resumed run that had no epoch left to train has no last.pt of its own: the earlier one stays.
        write_json(listing, [LAST, *(name for name in (*FILES, *FOLDERS) if (new / name).exists())])
    names = msgspec.json.decode(listing.read_bytes(), type=list[str])
    for name in (*FILES, *FOLDERS):
        here, there = new / name, out / name
        if there.is_dir() and (here.exists() or name not in names):
            shutil.rmtree(there)
        if here.exists():
            here.replace(there)
        elif name not in names:
            there.unlink(missing_ok=True)
    shutil.rmtree(new)


def discard_unstarted(folder: Path) -> None:
    """Remove the folder of a successor that failed before it had an epoch to go on from."""
    if folder.name == NEW_RUN and not (folder / LAST).is_file():
        shutil.rmtree(folder, ignore_errors=True)


def _is_new_run(folder: Path) -> bool:
    """Return whether a folder was made by :func:`begin`: nothing but a run's names."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}  # of files cut short
    return names <= {*FILES, *FOLDERS, WHOLE}


def check_same_run(path: Path, run_config: dict[str, Any]) -> None:
    """Raises ConfigError unless the run that ``path`` tells of can go on as ``run_config``; epochs may differ."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; expected the folder of an earlier run to resume")
    try:
        before = msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); train anew with --force instead of --resume") from error
    now = msgspec.json.decode(msgspec.json.encode(run_config))
    if (started := _attributes_version(before)) != (current := _attributes_version(now)):
        raise ConfigError(
            f"{path}: found a run of another release, whose signal attributes have definition {started}, expected "
            f"{current}; resume it with the release that began it, or train anew with --force"
        )
    changed = [name for name in FIXED if before.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{path}: the earlier run had another {', '.join(changed)}; resume with its options and data, "
            "or train into another folder"
        )


def _attributes_version(run_config: Any) -> Any:
    """Return the definition of the signal attributes that a run uses; runs that state none have the first."""
    try:
        return run_config["model"]["frontend"].get("attributes_version", 1)
    except (AttributeError, LookupError, TypeError):  # not a run's file: the comparison of its fields says so
        return None


def versions() -> dict[str, str]:
    """Of Python and of the packages that a model depends on."""
    packages = ("xai-moe-audio", "torch", "torchaudio", "lightning", "numpy", "soundfile", "soxr")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
