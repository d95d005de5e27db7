"""Text is UTF-8, whatever the machine's own encoding: files, and what commands print."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("runtime", "exporter", "trainer", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
OTHERS = frozenset({"Bundle", "tarfile", "zipfile", "webbrowser", "os", "archive"})
"""What has an ``open`` that opens no text file."""


def without_encoding(tree: ast.AST) -> Iterator[int]:
    """Lines that open, read or write a text file in the machine's own encoding."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or any(word.arg in ("encoding", None) for word in call.keywords):
            continue
        function = call.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        if name in ("read_text", "write_text") and isinstance(function, ast.Attribute):
            if getattr(function.value, "id", "") != "run":  # the trainer's own, which has no such argument
                yield call.lineno
        elif name == "open" and getattr(getattr(function, "value", None), "id", "") not in OTHERS:
            words = [word.value for word in call.keywords if word.arg == "mode"]
            modes = [*call.args[isinstance(function, ast.Name) :][:1], *words]
            if not any(isinstance(mode, ast.Constant) and "b" in str(mode.value) for mode in modes):
                yield call.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_files_are_opened_as_utf8(path: Path) -> None:
    assert list(without_encoding(ast.parse(path.read_bytes()))) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("open(path)", True),
        ("path.open('w', newline='')", True),
        ("path.open(mode='w')", True),
        ("path.read_text(encoding='utf-8')", False),
        ("open(path, 'rb')", False),
        ("path.open('ab', buffering=0)", False),
    ],
)
def test_the_search_finds_them(line: str, found: bool) -> None:
    assert bool(list(without_encoding(ast.parse(line)))) is found


PRINTS = """
import typer
from xaimoe_runtime.console import CommandGroup, write_json
from xaimoe_runtime.errors import ConfigError

app = typer.Typer(cls=CommandGroup)

@app.command()
def show(name: str):
    write_json({"label": "\\xe9 \\N{WHALE}"})
    typer.echo("\\xe9 \\N{WHALE}", err=True)

@app.command()
def fail():
    raise ConfigError("label \\xe9: unknown")

app()
"""


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}])
def test_commands_print_utf8_whatever_the_locale(locale: dict[str, str]) -> None:
    environment = os.environ | {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"} | locale
    ran = subprocess.run([sys.executable, "-c", PRINTS, "show", "x"], env=environment, capture_output=True, check=True)
    assert json.loads(ran.stdout.decode("utf-8")) == {"label": "é \N{WHALE}"}
    ran = subprocess.run([sys.executable, "-c", PRINTS, "fail"], env=environment, capture_output=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"error: label ")
    assert b"Traceback" not in ran.stderr
