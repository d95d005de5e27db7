"""The help pages of the device's command line, and shell completion."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from data.commands import call
from data.help_pages import check_page, commands

from xaimoe_runtime.cli import app

PAGES = dict(commands(app))


@pytest.mark.parametrize("name", PAGES)
def test_a_help_page_is_in_order(name: str) -> None:
    check_page(name, PAGES[name])


@pytest.mark.parametrize("name", ["", *PAGES])
def test_flags_show_no_type(name: str) -> None:
    page = call(*name.split(), "--help")
    assert page.exit_code == 0
    assert "<bool>" not in page.stdout and "BOOLEAN" not in page.stdout


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("xaimoe-runtime", "xaimoe-runtime cal", "calibrate"),
        ("xaimoe-runtime", "xaimoe-runtime infer --prec", "--precision"),
        ("xaimoe-audio", "xaimoe-audio device ver", "verify"),
        ("xaimoe-audio", "xaimoe-audio train --fo", "--force"),
    ],
)
def test_the_shell_completes_commands_and_options(program: str, words: str, expected: str) -> None:
    done = complete(program, {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}, "complete_bash")
    assert expected in done.stdout.split()


@pytest.mark.parametrize("program", ["xaimoe-runtime", "xaimoe-audio"])
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_shown(program: str, shell: str) -> None:
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    assert variable in complete(program, {}, f"source_{shell}").stdout


def complete(program: str, words: dict[str, str], what: str) -> Any:
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    module = {"xaimoe-runtime": "xaimoe_runtime.cli", "xaimoe-audio": "xaimoe_audio.cli"}[program]
    code = f"import sys; sys.argv[0] = {program!r}; from {module} import run; run()"
    environment = os.environ | words | {variable: what}
    command = [str(Path(sys.executable)), "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
