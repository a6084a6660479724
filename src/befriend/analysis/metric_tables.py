"""Tables of metrics.json: their columns, and the headline metrics. Without PyTorch, for a quick `befriend summary`."""

from __future__ import annotations

from typing import Any

import polars as pl

from befriend.data.regimes import REGIMES, Regime
from befriend.evaluation.metrics import METRICS

METRIC_COLUMNS = ("n", *METRICS, f"{METRICS[0]}_low", f"{METRICS[0]}_high")
LISTS = {
    "new": ("new", "People you may know: contacts excluded, scored on first contacts"),
    "any": ("all", "All candidates: contacts included, scored on all events whose target can be ranked"),
}

SERVED_MODEL = "both"  # the ranker
LEARNED = (SERVED_MODEL, "two-tower", "stu", "boosted")
"""the models and rankers; all other names in metrics.json are heuristics"""
FEW_LISTS = 100
"""with fewer lists, the confidence interval of NDCG@10 is wider than most differences between two runs"""


def metrics_by_regime(metrics: dict[str, Any]) -> dict[Regime, dict[str, Any]]:
    """Regime -> kind of list -> segment -> model -> metrics, of the evaluated regimes in the order of REGIMES.

    metrics: the content of metrics.json, which has two other keys, `served` and `sources`.
    """
    return {regime: metrics[regime] for regime in REGIMES if regime in metrics}


def metrics_schema(*labels: str) -> dict[str, Any]:
    """Polars schema of a table of metrics: text columns `labels`, then METRIC_COLUMNS."""
    columns: dict[str, Any] = dict.fromkeys(labels, pl.String)
    return columns | {name: pl.Int64 if name == "n" else pl.Float64 for name in METRIC_COLUMNS}


def headline(metrics: dict[str, Any]) -> pl.DataFrame:
    """list, regime, model, n, metrics and bounds of the headline cells (list x regime), best model first in each.

    metrics: the content of metrics.json.
    """
    rows = [
        {"list": list_kind, "regime": regime, "model": model} | model_metrics
        for list_kind, (segment, _) in LISTS.items()
        for regime, lists in metrics_by_regime(metrics).items()
        for model, model_metrics in sorted(
            lists.get(list_kind, {}).get(segment, {}).items(), key=lambda item: (-item[1]["ndcg@10"], item[0])
        )
    ]
    return pl.DataFrame(rows, metrics_schema("list", "regime", "model"))


def headline_metrics(metrics: dict[str, Any], validation: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that tell two runs apart at a glance, the metrics of DVC. They are in headline.json.

    metrics: the content of metrics.json; validation: that of validation.json. Keys: `new`, NDCG@10 of first contacts by
    regime, of the ranker `both` and of the best heuristic; `newcomers`, that of `both` for actors without an event in
    the training part, in the freshest regime whose lists do not know the action; `rejected`, the share of rows that
    were rejected; `served`, how many of the lists that were requested again, as an application does, differ.
    """
    new = {}
    for regime, lists in metrics_by_regime(metrics).items():
        ndcg = {model: cell["ndcg@10"] for model, cell in lists.get("new", {}).get("new", {}).items()}
        rules = [value for model, value in ndcg.items() if model not in LEARNED]
        if SERVED_MODEL in ndcg and rules:
            new[regime] = {SERVED_MODEL: ndcg[SERVED_MODEL], "best_rule": max(rules)}
    newcomers = {
        regime: metrics[regime]["new"]["newcomers"][SERVED_MODEL]["ndcg@10"]
        for regime in ("live", "daily", "streaming", "frozen")
        if SERVED_MODEL in metrics.get(regime, {}).get("new", {}).get("newcomers", {})
    }
    rows = validation["rows"]
    return {
        "new": new,
        "newcomers": dict(list(newcomers.items())[:1]),
        "rejected": round(rows["rejected"] / max(rows["read"], 1), 6),
        "served": {"differ": metrics["served"]["differ"]},
    }


def reference_figures(metrics: dict[str, Any]) -> dict[str, list[float]]:
    """The figures by which a run on another machine is compared with this one. They are in reference.json.

    metrics: the content of metrics.json. Returns `list/regime/model` of all models and rankers -> NDCG@10, and the
    bounds of its confidence interval.
    """
    rows = headline(metrics).filter(pl.col("model").is_in(LEARNED)).sort("list", "regime", "model")
    columns = ("list", "regime", "model", "ndcg@10", "ndcg@10_low", "ndcg@10_high")
    return {"/".join(row[:3]): list(row[3:]) for row in rows.select(columns).iter_rows()}
