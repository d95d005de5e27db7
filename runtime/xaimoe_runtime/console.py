"""What both command lines share: errors as exit codes, progress on stderr, records to a file or to stdout."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from xaimoe_runtime import __version__
from xaimoe_runtime.errors import EXIT_INTERRUPTED, ConfigError, DatasetError, XaimoeError
from xaimoe_runtime.help_pages import HelpPages
from xaimoe_runtime.records import Record, is_failure
from xaimoe_runtime.writing import describe_os_error, replacing


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
]


class CommandGroup(HelpPages):
    """Commands whose errors end in one line on stderr and the exit code of the error's class."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program, with output in UTF-8."""
        use_utf8()
        return super().main(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except XaimoeError as error:
            lines = str(error).splitlines() if isinstance(error, DatasetError) else [str(error)]  # a defect a line
            typer.echo("error: " + "\n  ".join(" ".join(line.split()) for line in lines), err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader of stdout went away; what follows must not fail again when the interpreter flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from error
        except OSError as error:  # a full disk, a folder without permission
            typer.echo(f"error: {describe_os_error(error)}", err=True)
            raise typer.Exit(ConfigError.exit_code) from error


def use_utf8() -> None:
    """Let stdout be UTF-8 whatever the locale, as JSON is, and stderr show what its encoding has not as escapes."""
    for stream, encoding in ((sys.stdout, "utf-8"), (sys.stderr, None)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr; yields the function that advances it by one."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)


def write_records(records: Iterable[Record], out: Path | None) -> int:
    """Writes records as JSON Lines to ``out``, or to stdout as they come; gives the number of files that were
    not, or not completely, processed."""
    encode = msgspec.json.Encoder().encode
    errors = 0
    if out is None:
        for record in records:
            errors += is_failure(record)
            typer.echo(encode(record).decode())
        return errors
    with replacing(out) as file:
        for record in records:
            errors += is_failure(record)
            file.write(encode(record) + b"\n")
    return errors


def write_json(content: Any) -> None:
    """Writes one JSON object as a line on stdout."""
    typer.echo(msgspec.json.encode(content).decode())
