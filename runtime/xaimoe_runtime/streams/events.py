"""From the scores of window after window to events: when a label begins to be heard, and when it is gone.

A label's scores are averaged over the last windows. It is heard from when the average reaches its threshold, and until
it falls under a lower one (hysteresis), so that a score that wavers around the threshold is one event and not many.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from xaimoe_runtime.errors import ConfigError
from xaimoe_runtime.schema import EventSettings, TaskSpec

Floats = NDArray[np.float32]

SINGLE_LABEL_ON = 0.5
"""Score from which the label of a single-label model is heard, unless told otherwise."""


State = Literal["onset", "offset"]


@dataclass(frozen=True)
class Event:
    """A label that begins to be heard, or that was."""

    label: str
    state: State
    start_s: float
    """Start of the first window in which it was heard."""
    end_s: float
    """End of the last window so far in which it was."""
    peak: float
    """Largest averaged score so far."""
    novelty: float
    """Of the window in which that was reached."""
    drift: tuple[str, ...]
    """Signal attributes of that window that are unlike those of the training split."""


@dataclass
class _Heard:
    """A label that is being heard."""

    start_s: float
    end_s: float
    peak: float
    novelty: float
    drift: tuple[str, ...]
    told: bool = False


class Events:
    """Follows the scores of one stream.

    Args:
        task: of the model.
        settings: when a label counts as heard.

    Raises:
        ConfigError: a setting is out of its range, or names a label that the model has not.
    """

    def __init__(self, task: TaskSpec, settings: EventSettings | None = None) -> None:
        self.labels = task.labels
        self.settings = check_settings(settings or EventSettings(), task)
        usual = task.thresholds if task.kind == "multi_label" else (SINGLE_LABEL_ON,) * len(task.labels)
        self.on = [self.settings.on.get(label, score) for label, score in zip(task.labels, usual, strict=True)]
        self._recent: deque[Floats] = deque(maxlen=self.settings.smooth)
        self._heard: dict[int, _Heard] = {}
        self._over = [-np.inf] * len(task.labels)  # when the last event of each label ended

    def follow(
        self, start_s: float, end_s: float, scores: Floats, novelty: float = 0.0, drift: tuple[str, ...] = ()
    ) -> list[Event]:
        """The events that the scores [L] of the next window bring: those that end first.

        Args:
            start_s: start of the window.
            end_s: its end.
            scores: [L]; 0 where there is no answer, as for silence.
            novelty: of the window.
            drift: its signal attributes that are unlike those of the training split.
        """
        self._recent.append(scores)
        averaged = np.mean(self._recent, axis=0)
        found: list[Event] = []
        for i, score in enumerate(averaged.tolist()):
            heard = self._heard.get(i)
            if heard is not None and score < self.settings.off * self.on[i]:
                found += self._ended(i)
            elif heard is not None:
                heard.end_s = end_s
                if score > heard.peak:
                    heard.peak, heard.novelty, heard.drift = score, novelty, drift
            elif score >= self.on[i] and end_s - self._over[i] > self.settings.refractory_s:
                self._heard[i] = _Heard(start_s, end_s, score, novelty, drift)
        for i, heard in self._heard.items():
            if not heard.told and heard.end_s - heard.start_s >= self.settings.min_duration_s:
                heard.told = True
                found.append(self._event(i, "onset", heard))
        return found

    def finish(self) -> list[Event]:
        """The ends of what is being heard, as the stream ends or is interrupted; what comes then is begun anew."""
        self._recent.clear()
        return [event for i in list(self._heard) for event in self._ended(i)]

    def _ended(self, i: int) -> list[Event]:
        heard = self._heard.pop(i)
        if not heard.told:
            return []
        self._over[i] = heard.end_s
        return [self._event(i, "offset", heard)]

    def _event(self, i: int, state: State, heard: _Heard) -> Event:
        return Event(self.labels[i], state, heard.start_s, heard.end_s, heard.peak, heard.novelty, heard.drift)


def read_settings(path: Path) -> EventSettings:
    """The settings in a JSON file.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=EventSettings)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}), expected event settings as JSON") from error
    except msgspec.MsgspecError as error:
        known = ", ".join(EventSettings.__struct_fields__)
        raise ConfigError(f"{path}: {error}; expected event settings as JSON: some of {known}") from error


def check_settings(settings: EventSettings, task: TaskSpec) -> EventSettings:
    """``settings`` if the model can keep them.

    Raises:
        ConfigError: a setting is out of its range, or names a label that the model has not.
    """
    if strangers := sorted(set(settings.on) - set(task.labels)):
        raise ConfigError(
            f"event settings: found thresholds for {', '.join(strangers)}, the model knows {', '.join(task.labels)}"
        )
    for label, score in settings.on.items():
        if not 0 < score <= 1:
            raise ConfigError(f"event settings: found a threshold of {score:g} for {label}, expected over 0, up to 1")
    try:
        return msgspec.convert(msgspec.to_builtins(settings), EventSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"event settings: {error}") from error
