"""Help pages of the command lines: options in groups, flags without a type, an example under each command."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperCommand, TyperGroup, TyperOption

RECORDINGS, ANSWERS, TIME, OUTPUT, MODEL, HARDWARE = (
    *("Recordings", "Answers", "Latency budget", "Output", "Model", "Hardware and processes"),
)
ABOUT = "Help"
OTHER = "Options"


def grouped(groups: dict[str, str]) -> dict[str, str]:
    """Return the group of each flag, from the flags of each group as words."""
    return {flag: group for group, flags in groups.items() for flag in flags.split()}


def example(*lines: str) -> str:
    """Return the text under a help page that shows how a command is called."""
    return "\n\n".join(["Example:", *lines])


def tidy(params: list[Any], groups: dict[str, str]) -> None:
    """Give options without a group the one in a table, and show flags without a type and defaults in words without
    parentheses of their own."""
    for param in params:
        if not isinstance(param, TyperOption):
            continue
        if param.is_flag:
            param.metavar = ""
        if isinstance(param.show_default, str):
            words = param.show_default
            param._get_default_string = lambda words=words, **_: words  # type: ignore[method-assign]
        if not param.rich_help_panel:
            param.rich_help_panel = next((groups[flag] for flag in param.opts if flag in groups), OTHER)


class HelpPage(TyperCommand):
    """A command whose help page is in order."""

    groups: ClassVar[dict[str, str]] = grouped(
        {
            RECORDINGS: "--list --channel --data --split",
            ANSWERS: "--routing --hop --min-score --max-novelty --top-k --pool",
            TIME: "--budget-ms --percentile",
            OUTPUT: "--out --resume --windows --trace --figures --curve --figure --json",
            MODEL: "--precision --public-key",
            HARDWARE: "--provider --provider-option --threads --workers --batch-size --memory-mb --fifo",
            "Timing": "--rounds --seconds --queries",
            "Engines": "--again",
            ABOUT: "--help --version --install-completion --show-completion",
        }
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        tidy(self.params, self.groups)

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters with ``--help`` among them, in order as well."""
        params = super().get_params(ctx)
        tidy(params, self.groups)
        return params


class HelpPages(TyperGroup):
    """A group of commands whose own help page is in order."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters with ``--help`` and those for shell completion."""
        params = super().get_params(ctx)
        tidy(params, HelpPage.groups)
        return params
