"""The report of an evaluation: a Markdown page with one figure, and its tables as CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from befriend.analysis.evaluate_settings import EvaluateSettings
from befriend.analysis.groups import UNSEEN
from befriend.analysis.metric_tables import LISTS, headline
from befriend.data.regimes import REGIMES
from befriend.plots import LIGHT, saved_figure

FIGURE = "headline.png"


def write_report(
    folder: Path,
    metrics: dict[str, Any],
    slices: pl.DataFrame,
    exposure: pl.DataFrame,
    cold_start: pl.DataFrame,
    settings: EvaluateSettings,
) -> None:
    """Writes report.md, headline.png and the tables as CSV: the headline, whole and by cell, and the three others.

    metrics: the content of metrics.json; slices, exposure: as of `compute_metrics`, of all regimes; cold_start: as of
    `measure_cold_start_gain`.
    """
    table = headline(metrics)
    table.write_csv(folder / "headline.csv")
    for list_kind in LISTS:
        for regime in REGIMES:  # `dvc plots` draws whole files, and fails if a file that dvc.yaml names is missing
            table.filter(list=list_kind, regime=regime).write_csv(folder / f"{list_kind}_{regime}.csv")
    slices.write_csv(folder / "slices.csv")
    exposure.write_csv(folder / "exposure.csv")
    cold_start.write_csv(folder / "cold_start.csv")
    if table.height:
        draw(table, list(metrics), folder / FIGURE)
    (folder / "report.md").write_text(
        _markdown(table, slices, exposure, cold_start, list(metrics), settings), encoding="utf-8"
    )


def draw(table: pl.DataFrame, regimes: list[str], path: Path, top: int = 10) -> None:
    """Draws NDCG@10 of the `top` best models of each list and regime, with confidence intervals."""
    with saved_figure(path, width=4.2 * len(regimes), height=6.2) as figure:
        grid = figure.subplots(len(LISTS), len(regimes), squeeze=False)
        for row, list_kind in zip(grid, LISTS, strict=True):
            for axes, regime in zip(row, regimes, strict=True):
                best = table.filter(list=list_kind, regime=regime)[:top].reverse()
                value = best["ndcg@10"].to_numpy()
                low, high = (abs(best[f"ndcg@10_{end}"].to_numpy() - value) for end in ("low", "high"))
                colours = [LIGHT.neutral] * (best.height - 1) + [LIGHT.series[0]]
                axes.barh(
                    best["model"].to_list(),
                    value,
                    xerr=[low, high],
                    color=colours[-best.height :],
                    error_kw={"lw": 0.8},
                )
                axes.set(title=f"{regime}, list {list_kind}", xlabel="NDCG@10")


def _markdown(
    table: pl.DataFrame,
    slices: pl.DataFrame,
    exposure: pl.DataFrame,
    cold_start: pl.DataFrame,
    regimes: list[str],
    settings: EvaluateSettings,
) -> str:
    n = {list_kind: sum(table.filter(list=list_kind)["n"][:1]) for list_kind in LISTS}
    lines = [
        "# Evaluation",
        "",
        f"NDCG@10 by full ranking over all users seen so far, on the {settings.part} part: {n['any']} events, "
        f"{n['new']} of them first contacts. In brackets: the {settings.confidence:.0%} confidence interval, by "
        "bootstrap over users. The regime says what is visible when the list is made: everything before the event "
        "(streaming: its action is known; live: it is not), before its UTC day (daily), or before the part (frozen).",
        "",
        f"![the best models of each regime]({FIGURE})",
    ]
    for list_kind, (_, title) in LISTS.items():
        lines += ["", f"## {title}", "", *_models_by_regime(table.filter(list=list_kind), regimes)]
    if cold_start.height:
        lines += ["", "## Cold-start users: no event yet, listed because of their texts", ""]
        lines += ["NDCG@10 of all first contacts, with cold-start users on the lists (shown, as served) or not.", ""]
        lines += [
            "| regime | model | first contacts | to cold-start users | shown | hidden | difference | "
            "share of the top 10 |",
            "|---|---|---:|---:|---:|---:|---|---:|",
        ]
        for row in cold_start.iter_rows(named=True):
            difference = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
            cells = (row["regime"], row["model"], f"{row['n']:,}", f"{row['first_ever']:,}", f"{row['shown']:.4f}")
            lines.append(f"| {' | '.join(cells)} | {row['hidden']:.4f} | {difference} | {row['share']:.2%} |")
    newcomers = slices.filter(by="actor", slice=UNSEEN)
    lines += ["", "## Newcomers: events of users unseen in training", ""]
    for list_kind in LISTS:
        lines += [f"List {list_kind}:", "", *_models_by_regime(newcomers.filter(list=list_kind), regimes), ""]
    best = {list_kind: table.filter(list=list_kind, regime=regimes[0])["model"].to_list()[:1] for list_kind in LISTS}
    lines += [f"## Slices, {regimes[0]}, best model of each list", ""]
    lines += ["| list | by | slice | events | NDCG@10 |", "|---|---|---|---:|---|"]
    for list_kind, names in best.items():
        for row in slices.filter(pl.col("model").is_in(names), list=list_kind, regime=regimes[0]).iter_rows(named=True):
            lines.append(
                f"| {list_kind} ({row['model']}) | {row['by']} | {row['slice']} | {row['n']:,} | {_format_ndcg(row)} |"
            )
    lines += ["", f"## Exposure: who is in the top 10 of list new, {regimes[0]}", ""]
    lines += ["| model | share of users shown | Gini of exposure |", "|---|---:|---:|"]
    for row in exposure.filter(regime=regimes[0]).iter_rows(named=True):
        lines.append(f"| {row['model']} | {row['users_covered']:.1%} | {row['exposure_gini']:.2f} |")
    return "\n".join(lines) + "\n"


def _models_by_regime(table: pl.DataFrame, regimes: list[str]) -> list[str]:
    """Lines of a Markdown table of NDCG@10: a row for each model, a column for each regime, the best model in bold."""
    lines = [f"| model | {' | '.join(regimes)} |", "|---|" + "---|" * len(regimes)]
    best = {regime: table.filter(regime=regime)["ndcg@10"].max() for regime in regimes}
    for model in table["model"].unique(maintain_order=True):
        cells = []
        for regime in regimes:
            row = next(table.filter(regime=regime, model=model).iter_rows(named=True), None)
            cell = _format_ndcg(row) if row else ""
            cells.append(f"**{cell}**" if row and row["ndcg@10"] == best[regime] else cell)
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return lines


def _format_ndcg(row: dict[str, Any]) -> str:
    """NDCG@10 with its confidence interval."""
    return f"{row['ndcg@10']:.4f} ({row['ndcg@10_low']:.4f} to {row['ndcg@10_high']:.4f})"
