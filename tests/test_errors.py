"""The errors a user can meet: one tree, one exit code each, and each is the builtin error that it specialises."""

from __future__ import annotations

import pytest

import xaimoe_runtime
from xaimoe_runtime import (
    AudioError,
    BundleError,
    ConfigError,
    DatasetError,
    OutputError,
    ProviderError,
    XaimoeError,
)
from xaimoe_runtime.errors import EXIT_INTERRUPTED

TABLE: list[tuple[type[XaimoeError], type[Exception], int]] = [
    (AudioError, ValueError, 1),
    (ConfigError, ValueError, 2),
    (DatasetError, ValueError, 2),
    (BundleError, ValueError, 3),
    (ProviderError, RuntimeError, 4),
]


@pytest.mark.parametrize(("error", "builtin", "code"), TABLE)
def test_each_error_has_its_exit_code(error: type[XaimoeError], builtin: type[Exception], code: int) -> None:
    assert error("what was found").exit_code == code


@pytest.mark.parametrize(("error", "builtin", "code"), TABLE)
def test_each_error_is_the_builtin_it_specialises(
    error: type[XaimoeError], builtin: type[Exception], code: int
) -> None:
    assert issubclass(error, XaimoeError)
    assert issubclass(error, builtin)


def test_the_table_is_complete() -> None:
    assert set(XaimoeError.__subclasses__()) == {error for error, _, _ in TABLE}


def test_every_error_is_at_the_top_of_the_package() -> None:
    assert {error.__name__ for error, _, _ in TABLE} | {"XaimoeError"} <= set(xaimoe_runtime.__all__)


def test_a_file_that_cannot_be_written_is_a_configuration_and_an_operating_system_error() -> None:
    error = OutputError("out.csv: cannot be written")
    assert isinstance(error, ConfigError)
    assert isinstance(error, OSError)
    assert (str(error), error.exit_code) == ("out.csv: cannot be written", 2)
    assert "OutputError" in xaimoe_runtime.__all__


def test_ctrl_c_has_the_exit_code_that_shells_expect() -> None:
    assert EXIT_INTERRUPTED == 128 + 2  # signal 2 is SIGINT


def test_an_audio_error_can_be_caught_as_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"a\.wav"):
        raise AudioError("a.wav: no such file")
