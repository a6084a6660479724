"""`befriend compare`: compares the lists of two runs, given as folders or as git revisions."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend.analysis.paired_comparison import PairedComparison, compare_runs
from befriend.errors import CallError

REQUIRED_PATHS = ("prepared", "reports/predictions")


def show(a: str, b: str, model: str, model_b: str | None, max_events: int, as_json: bool) -> None:
    """Prints the comparison of runs `a` and `b`, as tables or JSON.

    model: the model whose lists are compared; model_b: the model of run b, None: the same; max_events: how many of the
    events that differ most are printed.
    """
    with tempfile.TemporaryDirectory() as name:
        comparison = compare_runs(
            _run_folder(a, Path(name) / "a"), _run_folder(b, Path(name) / "b"), model, model_b, max_events
        )
    if as_json:
        typer.echo(f'{{"figures": {comparison.metrics.write_json()}, "events": {comparison.events.write_json()}}}')
        return
    _print(comparison, f"{a} ({model})", f"{b} ({model_b or model})")


def _run_folder(name: str, folder: Path) -> Path:
    """The folder `name` if it exists; otherwise `folder`, after copying the results of git revision `name` into it.

    The results come from DVC's cache; CallError if they are not there.
    """
    if Path(name).is_dir():
        return Path(name)
    for path in REQUIRED_PATHS:
        out = folder / path
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("dvc")), "get", ".", path, "--rev", name, "-o", str(out)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            reason = next((line for line in process.stderr.splitlines() if line.startswith("ERROR")), "dvc get failed")
            raise CallError(
                f"{name} is not a folder, and the results of a git revision of that name cannot be read "
                f"({reason.removeprefix('ERROR: ')}). Check out the revision and run `dvc repro`, or run `dvc pull`."
            )
    return folder


def _print(comparison: PairedComparison, a: str, b: str) -> None:
    console = Console()
    headers = ("regime", "list", "segment", "lists", "A", "B", "B - A", "95 % interval")
    table = _table("NDCG@10; bold: the interval does not contain 0", *headers)
    for row in comparison.metrics.iter_rows(named=True):
        low, high = row["ndcg@10 low"], row["ndcg@10 high"]
        cells = [f"{row[f'ndcg@10 {name}']:.4f}" for name in ("a", "b")]
        cells += [f"{row['ndcg@10 difference']:+.4f}", f"{low:+.4f} to {high:+.4f}"]
        style = "bold" if low > 0 or high < 0 else None
        table.add_row(row["regime"], row["list"], row["segment"], f"{row['n']:,}", *cells, style=style)
    console.print(f"A: {a}\nB: {b}\n", highlight=False)
    console.print(table)
    if not comparison.events.height:
        console.print("\nEvery target has the same rank in both runs.")
        return
    headers = ("regime", "list", "time", "actor", "action", "target", "rank in A", "rank in B")
    events_table = _table("events that differ most", *headers)
    times = pl.from_epoch(comparison.events["timestamp"], "s")
    for time, row in zip(times, comparison.events.iter_rows(named=True), strict=True):
        ranks = ["missed" if row[f"rank_{run}"] is None else str(row[f"rank_{run}"]) for run in ("a", "b")]
        event = [str(row[name]) for name in ("actor", "action", "target")]
        events_table.add_row(row["regime"], row["list"], f"{time:%Y-%m-%d %H:%M}", *event, *ranks)
    console.print(events_table)


def _table(title: str, *headers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, no_wrap=True)
    return table
