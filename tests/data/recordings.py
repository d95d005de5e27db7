"""Small datasets whose every recording a test makes up."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from data import write_wav
from xaimoe_audio.profiling import DatasetProfile, profile_dataset

RATE = 16_000


def tone(seconds: float = 1.0, rate: int = RATE, hz: float = 1_000.0, level: float = 0.1) -> np.ndarray[Any, Any]:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def dataset(folder: Path, rows: list[tuple[str, str, str, str]], **audio: tuple[np.ndarray[Any, Any], int]) -> Path:
    """A dataset of rows (file, split, label, group); the audio is written by file name."""
    for name, (samples, rate) in audio.items():
        write_wav(folder / f"{name}.wav", samples, rate)
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filepath", "split", "label", "group"), *((f"{r[0]}.wav", *r[1:]) for r in rows)])
    return folder


def profiled(folder: Path, task: Any = "single_label") -> DatasetProfile:
    return profile_dataset(folder, folder / "metadata.csv", task).profile


def kinds(profile: DatasetProfile) -> set[str]:
    return {warning.kind for warning in profile.warnings}
