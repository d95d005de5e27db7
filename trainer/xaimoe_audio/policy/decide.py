"""From facts to a model: every choice with the rule that made it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from xaimoe_audio.config import (
    DEFAULT_CLIP_S,
    DEFAULT_EXPERTS,
    DEFAULT_FMIN,
    DEFAULT_FRAME_S,
    DEFAULT_HOP_S,
    DEFAULT_SAMPLE_RATE,
    DEFAULT_SPECTROGRAM,
    SIZES,
    Overrides,
)
from xaimoe_audio.policy.facts import Facts
from xaimoe_audio.policy.rules import RULES, TILE_FRAMES, Made

OVERRIDE, DEFAULT = "override", "default"
"""What stands for a rule where the user chose, and where no policy was wanted."""
BY_USER = "chosen by the user"
DEFAULTS: dict[str, Callable[[Facts, Made], Any]] = {
    "sample_rate": lambda f, m: DEFAULT_SAMPLE_RATE,
    "clip_s": lambda f, m: DEFAULT_CLIP_S,
    "frame_s": lambda f, m: DEFAULT_FRAME_S,
    "hop_s": lambda f, m: DEFAULT_HOP_S,
    "spectrogram": lambda f, m: DEFAULT_SPECTROGRAM,
    "fmin": lambda f, m: DEFAULT_FMIN,
    "fmax": lambda f, m: m["sample_rate"] / 2,
    "bins": lambda f, m: SIZES[f.budget].bins,
    "k_max": lambda f, m: min(SIZES[f.budget].k_max, len(m["experts"])),
    "tile": lambda f, m: (m["bins"], TILE_FRAMES),
    "stride": lambda f, m: m["tile"],
    "width": lambda f, m: f.budget,
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

    def choose(name: str, value: Any, rule: str, because: str, inputs: dict[str, Any]) -> None:
        made[name] = value
        choices.append(Choice(choice=name, value=value, rule=rule, because=because, inputs=inputs))

    for name in dict.fromkeys(rule.choice for rule in RULES):
        if name == "k_max":
            kept = tuple(family for family in DEFAULT_EXPERTS if made.get(family))
            if "experts" in wanted:
                choose("experts", made["experts"], OVERRIDE, BY_USER, {})
            else:
                choose("experts", kept, "families", "the families that were kept", {})
                if "k_max" in wanted and len(kept) < made["k_max"] <= len(DEFAULT_EXPERTS):
                    because = f"{BY_USER}: {made['k_max']}; no more than the experts that were kept"
                    choose("k_max", len(kept), OVERRIDE, because, {"experts": kept})
                    continue
        if name in wanted:
            choose(name, made[name], OVERRIDE, BY_USER, {})
        elif name in DEFAULT_EXPERTS and "experts" in wanted:
            continue
        elif not auto_config:
            choose(name, DEFAULTS[name](facts, made), DEFAULT, "auto_config is off", {})
        else:
            rule = next(rule for rule in RULES if rule.choice == name and rule.applies(facts, made))
            known = msgspec.structs.asdict(facts) | made
            made[name] = rule.value(facts, made)
            inputs = {given: known[given] for given in rule.inputs if given in known}
            choose(name, made[name], rule.name, rule.because(facts, made), inputs)
    return Policy(auto_config=auto_config, facts=facts, choices=tuple(choices), warnings=_warnings(facts, made))


def _warnings(facts: Facts, made: Made) -> tuple[str, ...]:
    lost = [f"{name} ({centre:.0f} Hz)" for name, centre in facts.centres.items() if centre > made["fmax"]]
    if not lost:
        return ()
    return (
        f"the sound of {', '.join(lost)} lies mostly above the spectrogram's upper edge of {made['fmax']:.0f} Hz; "
        "choose a higher sample_rate to keep it",
    )


def describe(policy: Policy) -> str:
    """The choices for a terminal, one a line, and the warnings."""
    lines = [f"{c.choice:<22} {_text(c.value)} [{c.rule}] {c.because}" for c in policy.choices]
    return "\n".join([*lines, *(f"! {warning}" for warning in policy.warnings)])


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) if value and isinstance(value[0], str) else "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
