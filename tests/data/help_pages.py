"""What every help page of a command line must be."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperOption


def commands(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Name and command of each command of an app, those of mounted apps included."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", None)
        yield from ([(name, command)] if inner is None else inner.items())


def check_page(name: str, command: Any) -> None:
    """Every parameter has a help text, every option a group, no flag shows a type, and the examples can be parsed."""
    context = command.make_context(name, [], resilient_parsing=True)
    for param in command.get_params(context):
        assert param.help, f"{name} {param.opts}: no help"
        if isinstance(param, TyperOption):
            assert param.rich_help_panel not in (None, "", "Options"), f"{name} {param.opts}: no group"
            assert not param.is_flag or param.metavar == "", f"{name} {param.opts}: a type"
    title, *examples = command.epilog.split("\n\n")
    assert title == "Example:" and examples, f"{name}: no example"
    for example in examples:
        program, called, *arguments = shlex.split(example.split(" | ")[-1])
        assert called == name and program in ("xaimoe-audio", "xaimoe-runtime")
        command.make_context(name, arguments)
