"""From facts to a model: every choice with the rule that made it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from xaimoe_audio.config import (
    DEFAULT_CLIP_S,
    DEFAULT_EXPERTS,
    DEFAULT_FMIN,
    DEFAULT_HOP_S,
    DEFAULT_LEARNING_RATE,
    DEFAULT_SALIENCY_TEACHER,
    DEFAULT_SAMPLE_RATE,
    DEFAULT_SPECTROGRAM,
    SIZES,
    Overrides,
)
from xaimoe_audio.policy.facts import Facts
from xaimoe_audio.policy.hearing import resampled
from xaimoe_audio.policy.network import FOCUS, PAIR_SHARE, TILE_FRAMES, half_overlapping
from xaimoe_audio.policy.rule import Made
from xaimoe_audio.policy.rules import RULES

OVERRIDE, DEFAULT = "override", "default"
"""What stands for a rule where the user chose, and where no policy was wanted."""
BY_USER = "chosen by the user"
DEFAULTS: dict[str, Callable[[Facts, Made], Any]] = {
    "sample_rate": lambda f, m: DEFAULT_SAMPLE_RATE,
    "clip_s": lambda f, m: DEFAULT_CLIP_S,
    "frame_s": lambda f, m: SIZES[f.budget].frame_s,
    "hop_s": lambda f, m: DEFAULT_HOP_S,
    "spectrogram": lambda f, m: DEFAULT_SPECTROGRAM,
    "fmin": lambda f, m: DEFAULT_FMIN,
    "fmax": lambda f, m: m["sample_rate"] / 2,
    "bins": lambda f, m: SIZES[f.budget].bins,
    "k_max": lambda f, m: min(SIZES[f.budget].k_max, len(m["experts"])),
    "tile": lambda f, m: (m["bins"], TILE_FRAMES),
    "stride": lambda f, m: half_overlapping(m["tile"]),
    "pair_share": lambda f, m: PAIR_SHARE,
    "focus": lambda f, m: FOCUS,
    "unsure": lambda f, m: SIZES[f.budget].unsure,
    "expert_width": lambda f, m: SIZES[f.budget].expert_width,
    "learning_rate": lambda f, m: DEFAULT_LEARNING_RATE,
    "saliency_teacher": lambda f, m: DEFAULT_SALIENCY_TEACHER,
    "experts": lambda f, m: DEFAULT_EXPERTS,
} | {family: lambda f, m: True for family in DEFAULT_EXPERTS}
"""What is chosen with ``auto_config=False``."""


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One choice, and why it was made."""

    choice: str
    value: Any
    rule: str
    """Name of the rule that fired, ``override`` or ``default``."""
    because: str
    inputs: dict[str, Any]
    """What the rule looked at."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``policy.json``."""

    auto_config: bool
    facts: Facts
    choices: tuple[Choice, ...]
    warnings: tuple[str, ...] = ()
    """What the choices cost and a person should know."""

    @property
    def made(self) -> Made:
        """The values, by the name of the choice; ``experts`` holds the families that were kept."""
        return {choice.choice: choice.value for choice in self.choices}


def decide(facts: Facts, overrides: Overrides, auto_config: bool = True) -> Policy:
    """Makes every choice: the user's where there is one, else by the rules, or by ``DEFAULTS`` without them."""
    made: Made = {k: value for k, value in msgspec.structs.asdict(overrides).items() if value is not None}
    wanted = frozenset(made)
    choices: list[Choice] = []
    for name in dict.fromkeys(rule.choice for rule in RULES):
        if name in DEFAULT_EXPERTS and "experts" in wanted:
            continue
        inputs: dict[str, Any] = {}
        if name in wanted:
            value, rule, because = made[name], OVERRIDE, BY_USER
            if name == "k_max" and "experts" not in wanted and len(made["experts"]) < value <= len(DEFAULT_EXPERTS):
                value = len(made["experts"])
                because = f"{BY_USER}: {made[name]}; no more than the experts that were kept"
        elif not auto_config:
            value, rule, because = DEFAULTS[name](facts, made), DEFAULT, "auto_config is off"
        else:
            fired = next(rule for rule in RULES if rule.choice == name and rule.applies(facts, made))
            known = msgspec.structs.asdict(facts) | made
            value = made[name] = fired.value(facts, made)
            rule, because = fired.name, fired.because(facts, made)
            inputs = {given: known[given] for given in fired.inputs}
        if name == "sample_rate":
            because += resampled(facts, value)
        made[name] = value
        choices.append(Choice(choice=name, value=value, rule=rule, because=because, inputs=inputs))
    return Policy(auto_config=auto_config, facts=facts, choices=tuple(choices), warnings=_warnings(facts, made))


def _warnings(facts: Facts, made: Made) -> tuple[str, ...]:
    fmin, fmax = made["fmin"], made["fmax"]
    found = []
    over = [f"{name} (up to {upper:.0f} Hz)" for name, upper in facts.uppers.items() if upper > fmax]
    if over:
        remedy = "fmax" if fmax < made["sample_rate"] / 2 else "sample_rate"
        found.append(
            f"a quarter or more of what stands out of {', '.join(over)} lies above the spectrogram's upper edge of "
            f"{fmax:.0f} Hz; choose a higher {remedy} to keep it"
        )
    under = [f"{name} (around {centre:.0f} Hz)" for name, centre in facts.centres.items() if centre < fmin]
    if under:
        found.append(
            f"half or more of what stands out of {', '.join(under)} lies under the spectrogram's lower edge of "
            f"{fmin:.0f} Hz; choose a lower fmin to keep it"
        )
    return tuple(found)


def describe(policy: Policy) -> str:
    """The choices for a terminal, one a line, and the warnings."""
    lines = [f"{c.choice:<22} {_text(c.value)} [{c.rule}] {c.because}" for c in policy.choices]
    return "\n".join([*lines, *(f"! {warning}" for warning in policy.warnings)])


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) if value and isinstance(value[0], str) else "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
