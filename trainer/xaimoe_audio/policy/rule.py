"""What a rule of the policy is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xaimoe_audio.policy.facts import Facts

Made = dict[str, Any]
"""The choices made so far, by name."""


@dataclass(frozen=True)
class Rule:
    """When it applies, what it chooses, and why."""

    choice: str
    name: str
    applies: Callable[[Facts, Made], bool]
    value: Callable[[Facts, Made], Any]
    because: Callable[[Facts, Made], str]
    """Reason for a person; the choice itself is made by then."""
    inputs: tuple[str, ...]
    """The facts and other choices it looked at."""


def always(facts: Facts, made: Made) -> bool:
    """Applies to whatever no rule before it applied to."""
    return True


def by_budget(facts: Facts, made: Made) -> str:
    """The reason for what the budget alone decides."""
    return f"the {facts.budget} budget"
