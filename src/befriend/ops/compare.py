"""`befriend compare`: two git revisions, or two folders of runs, side by side."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend.errors import CallError
from befriend.evaluation.compare import Compared, compare

NEEDED = ("prepared", "reports/predictions")


def show(a: str, b: str, model: str, other: str | None, most: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        found = compare(_run(a, Path(name) / "a"), _run(b, Path(name) / "b"), model, other, most)
    if as_json:
        typer.echo(f'{{"figures": {found.figures.write_json()}, "events": {found.events.write_json()}}}')
        return
    _print(found, f"{a} ({model})", f"{b} ({other or model})")


def _run(name: str, folder: Path) -> Path:
    """A folder with what is needed of a run: the folder of that name, or a git revision's files from DVC's cache."""
    if Path(name).is_dir():
        return Path(name)
    for path in NEEDED:
        out = folder / path
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [str(Path(sys.executable).with_name("dvc")), "get", ".", path, "--rev", name, "-o", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            why = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "dvc get failed")
            raise CallError(
                f"{name} is no folder, and the results of a revision of that name cannot be read "
                f"({why.removeprefix('ERROR: ')}). Check it out and run `dvc repro`, or `dvc pull`."
            )
    return folder


def _print(found: Compared, a: str, b: str) -> None:
    console = Console()
    heads = ("regime", "list", "segment", "lists", "A", "B", "B - A", "95 % interval")
    table = _table("NDCG@10; bold: the interval does not hold 0", *heads)
    for row in found.figures.iter_rows(named=True):
        low, high = row["ndcg@10 low"], row["ndcg@10 high"]
        cells = [f"{row[f'ndcg@10 {name}']:.4f}" for name in ("a", "b")]
        cells += [f"{row['ndcg@10 difference']:+.4f}", f"{low:+.4f} to {high:+.4f}"]
        clear = "bold" if low > 0 or high < 0 else None
        table.add_row(row["regime"], row["list"], row["segment"], f"{row['n']:,}", *cells, style=clear)
    console.print(f"A: {a}\nB: {b}\n", highlight=False)
    console.print(table)
    if not found.events.height:
        console.print("\nevery target has the same place in both runs")
        return
    heads = ("regime", "list", "when", "who", "did", "to whom", "place in A", "in B")
    differ = _table("events that differ most", *heads)
    when = pl.from_epoch(found.events["timestamp"], "s")
    for moment, row in zip(when, found.events.iter_rows(named=True), strict=True):
        places = ["missed" if row[f"rank_{run}"] is None else str(row[f"rank_{run}"]) for run in ("a", "b")]
        who = [str(row[name]) for name in ("actor", "action", "target")]
        differ.add_row(row["regime"], row["list"], f"{moment:%Y-%m-%d %H:%M}", *who, *places)
    console.print(differ)


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table
