"""What a person reads of an evaluation: a markdown page with one figure, and tables behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from befriend.config import EvaluateSettings
from befriend.evaluation.groups import UNSEEN
from befriend.evaluation.measure import figures_schema
from befriend.evaluation.regimes import REGIMES

FIGURE = "headline.png"
LISTS = {
    "new": ("new", "People you may know: lists without contacts, events between people who had none"),
    "any": ("all", "All candidates: lists with contacts, all events whose target can be ranked"),
}
BLUE, GREY = "#0072B2", "#8C8C8C"


def headline(metrics: dict[str, Any]) -> pl.DataFrame:
    """list, regime, model, n, metrics and bounds of the two headline cells of each regime, best first."""
    rows = [
        {"list": kind, "regime": regime, "model": model} | figures
        for kind, (segment, _) in LISTS.items()
        for regime, lists in metrics.items()
        for model, figures in sorted(
            lists.get(kind, {}).get(segment, {}).items(), key=lambda item: (-item[1]["ndcg@10"], item[0])
        )
    ]
    return pl.DataFrame(rows, figures_schema("list", "regime", "model"))


def write_report(
    folder: Path,
    metrics: dict[str, Any],
    slices: pl.DataFrame,
    exposure: pl.DataFrame,
    findable: pl.DataFrame,
    settings: EvaluateSettings,
) -> None:
    """report.md, headline.png, and as CSV the headline (whole and cell by cell), slices and exposure."""
    table = headline(metrics)
    table.write_csv(folder / "headline.csv")
    for kind in LISTS:
        for regime in REGIMES:  # `dvc plots` draws a file as a whole, and wants every one that dvc.yaml names
            table.filter(list=kind, regime=regime).write_csv(folder / f"{kind}_{regime}.csv")
    slices.write_csv(folder / "slices.csv")
    exposure.write_csv(folder / "exposure.csv")
    findable.write_csv(folder / "findable.csv")
    if table.height:
        draw(table, list(metrics), folder / FIGURE)
    (folder / "report.md").write_text(
        _markdown(table, slices, exposure, findable, list(metrics), settings), encoding="utf-8"
    )


def draw(table: pl.DataFrame, regimes: list[str], path: Path, top: int = 10) -> None:
    """The best of each cell, with intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    with mpl.rc_context(style):
        figure, grid = plt.subplots(
            2, len(regimes), figsize=(4.2 * len(regimes), 6.2), layout="constrained", squeeze=False
        )
        for row, kind in zip(grid, LISTS, strict=True):
            for axes, regime in zip(row, regimes, strict=True):
                best = table.filter(list=kind, regime=regime)[:top].reverse()
                value = best["ndcg@10"].to_numpy()
                low, high = (abs(best[f"ndcg@10_{end}"].to_numpy() - value) for end in ("low", "high"))
                colours = [GREY] * (best.height - 1) + [BLUE]
                axes.barh(
                    best["model"].to_list(),
                    value,
                    xerr=[low, high],
                    color=colours[-best.height :],
                    error_kw={"lw": 0.8},
                )
                axes.set(title=f"{regime}, list {kind}", xlabel="NDCG@10")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


def _markdown(
    table: pl.DataFrame,
    slices: pl.DataFrame,
    exposure: pl.DataFrame,
    findable: pl.DataFrame,
    regimes: list[str],
    settings: EvaluateSettings,
) -> str:
    n = {kind: sum(table.filter(list=kind)["n"][:1]) for kind in LISTS}
    lines = [
        "# Evaluation",
        "",
        f"NDCG@10 by full ranking over everyone seen so far, on the {settings.part} part: "
        f"{n['any']} events, {n['new']} of them "
        f"new links. In brackets the {settings.confidence:.0%} interval over users. "
        "Regimes: what is visible when the list "
        "is made: everything before the event (streaming, where the action is known; live, where it is not), before "
        "its UTC day (daily), before the part (frozen).",
        "",
        f"![the best of each regime]({FIGURE})",
    ]
    for kind, (_, title) in LISTS.items():
        lines += ["", f"## {title}", "", *_grid(table.filter(list=kind), regimes)]
    if findable.height:
        lines += ["", "## People without an event, who are found by what they wrote", ""]
        lines += ["NDCG@10 of all first contacts, with such people on the lists, as they are served, and without.", ""]
        heads = ("regime", "model", "contacts", "with them", "shown", "hidden", "difference", "of the first ten")
        lines += [f"| {' | '.join(heads)} |", "|---|---|---:|---:|---:|---:|---|---:|"]
        for row in findable.iter_rows(named=True):
            apart = f"{row['difference']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
            cells = (row["regime"], row["model"], f"{row['n']:,}", f"{row['first_ever']:,}", f"{row['shown']:.4f}")
            lines.append(f"| {' | '.join(cells)} | {row['hidden']:.4f} | {apart} | {row['share']:.2%} |")
    newcomers = slices.filter(by="actor", slice=UNSEEN)
    lines += ["", "## Newcomers: the events of people unseen in training", ""]
    for kind in LISTS:
        lines += [f"List {kind}:", "", *_grid(newcomers.filter(list=kind), regimes), ""]
    best = {kind: table.filter(list=kind, regime=regimes[0])["model"].to_list()[:1] for kind in LISTS}
    lines += [f"## Where it is won: slices, {regimes[0]}, best model of each list", ""]
    lines += ["| list | by | slice | events | NDCG@10 |", "|---|---|---|---:|---|"]
    for kind, names in best.items():
        for row in slices.filter(pl.col("model").is_in(names), list=kind, regime=regimes[0]).iter_rows(named=True):
            lines.append(f"| {kind} ({row['model']}) | {row['by']} | {row['slice']} | {row['n']:,} | {_cell(row)} |")
    lines += ["", f"## Who is shown on the top 10 of list new, {regimes[0]}", ""]
    lines += ["| model | share of people shown | Gini of exposure |", "|---|---:|---:|"]
    for row in exposure.filter(regime=regimes[0]).iter_rows(named=True):
        lines.append(f"| {row['model']} | {row['users_covered']:.1%} | {row['exposure_gini']:.2f} |")
    return "\n".join(lines) + "\n"


def _grid(table: pl.DataFrame, regimes: list[str]) -> list[str]:
    lines = [f"| model | {' | '.join(regimes)} |", "|---|" + "---|" * len(regimes)]
    best = {regime: table.filter(regime=regime)["ndcg@10"].max() for regime in regimes}
    for model in table["model"].unique(maintain_order=True):
        cells = []
        for regime in regimes:
            row = next(table.filter(regime=regime, model=model).iter_rows(named=True), None)
            cell = _cell(row) if row else ""
            cells.append(f"**{cell}**" if row and row["ndcg@10"] == best[regime] else cell)
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return lines


def _cell(row: dict[str, Any]) -> str:
    return f"{row['ndcg@10']:.4f} ({row['ndcg@10_low']:.4f} to {row['ndcg@10_high']:.4f})"
