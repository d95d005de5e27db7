"""Options of the Python API: words and numbers, each refused by its name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from xaimoe_runtime.choices import number_within, one_of, positive_integer
from xaimoe_runtime.errors import ConfigError


@pytest.mark.parametrize("found", [0, 1, 0.5, np.float32(0.5), np.int64(1)])
def test_a_number_within_the_limits_is_given_back(found: Any) -> None:
    assert number_within(found, "share", 0, 1) == found


@pytest.mark.parametrize("found", [-0.1, 1.1, math.nan, math.inf, "0.5", None, True, [0.5]])
def test_a_number_outside_of_the_limits_or_no_number_is_refused(found: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        number_within(found, "share", 0, 1)
    assert str(caught.value) == f"share: found {found!r}, expected 0 to 1"


def test_without_an_upper_limit_the_message_has_none() -> None:
    assert number_within(1e9, "size", 0) == 1e9
    with pytest.raises(ConfigError, match=r"^size: found inf, expected 0 or more$"):
        number_within(math.inf, "size", 0)


def test_a_count_is_a_whole_number_of_one_or_more() -> None:
    assert positive_integer(np.int64(3), "epochs") == 3
    for found in (0, 1.0, "1", None, False):
        with pytest.raises(ConfigError, match=f"^epochs: found {found!r}, expected a whole number, 1 or more$"):
            positive_integer(found, "epochs")


def test_a_word_is_one_of_the_choices() -> None:
    assert one_of(("mean", "max"), "max", "pool") == "max"
    with pytest.raises(ConfigError, match=r"^pool: found 'least', expected mean, max$"):
        one_of(("mean", "max"), "least", "pool")
