"""The whole command line: registers all commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import sys

import typer

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
from befriend.errors import STOPPED, explain
from befriend.progress import current_progress

app = typer.Typer(
    name="befriend",
    help="Recommend people to people, from an event log to ranked lists. `dvc repro` runs all stages in order.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for commands in (stage_commands, recommend_commands, log_commands, reading_commands, operating_commands):
    app.add_typer(commands.app)
app.add_typer(text_commands.app, name="text", rich_help_panel="Texts")
app.add_typer(token_commands.app, name="tokens", rich_help_panel="Tokens")


def main() -> None:
    """Runs a command. An error that the user can fix is one message and an exit code, never a traceback."""
    kernels.pin()  # before any numeric library is loaded
    try:
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
