"""How well the way a recording was made tells its label: what a model could learn instead of the sound."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pandas as pd

from xaimoe_audio.data.remember import remembered

VERSION = 2
"""Part of every key in the cache; raise it when the method changes."""
CONDITIONS = {
    "sample_rate": "sampling rate",
    "duration_s": "duration",
    "level": "level",
    "clipping_rate": "clipping rate",
    "noise_floor": "noise floor",
}
"""What belongs to the recording rather than to its source, with names for people."""
TOGETHER = "together"
FOLDS = 5
MOST_RECORDINGS, MOST_CLASSES = 2_000, 20
"""Of a larger dataset a random sample is taken; of recordings with several labels, the most frequent classes."""
NOTICEABLE, STRONG = 0.15, 0.3
"""Skill from which a condition is worth a warning, and from which the warning is loud."""
SURE = 3.0
"""Standard errors by which a balanced accuracy must exceed chance before it is worth a warning."""


class Shortcut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well one recording condition, or all together, predicts the label."""

    condition: str
    """One of ``CONDITIONS``, or ``together``."""
    balanced_accuracy: float
    """Mean over the classes of the share found, cross-validated; recordings of one group are never parted."""
    chance: float
    """Balanced accuracy of a guess."""
    skill: float
    """0 for a guess, 1 for every recording right."""
    message: str
    """What to tell the user; empty below ``NOTICEABLE``, and where chance would explain it."""


def find_shortcuts(files: pd.DataFrame) -> tuple[Shortcut, ...]:
    """Predicts the label from each of ``CONDITIONS`` and from all of them, by decision trees.

    With several labels a recording, each class is told from the rest, and the mean over the classes counts. Nothing is
    said of datasets too small to cross-validate: every class needs two groups.
    """
    seen = files[[*CONDITIONS, "label", "group"]].to_csv().encode()
    name = f"profiles/shortcuts.{hashlib.sha256(seen).hexdigest()}.{VERSION}.json"
    return remembered(name, tuple[Shortcut, ...], lambda: _find(files))


def _find(files: pd.DataFrame) -> tuple[Shortcut, ...]:
    from sklearn.model_selection import StratifiedGroupKFold

    if len(files) > MOST_RECORDINGS:
        files = files.sample(MOST_RECORDINGS, random_state=0)
    group = files["group"].where(files["group"] != "", files["filepath"])
    scores: dict[str, list[tuple[float, float, float]]] = {name: [] for name in (*CONDITIONS, TOGETHER)}
    for target in _targets(files["label"]):
        groups = group.groupby(target).nunique()  # of each class
        kept = target.isin(groups.index[groups >= 2])
        if target[kept].nunique() < 2:
            continue
        folds = StratifiedGroupKFold(min(FOLDS, int(groups[groups >= 2].min())), shuffle=True, random_state=0)
        cuts = list(folds.split(target[kept], target[kept], group[kept]))
        chance, error = _guess(groups[groups >= 2])
        for name, found in scores.items():
            columns = list(CONDITIONS) if name == TOGETHER else [name]
            found.append((_cross_validate(files.loc[kept, columns], target[kept], cuts), chance, error))
    shortcuts = []
    for name, found in scores.items():
        if not found:
            continue
        accuracy, chance, error = (sum(column) / len(found) for column in zip(*found, strict=True))
        skill = (accuracy - chance) / (1 - chance)
        sure = accuracy - chance > SURE * error
        shortcuts.append(
            Shortcut(
                condition=name,
                balanced_accuracy=accuracy,
                chance=chance,
                skill=skill,
                message=_message(name, accuracy, chance, skill) if sure and skill >= NOTICEABLE else "",
            )
        )
    return tuple(shortcuts)


def _targets(labels: pd.Series[list[str]]) -> list[pd.Series[str]]:
    """What is to be told apart: the labels themselves, or each of the most frequent classes from the rest."""
    if all(len(label) == 1 for label in labels):
        return [labels.str[0]]
    classes = sorted(labels.explode().value_counts().index[:MOST_CLASSES])
    return [labels.map(lambda label, name=name: name if name in label else "") for name in classes]


def _guess(groups: pd.Series[int]) -> tuple[float, float]:
    """Balanced accuracy of a guess and its standard error, by the number of groups of each class.

    Recordings of a group are taken for one: they tell nothing new.
    """
    chance = 1 / len(groups)
    return chance, float((chance * (1 - chance) / groups).sum() ** 0.5 / len(groups))


def _cross_validate(conditions: pd.DataFrame, target: pd.Series[str], cuts: list[Any]) -> float:
    """Balanced accuracy on recordings that the tree has not seen."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=8, min_samples_leaf=3, class_weight="balanced", random_state=0)
    return float(balanced_accuracy_score(target, cross_val_predict(tree, conditions, target, cv=cuts)))


def _message(name: str, accuracy: float, chance: float, skill: float) -> str:
    what = "all recording conditions together are" if name == TOGETHER else f"the {CONDITIONS[name]} alone is"
    strength = "a strong" if skill >= STRONG else "a noticeable"
    return (
        f"{what} {strength} predictor of the label: balanced accuracy {accuracy:.2f}, chance {chance:.2f}; "
        "a model may learn how a recording was made instead of what is heard"
    )
