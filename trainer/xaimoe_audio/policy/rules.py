"""The rules that choose a model for a dataset, all in one table.

Choices are made from top to bottom, and a rule may look at those made before, and at what the user chose. Of a choice's
rules the first that applies fires; the last one always does. To add a rule, write it where it should take precedence.
"""

from __future__ import annotations

from xaimoe_audio.policy.hearing import HEARING
from xaimoe_audio.policy.network import NETWORK
from xaimoe_audio.policy.rule import Rule

RULES: tuple[Rule, ...] = (*HEARING, *NETWORK)
