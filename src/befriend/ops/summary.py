"""`befriend summary`: prints the size of the log, the main metrics and the paths of the reports of the current run."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table

from befriend import files, layout
from befriend.analysis.metric_tables import LISTS, SERVED_MODEL, headline
from befriend.data.regimes import REGIMES
from befriend.errors import DataError
from befriend.ops import project_state

NUM_SHOWN_MODELS = 5  # in each table


def show(root: Path) -> None:
    """Prints the summary of the run in `root`; DataError if there is none."""
    console = Console()
    for path in (layout.VALIDATION, layout.METRICS):
        if not (root / path).is_file():
            if (project_state.describe_log(root) or {}).get("refused"):
                raise DataError(f"the log was refused, and nothing was trained. {layout.VALIDATION_REPORT} says why.")
            raise DataError(f"there is no {path} yet. Run `make run` first.")
    validation, metrics = files.read_json(root / layout.VALIDATION), files.read_json(root / layout.METRICS)
    rows = validation["rows"]
    console.print(
        f"\n[bold]{rows['events']:,}[/] events between [bold]{validation['users']:,}[/] users "
        f"({rows['read']:,} rows read, {rows['rejected']:,} rejected, {rows['self_loops']:,} self-loops dropped)"
    )
    if project_state.outdated_stages(root):
        console.print(
            "[yellow]These are the figures of an earlier log, or of earlier settings. For those of now: make run[/]\n"
        )
    table = headline(metrics)
    for list_kind, (_, title) in LISTS.items():
        console.print(
            _table(
                table.filter(list=list_kind),
                [regime for regime in REGIMES if regime in metrics],
                f"{title.split(':')[0]} (list {list_kind}), NDCG@10",
            )
        )
    console.print(
        f"[dim]what is served (both), and the best of {table['model'].n_unique()} models and heuristics; "
        "the report has all of them, with confidence intervals[/]\n"
    )
    if (root / layout.VERDICT).is_file():
        verdict = files.read_json(root / layout.VERDICT)
        console.print(f"[bold]{verdict['answer']}.[/] {verdict['reason']}\n", highlight=False)
    record = root / layout.RUNS / "evaluate.json"
    latency = files.read_json(record).get("latency", {}) if record.is_file() else {}
    if latency:
        times = ", ".join(f"{model} {time['p50']:.0f} ms (p95 {time['p95']:.0f})" for model, time in latency.items())
        console.print(f"time to make a list for one user: {times}\n", highlight=False)
    records = [files.read_json(path) for path in sorted((root / layout.RUNS).glob("*.json"))]
    if records:
        records.sort(key=lambda record: record["started"])
        durations = ", ".join(f"{record['stage']} {record.get('seconds', 0):.0f} s" for record in records)
        revisions = sorted({record["revision"] for record in records if record.get("revision")})
        code = f", code {' and '.join(revisions)}" if revisions else ""
        code += " (+: with uncommitted changes)" if "+" in code else ""
        console.print(f"last run at {records[-1]['started']}{code}: {durations}\n", highlight=False)
    for name, path in (
        ("the run on one page", layout.REPORT_PAGE),
        ("model card", layout.MODEL_CARD),
        ("validation report", layout.VALIDATION_REPORT),
        ("data docs", layout.DATA_DOCS),
        ("evaluation report", layout.EVALUATION_REPORT),
        ("lists of every model", layout.PREDICTIONS),
    ):
        if (root / path).exists():
            console.print(f"  {name:21} {path}", highlight=False)


def _table(table: pl.DataFrame, regimes: list[str], title: str) -> Table:
    """A table of the models with the best mean over the regimes, and of the served one, whatever its mean.

    Of models with equal metrics, only the first.
    """
    printed = Table("model", *regimes, title=title, title_justify="left", title_style="bold", header_style="")
    regimes = [regime for regime in regimes if table.filter(regime=regime).height]
    if not regimes:
        printed.caption = "no evaluated event belongs to this list"
        return printed
    wide = table.pivot(on="regime", index="model", values="ndcg@10").unique(regimes, keep="first", maintain_order=True)
    best = wide.with_columns(pl.mean_horizontal(regimes).alias("mean")).sort("mean", "model", descending=[True, False])
    top = {regime: best[regime].max() for regime in regimes}
    is_shown = (pl.int_range(pl.len()) < NUM_SHOWN_MODELS) | (pl.col("model") == SERVED_MODEL)
    for row in best.filter(is_shown).iter_rows(named=True):
        cells = [f"{row[regime]:.3f}" for regime in regimes]
        printed.add_row(
            row["model"], *(f"[bold]{c}[/]" if row[r] == top[r] else c for r, c in zip(regimes, cells, strict=True))
        )
    return printed
