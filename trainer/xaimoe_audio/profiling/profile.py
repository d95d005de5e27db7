"""A dataset measured: how its recordings were made, what is in them, and what a model could cheat with."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from xaimoe_audio.config import SPLITS, Split
from xaimoe_audio.data.dataset import problem_of
from xaimoe_audio.profiling.record import FileProfile, file_profile
from xaimoe_audio.profiling.shortcuts import Shortcut, find_shortcuts
from xaimoe_runtime.audio import parse_channel
from xaimoe_runtime.console import progress
from xaimoe_runtime.cpu import available_cores
from xaimoe_runtime.defects import Defects
from xaimoe_runtime.errors import AudioError
from xaimoe_runtime.metadata import Row, read_metadata
from xaimoe_runtime.schema import TaskKind

SCHEMA = 1
QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
MEASURED = (
    "duration_s",
    "snr",
    "flatness",
    "transient_rate",
    "clipping_rate",
    "fmin_eff",
    "fmax_eff",
    "level",
    "noise_floor",
    "quality",
)
"""What the distributions are of; units as in ``spectrogram.attributes``, durations in s."""
NEEDED: tuple[Split, ...] = ("train", "val")
"""Splits without which there is nothing to train."""
INCOMPLETE = "is incomplete; copy it again, take it out, or allow it by --allow-incomplete (allow_incomplete=True)"
LISTED = 5
"""Recordings that a warning names; the rest are counted."""


class Spread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a quantity is distributed over recordings."""

    min: float
    q05: float
    q25: float
    q50: float
    q75: float
    q95: float
    max: float


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A dataset, a split of it, or a class."""

    files: int
    hours: float
    sample_rates: dict[str, int]
    """Recordings by native rate in Hz."""
    spread: dict[str, Spread]
    """Distribution of each of ``MEASURED`` over the recordings that are not silent; of the duration, over all."""


class Sound(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a class typically sounds like: medians over its recordings in the training split.

    Bands are those of ``profiling.bands``; None where fewer than half of the recordings have the band.
    """

    snr: float
    """dB"""
    third_octaves: list[float | None]
    """Power in each band, in dB re full scale."""
    contrast: list[float | None]
    """How far each band stands out in time, in dB: see ``FileProfile.contrast``."""


class ProfileWarning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something a person should look at before believing a model."""

    kind: str
    """``defect``, ``similar_labels``, ``cut_short``, ``silent``, ``mostly_silent``, ``clipped``,
    ``duplicate_across_splits``, ``duplicate_across_labels``, ``imbalance`` or ``shortcut``."""
    message: str


class DatasetProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``profile.json``."""

    schema: int = SCHEMA
    dataset: str
    """The table's file name and its folder's."""
    dataset_sha256: str
    """Of the contents, splits and labels of all usable recordings, in any order."""
    fs_mode: int
    """The native rate of most recordings, in Hz; of equals the higher one."""
    fs_unique: dict[str, int]
    """Recordings by native rate in Hz."""
    channels: dict[str, int]
    """Recordings by number of channels."""
    encodings: dict[str, int]
    """Recordings by format and sample encoding."""
    classes: dict[str, int]
    """Recordings by class."""
    imbalance: float
    """Recordings of the largest class over those of the smallest, in the training split."""
    overall: Part
    by_split: dict[str, Part]
    by_class: dict[str, Part]
    sounds: dict[str, Sound]
    """Each class of the training split of which anything is heard."""
    shortcuts: tuple[Shortcut, ...]
    warnings: tuple[ProfileWarning, ...]


def most_important(warnings: tuple[ProfileWarning, ...]) -> list[str]:
    """The first few warnings of each kind, for a terminal."""
    kinds = dict.fromkeys(warning.kind for warning in warnings)
    lines = []
    for kind in kinds:
        messages = [warning.message for warning in warnings if warning.kind == kind]
        lines += [f"! {message}" for message in messages[:LISTED]]
        if len(messages) > LISTED:
            lines.append(f"! and {len(messages) - LISTED} more of this kind ({kind}), all in profile.json")
    return lines


@dataclass(frozen=True)
class Profiled:
    """A profile and what it was made from."""

    profile: DatasetProfile
    files: pd.DataFrame
    """One row a usable recording: ``line filepath split label group`` and what was measured."""
    defects: Defects
    """What is wrong with table and recordings."""
    unreadable: int
    """Recordings that could not be decoded."""

    def refuse_incomplete(self) -> None:
        """Add the recordings that were not decoded completely to the defects."""
        files = self.files[~self.files["whole"]].drop_duplicates("line")  # with several channels, one of a file
        for line, filepath, missing in zip(files["line"], files["filepath"], files["missing"], strict=True):
            self.defects.add(int(line), INCOMPLETE, f"{filepath} ({missing})")


def profile_dataset(dataset_dir: Path, metadata_csv: Path, task: TaskKind, channel: str = "mix") -> Profiled:
    """Measures all recordings of a dataset, several at a time, with a progress bar on stderr.

    Of a recording with several channels that is the one of the number ``channel``, their mixture (``mix``), or each of
    them as a recording of its own (``each``).

    Recordings that were measured before are taken from the cache. What is wrong with the table is printed to stderr
    before any recording is opened; that and what is wrong with recordings becomes a warning each, and the rest is
    profiled.

    Raises:
        DatasetError: the table cannot be read, or none of its recordings.
    """
    table = read_metadata(metadata_csv, dataset_dir, task)
    rows, defects = table.rows, table.defects
    if listed := [*defects.listed(), *table.warnings]:
        shown = most_important(tuple(ProfileWarning(kind="defect", message=text) for text in listed))
        print("\n".join([f"{metadata_csv}:", *shown]), file=sys.stderr)  # noqa: T201
    usable: list[Row] = []
    found: list[FileProfile] = []
    wanted = parse_channel(channel)
    unreadable = 0
    with (
        _torch_threads_kept(),
        ThreadPoolExecutor(available_cores()) as pool,
        progress("profiling", len(rows)) as advance,
    ):
        for row, answer in zip(rows, pool.map(lambda row: _try(row, wanted), rows), strict=True):
            if isinstance(answer, AudioError):
                defects.add(row.line, *problem_of(row, answer))
                unreadable += 1
            else:
                usable += [row] * len(answer)
                found += answer
            advance()
    for split in NEEDED:
        if not any(row.split == split for row in usable):
            defects.add(0, f"split {split} has no usable recording, expected at least one")
    if not usable:
        defects.raise_if_any()
    files = _table(usable, found)
    digest = _digest(usable, found)
    trained = files[files["split"] == "train"] if (files["split"] == "train").any() else files
    shortcuts = find_shortcuts(files)
    profile = DatasetProfile(
        dataset=f"{dataset_dir.name}/{metadata_csv.name}",
        dataset_sha256=digest,
        fs_mode=int(files["sample_rate"].mode().max()),
        fs_unique=_counts(files["sample_rate"]),
        channels=_counts(files["channels"]),
        encodings=_counts(files["encoding"]),
        classes=_counts(files["label"].explode()),
        imbalance=_imbalance(files),
        overall=_part(files),
        by_split={split: _part(part) for split in SPLITS if len(part := files[files["split"] == split])},
        by_class={str(label): _part(part) for label, part in files.explode("label").groupby("label")},
        sounds={
            str(label): _sound(part) for label, part in trained[~trained["silent"]].explode("label").groupby("label")
        },
        shortcuts=shortcuts,
        warnings=(
            *_warnings(files, defects),
            *(ProfileWarning(kind="similar_labels", message=text) for text in table.warnings),
            *(ProfileWarning(kind="shortcut", message=s.message) for s in shortcuts if s.message),
        ),
    )
    return Profiled(profile, files, defects, unreadable)


@contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Sets back what ``measure`` changes: the pool's threads take one torch thread each, since they work beside each
    other, and torch takes that for the default of all threads to come."""
    yield
    if torch := sys.modules.get("torch"):  # not imported where everything was in the cache
        torch.set_num_threads(torch.get_num_threads())


def _try(row: Row, channel: int | str) -> list[FileProfile] | AudioError:
    """The profile of each wanted channel."""
    try:
        if channel != "each":
            return [file_profile(row.path, channel)]
        first = file_profile(row.path, 0)
        return [first, *(file_profile(row.path, number) for number in range(1, first.channels))]
    except AudioError as error:
        return error


def _table(rows: list[Row], found: list[FileProfile]) -> pd.DataFrame:
    def cells_of(row: Row, profile: FileProfile) -> dict[str, Any]:
        measured = msgspec.structs.asdict(profile)
        attributes = measured.pop("attributes")
        told = {name: getattr(row, name) for name in ("line", "filepath", "split", "group")}
        cells: dict[str, Any] = told | {"label": list(row.labels)} | measured | attributes
        return cells

    return pd.DataFrame([cells_of(row, profile) for row, profile in zip(rows, found, strict=True)])


def _digest(rows: list[Row], found: list[FileProfile]) -> str:
    lines = (
        f"{row.filepath}\t{profile.audio_sha256}\t{row.split}\t{'|'.join(row.labels)}\t{row.group}\n"
        for row, profile in zip(rows, found, strict=True)
    )
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _counts(column: pd.Series[Any]) -> dict[str, int]:
    return {str(value): int(count) for value, count in column.value_counts().sort_index().items()}


def _imbalance(files: pd.DataFrame) -> float:
    trained = files[files["split"] == "train"]
    counts = (trained if len(trained) else files)["label"].explode().value_counts()
    return float(counts.max() / counts.min()) if len(counts) else 1.0


def _part(files: pd.DataFrame) -> Part:
    heard = files.mask(files["silent"])  # silence has no noise, band or level to speak of
    measured = files if files["silent"].all() else heard.assign(duration_s=files["duration_s"])
    quantiles = measured[list(MEASURED)].astype(float).quantile([0.0, *QUANTILES.values(), 1.0])
    names = ("min", *QUANTILES, "max")
    return Part(
        files=len(files),
        hours=float(files["duration_s"].sum() / 3600),
        sample_rates=_counts(files["sample_rate"]),
        spread={name: Spread(**dict(zip(names, map(float, quantiles[name]), strict=True))) for name in MEASURED},
    )


def _sound(files: pd.DataFrame) -> Sound:
    return Sound(
        snr=float(files["snr"].median()),
        third_octaves=_median_bands(files["third_octaves"]),
        contrast=_median_bands(files["contrast"]),
    )


def _median_bands(recordings: pd.Series[Any]) -> list[float | None]:
    bands = pd.DataFrame(recordings.tolist(), dtype=float)
    median = bands.median().where(bands.notna().mean() >= 0.5)
    return [None if pd.isna(value) else float(value) for value in median]


def _warnings(files: pd.DataFrame, defects: Defects) -> list[ProfileWarning]:
    found = [ProfileWarning(kind="defect", message=text) for text in defects.listed()]
    broken = files[~files["whole"]]
    if len(broken):
        message = f"{_named(broken)}: incomplete; used as far as they can be decoded, better copied again"
        found.append(ProfileWarning(kind="cut_short", message=message))
    silent = files[files["silent"]]
    if len(silent):
        message = f"{_named(silent)}: silent, no window above -90 dB re full scale"
        if (silent["channels"] > 1).any():
            message += "; if their channels cancel each other, choose one by --channel"
        found.append(ProfileWarning(kind="silent", message=message))
    sounding = files[~files["silent"]]
    mostly = sounding[sounding["silent_share"] > 0.5]
    if len(mostly):
        message = f"{_named(mostly)}: silent for more than half of the time, but labelled as a whole"
        found.append(ProfileWarning(kind="mostly_silent", message=message))
    clipped = files[files["clipping_rate"] > 0.01]
    if len(clipped):
        message = f"{_named(clipped)}: more than 1 % of the samples are clipped"
        found.append(ProfileWarning(kind="clipped", message=message))
    for kind, column in (("duplicate_across_splits", "split"), ("duplicate_across_labels", "label")):
        found += _duplicates(sounding, kind, column)
    imbalance = _imbalance(files)
    if imbalance > 10:
        message = f"the largest class of the training split has {imbalance:.0f} times the recordings of the smallest"
        found.append(ProfileWarning(kind="imbalance", message=message))
    return found


def _duplicates(files: pd.DataFrame, kind: str, column: str) -> list[ProfileWarning]:
    """Recordings with the same audio that differ in ``column``; one warning for all that differ alike."""
    values = files[column].map(lambda value: value if isinstance(value, str) else "|".join(value) or "(no class)")
    differing: dict[str, list[pd.DataFrame]] = {}
    for _, same in files.groupby("audio_sha256"):
        found = sorted(set(values[same.index]))
        if len(found) > 1:
            differing.setdefault(", ".join(found), []).append(same)
    return [
        ProfileWarning(kind=kind, message=f"{_named(pd.concat(parts))}: the same audio with {column} {what}")
        for what, parts in differing.items()
    ]


def _named(files: pd.DataFrame) -> str:
    names = [f"row {row.line} {row.filepath}" for row in files.head(LISTED).itertuples()]
    more = len(files) - LISTED
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
