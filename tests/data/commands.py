"""The device's command line, called as a user does."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from xaimoe_runtime.cli import app


def call(*arguments: object) -> Result:
    """What ``xaimoe-runtime ARGUMENTS`` prints, and its exit code."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
