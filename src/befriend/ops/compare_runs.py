"""`befriend compare`: compares the lists of two runs, given as folders or as git revisions."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from befriend.errors import CallError
from befriend.progress import note

if TYPE_CHECKING:
    from befriend.analysis.paired_comparison import PairedComparison

REQUIRED_PATHS = ("prepared", "reports/predictions")


def show(a: str, b: str, model: str, model_b: str | None, max_events: int, as_json: bool) -> None:
    """Prints the comparison of runs `a` and `b`, as tables or JSON.

    model: the model whose lists are compared; model_b: the model of run b, None: the same; max_events: how many of the
    events that differ most are printed.
    """
    with tempfile.TemporaryDirectory() as name:
        folders = _run_folder(a, Path(name) / "a"), _run_folder(b, Path(name) / "b")
        note("comparing the lists ...")

        from befriend.analysis.paired_comparison import compare_runs  # after the checks, since it takes seconds

        comparison = compare_runs(*folders, model, model_b, max_events)
    if as_json:
        typer.echo(f'{{"figures": {comparison.metrics.write_json()}, "events": {comparison.events.write_json()}}}')
        return
    _print(comparison, f"{a} ({model})", f"{b} ({model_b or model})")


def _run_folder(name: str, folder: Path) -> Path:
    """The folder `name` if it exists; otherwise `folder`, after copying the outputs of git revision `name` into it.

    The outputs come from DVC's cache or its default remote. CallError if there are none.
    """
    if Path(name).is_dir():
        missing = [path for path in REQUIRED_PATHS if not (Path(name) / path).is_dir()]
        if missing:
            raise CallError(
                f"{name} has no outputs of a run: there is no {Path(name) / missing[0]}. Give the folder of a project "
                "in which `make run` has run."
            )
        return Path(name)
    commit = _commit(name)
    # DVC would use the default remote that was set in that commit.
    remote = _call("dvc", "config", "core.remote").stdout.strip()
    for path in REQUIRED_PATHS:
        out = folder / path
        out.parent.mkdir(parents=True, exist_ok=True)
        process = _call(
            "dvc", "get", ".", path, "--rev", commit, "-o", str(out), *(["--remote", remote] if remote else [])
        )
        if process.returncode:
            raise CallError(_missing_outputs_message(name, commit, path, remote, process.stderr))
    return folder


def _commit(name: str) -> str:
    """The abbreviated commit of a git revision. CallError if there is no such revision."""
    process = _call("git", "rev-parse", "--verify", "--quiet", "--short", "--end-of-options", f"{name}^{{commit}}")
    if process.returncode:
        raise CallError(
            f"{name} is neither a folder nor a git revision of this project. Give two runs as folders or revisions: "
            "befriend compare HEAD ."
        )
    return process.stdout.strip()


def _missing_outputs_message(name: str, commit: str, path: str, remote: str, problem: str) -> str:
    """Why the outputs of a commit cannot be read, and how to make them.

    path: the first one that is missing; remote: DVC's default remote, or empty; problem: what DVC printed.
    """
    revision = name if name.startswith(commit) else f"{name}, which is commit {commit},"
    if f"path: {path}" not in _call("git", "show", f"{commit}:dvc.lock").stdout:
        return (
            f"the revision {revision} has no outputs of a run: there is no {path} in its dvc.lock. Choose another one, "
            "or compare two folders in which `make run` has run: befriend compare FOLDER FOLDER"
        )
    if remote:
        error = next((line for line in problem.splitlines() if line.startswith("ERROR")), "ERROR: no message")
        where = f"neither DVC's cache nor the remote {remote} has {path} ({error.removeprefix('ERROR: ')})"
    else:
        where = f"DVC's cache does not have {path}, and this project has no default remote"
    clone = f"../befriend-{commit}"
    return (
        f"the outputs of the revision {revision} are not stored here: {where}.\n"
        "To make them again, run that commit in a folder of its own, then compare the folders:\n"
        f"  git clone . {clone}\n"
        f"  git -C {clone} checkout {commit}\n"
        f"  make -C {clone} run\n"
        f"  befriend compare {clone} ."
    )


def _call(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs git, or the DVC of this Python environment."""
    command = str(Path(sys.executable).with_name("dvc")) if program == "dvc" else program
    return subprocess.run([command, *arguments], capture_output=True, text=True)


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
