"""Onset and offset: thresholds, hysteresis, averaging, shortest duration and refractory time."""

from __future__ import annotations

import numpy as np
import pytest

from xaimoe_runtime import ConfigError, EventSettings
from xaimoe_runtime.schema import TaskSpec
from xaimoe_runtime.streams.events import Event, Events

SINGLE = TaskSpec(kind="single_label", labels=("cat", "dog"), thresholds=(), temperatures=(1, 1))
MULTI = TaskSpec(kind="multi_label", labels=("cat", "dog"), thresholds=(0.3, 0.7), temperatures=(1, 1))


def followed(task: TaskSpec, rows: list[tuple[float, float]], **settings: object) -> list[Event]:
    """Events of windows of 2 s, one a second."""
    events = Events(task, EventSettings(**settings))  # type: ignore[arg-type]
    found = []
    for i, row in enumerate(rows):
        found += events.follow(float(i), i + 2.0, np.array(row, np.float32))
    return found + events.finish()


def told(events: list[Event]) -> list[tuple[str, str, float, float]]:
    return [(event.label, event.state, event.start_s, event.end_s) for event in events]


def test_an_event_begins_with_its_first_window_and_ends_with_its_last() -> None:
    events = followed(SINGLE, [(0.1, 0.1), (0.6, 0.1), (0.9, 0.1), (0.7, 0.1), (0.1, 0.1)])
    assert told(events) == [("cat", "onset", 1, 3), ("cat", "offset", 1, 5)]
    assert [event.peak for event in events] == pytest.approx([0.6, 0.9])


def test_a_score_that_wavers_is_one_event() -> None:
    wavering = [(0.55, 0), (0.45, 0), (0.52, 0), (0.41, 0), (0.0, 0)]
    assert told(followed(SINGLE, wavering)) == [("cat", "onset", 0, 2), ("cat", "offset", 0, 5)]
    assert len(followed(SINGLE, wavering, off=1.0)) == 4


def test_what_is_heard_at_the_end_ends_with_it() -> None:
    assert told(followed(SINGLE, [(0.9, 0), (0.9, 0)])) == [("cat", "onset", 0, 2), ("cat", "offset", 0, 3)]


def test_each_label_has_the_threshold_of_its_class() -> None:
    assert told(followed(MULTI, [(0.4, 0.6), (0, 0)])) == [("cat", "onset", 0, 2), ("cat", "offset", 0, 2)]
    both = told(followed(MULTI, [(0.4, 0.8), (0.4, 0)]))
    assert both == [("cat", "onset", 0, 2), ("dog", "onset", 0, 2), ("dog", "offset", 0, 2), ("cat", "offset", 0, 3)]


def test_thresholds_can_be_set_label_by_label() -> None:
    assert told(followed(MULTI, [(0.4, 0.6), (0, 0)], on={"dog": 0.5, "cat": 0.5})) == [
        ("dog", "onset", 0, 2),
        ("dog", "offset", 0, 2),
    ]


def test_scores_are_averaged_over_windows() -> None:
    spike = [(0.0, 0), (0.9, 0), (0.0, 0), (0.0, 0)]
    assert len(followed(SINGLE, spike)) == 2
    assert followed(SINGLE, spike, smooth=2) == []
    longer = [(0.0, 0), (0.9, 0), (0.9, 0), (0.0, 0), (0.0, 0)]
    assert told(followed(SINGLE, longer, smooth=2)) == [("cat", "onset", 2, 4), ("cat", "offset", 2, 5)]


def test_short_events_are_not_told() -> None:
    rows = [(0.9, 0), (0, 0), (0.9, 0), (0.9, 0), (0.9, 0), (0, 0)]
    assert told(followed(SINGLE, rows, min_duration_s=4)) == [("cat", "onset", 2, 6), ("cat", "offset", 2, 6)]


def test_after_an_event_its_label_rests() -> None:
    rows = [(0.9, 0), (0, 0), (0, 0), (0.9, 0.9), (0, 0), (0.9, 0), (0.9, 0)]
    found = told(followed(SINGLE, rows, refractory_s=4))
    assert [f for f in found if f[0] == "cat"] == [
        ("cat", "onset", 0, 2),
        ("cat", "offset", 0, 2),
        ("cat", "onset", 5, 7),
        ("cat", "offset", 5, 8),
    ]
    assert ("dog", "onset", 3, 5) in found


def test_without_a_rest_the_next_window_may_begin_an_event() -> None:
    rows = [(0.9, 0), (0, 0), (0.9, 0), (0, 0), (0.9, 0), (0, 0)]
    assert len([f for f in told(followed(SINGLE, rows)) if f[1] == "onset"]) == 3


def test_after_an_interruption_scores_are_averaged_anew() -> None:
    events = Events(SINGLE, EventSettings(smooth=4))
    for i in range(4):
        events.follow(float(i), i + 2.0, np.array([0.9, 0], np.float32))
    assert told(events.finish()) == [("cat", "offset", 0, 5)]
    assert events.follow(9.0, 11.0, np.zeros(2, np.float32)) == []


def test_an_event_that_was_not_told_needs_no_rest() -> None:
    rows = [(0.9, 0), (0, 0), (0.9, 0), (0.9, 0), (0, 0)]
    assert len(followed(SINGLE, rows, min_duration_s=3, refractory_s=100)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"off": 1.5}, "off"),
        ({"smooth": 0}, "smooth"),
        ({"min_duration_s": -1}, "min_duration_s"),
        ({"refractory_s": -1}, "refractory_s"),
        ({"on": {"cow": 0.5}}, "cow, the model knows cat, dog"),
        ({"on": {"dog": 0}}, "0 for dog"),
        ({"on": {"dog": 1.5}}, "1.5 for dog"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Events(SINGLE, EventSettings(**settings))  # type: ignore[arg-type]
