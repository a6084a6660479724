"""Commands that show a run: its metrics, its settings, and how it compares with another run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from befriend import layout
from befriend.cli.options import JsonOption

app = typer.Typer(add_completion=False)


@app.command(rich_help_panel="Reading a run")
def summary() -> None:
    """Print the main metrics of the current run, and the paths of its reports."""
    layout.require_project()

    from befriend.ops.summary import show

    show(Path())


@app.command(rich_help_panel="Reading a run")
def compare(
    a: Annotated[str, typer.Argument(help="A git revision, or the folder of a run.")],
    b: Annotated[
        str, typer.Argument(help="The run to compare with, given in the same way; `.` is the current run.")
    ] = ".",
    model: Annotated[str, typer.Option(help="Model whose lists are compared.")] = "both",
    other: Annotated[str | None, typer.Option(help="Model of B, if you compare two different models.")] = None,
    events: Annotated[int, typer.Option(min=0, help="How many of the events that differ most are shown.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two runs on the same events: metrics with confidence intervals, and the events that differ most."""
    from befriend.ops.compare_runs import show

    show(a, b, model, other, events, as_json)


@app.command(rich_help_panel="Reading a run")
def settings(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[SECTION[.NAME]]",
            help="A section of params.yaml, or simulate, or one setting, as in train_stu.epochs; by default all.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List settings: their values in params.yaml, their defaults, and what they do."""
    from befriend.ops.settings_table import show

    show(name, as_json)
