"""Commands that read a run: its metrics, its settings, and how it compares with another run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False)


@app.command(rich_help_panel="Reading a run")
def summary() -> None:
    """Print the metrics of the last run, and where its reports are."""
    from befriend.ops.summary import show

    show(Path())


@app.command(rich_help_panel="Reading a run")
def compare(
    a: Annotated[str, typer.Argument(help="A git revision, or the folder of a run.")],
    b: Annotated[str, typer.Argument(help="The other one; `.` is the current run.")] = ".",
    model: Annotated[str, typer.Option(help="The model whose lists are compared.")] = "both",
    other: Annotated[str | None, typer.Option(help="The model of B, if it is a different one.")] = None,
    events: Annotated[int, typer.Option(min=0, help="Number of events shown, those that differ most.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two runs on the same events: differences with paired intervals, and the events that differ most."""
    from befriend.ops.compare_runs import show

    show(a, b, model, other, events, as_json)


@app.command(rich_help_panel="Reading a run")
def settings(
    section: Annotated[str | None, typer.Argument(help="data, a stage, or simulate; by default all.")] = None,
) -> None:
    """List every setting with its default and what it does."""
    from befriend.ops.settings_table import show

    show(section)
