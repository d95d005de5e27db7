"""Choosing a model for a dataset: facts from its profile, one table of rules, and a record of what was chosen why."""

from xaimoe_audio.policy.decide import Choice, Policy, decide, describe
from xaimoe_audio.policy.facts import Facts

__all__ = ["Choice", "Facts", "Policy", "decide", "describe"]
