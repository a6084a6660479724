"""The whole command line: registers all commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from befriend import kernels
from befriend.cli import (
    log_commands,
    operating_commands,
    reading_commands,
    recommend_commands,
    stage_commands,
    text_commands,
    token_commands,
)
from befriend.errors import STOPPED, CallError, explain
from befriend.progress import current_progress


class Commands(TyperGroup):
    """All commands. Wrong values of options are described in the words that wrong settings have."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that is called."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            problems = getattr(error.__cause__, "errors", None)  # of pydantic, which Typer uses
            if problems is not None:
                from befriend.settings import describe_demand

                error.message = describe_demand(problems()[0])
            raise


app = typer.Typer(
    name="befriend",
    cls=Commands,
    help="Recommend people to people, from an event log to ranked lists. `make run` runs all stages in order.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for commands in (stage_commands, recommend_commands, log_commands, reading_commands, operating_commands):
    app.add_typer(commands.app)
app.add_typer(text_commands.app, name="text", rich_help_panel="Texts")
app.add_typer(token_commands.app, name="tokens", rich_help_panel="Tokens")


def _print_version(is_asked_for: bool) -> None:
    if is_asked_for:
        from importlib.metadata import version

        typer.echo(f"befriend {version('befriend')}")
        raise typer.Exit


@app.callback()
def _befriend(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of `befriend` itself."""


def main() -> None:
    """Runs a command. An error that the user can fix is one message and an exit code, never a traceback."""
    _use_utf8()
    kernels.pin()  # before any numeric library is loaded
    try:
        _check_arguments(sys.argv[1:])
        app()
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        typer.echo(f"befriend: {explained}", err=True)
        sys.exit(explained.exit_code)
    except SystemExit as end:
        if end.code == STOPPED:  # typer turns a KeyboardInterrupt into this exit
            progress = f" at {current_progress()}" if current_progress() else ""
            typer.echo(
                f"befriend: stopped{progress}. Run the same command again: training, the encoding of texts and lists "
                "that are written to a file continue where they stopped; everything else starts over.",
                err=True,
            )
        raise


def _use_utf8() -> None:
    """Starts the command again in Python's UTF-8 mode if the locale has another encoding.

    Otherwise arguments, names of files, and the output of DVC and git could not be read or written. Output that is
    redirected to another encoding by PYTHONIOENCODING has escapes for the characters that it lacks.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # for DVC
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")


def _check_arguments(arguments: list[str]) -> None:
    """Raises CallError for bytes that are no text; Python represents them by surrogates, which no file can hold."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode(errors="backslashreplace").decode()
            raise CallError(f"the argument {shown} is not valid UTF-8. Write ids and file names in UTF-8.") from None
