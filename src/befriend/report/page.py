"""The page of a run: a single HTML file with its data, script and style inline, which needs no network."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jinja2
import vl_convert

from befriend.analysis.evaluation_report import LISTS
from befriend.report.charts import BEST_RULE, DARK, LIGHT, VEGA_LITE, Figure, compared, config
from befriend.report.example_lists import ExampleUser
from befriend.report.run_results import LEARNED, MODELS, RunResults

METRICS = {"ndcg@10": "NDCG@10", "hit@10": "Hit@10", "mrr@100": "MRR@100"}


def render(run: RunResults, figures: list[Figure], examples: list[ExampleUser]) -> str:
    """The HTML of the page; equal runs give equal bytes."""
    return (
        _templates()
        .get_template("page.html")
        .render(
            **page_context(run),
            figures={figure.name: figure for figure in figures},
            specs={figure.name: figure.spec for figure in figures},
            themes={"light": config(LIGHT), "dark": config(DARK)},
            colours={"light": LIGHT, "dark": DARK},
            examples=examples,
            library=vl_convert.javascript_bundle(EXPORT, vl_version=VEGA_LITE).replace("</script", "<\\/script"),
        )
    )


EXPORT = "window.vegaEmbed = vegaEmbed;"


def model_card(run: RunResults) -> str:
    """The model card in Markdown, after Mitchell et al., Model Cards for Model Reporting (2019)."""
    return _templates().get_template("model_card.md").render(**page_context(run))


def page_context(run: RunResults) -> dict[str, Any]:
    """The variables of the templates of page and card."""
    return {
        "run": run,
        "regimes": run.regimes,
        "lists": {kind: title for kind, (_, title) in LISTS.items()},
        "learned": LEARNED,
        "models": MODELS,
        "metrics": METRICS,
        "evaluated": {kind: max(run.headline.filter(list=kind)["n"], default=0) for kind in LISTS},
        "tables": {kind: _table(run, kind) for kind in LISTS},
        "headlines": [
            _cell(run, kind, regime) for kind in LISTS for regime in run.regimes if run.figures(kind, regime)
        ],
        "newcomers": [
            _cell(run, kind, regime, "newcomers")
            for kind in LISTS
            for regime in run.regimes
            if run.figures(kind, regime, "newcomers")
        ],
        "slices": {kind: _slices(run, kind) for kind in LISTS},
        "best_rule": BEST_RULE,
        "first": _day(run.validation["time"]["first"]),
        "last": _day(run.validation["time"]["last"]),
        "refused": sorted(run.validation["rejected_by_reason"].items(), key=lambda item: -item[1]),
        "failed": [name for name, rule in run.validation["rules"].items() if not rule["passed"]],
    }


def _cell(run: RunResults, kind: str, regime: str, segment: str | None = None) -> dict[str, Any]:
    """The best learned model of a cell, and the rule that is best in the headline of the cell."""
    figures = run.figures(kind, regime, segment)
    best = max((name for name in LEARNED if name in figures), key=lambda name: figures[name]["ndcg@10"])
    rule = run.best_rule(kind, regime)
    rule_figures = figures[rule] if rule else None
    times = figures[best]["ndcg@10"] / rule_figures["ndcg@10"] if rule_figures and rule_figures["ndcg@10"] else None
    return {
        "list": kind, "regime": regime, "model": best, "figures": figures[best], "rule": rule,
        "rule_figures": rule_figures, "times": times, "models": figures,
    }  # fmt: skip


def _table(run: RunResults, kind: str) -> list[dict[str, Any]]:
    """A row for each model, the best on average first: its figures and the best NDCG@10, both by regime."""
    by_model: dict[str, dict[str, Any]] = {}
    for regime in run.regimes:
        for name, figures in run.figures(kind, regime).items():
            by_model.setdefault(name, {})[regime] = figures
    best = {
        regime: max(f["ndcg@10"] for f in run.figures(kind, regime).values())
        for regime in run.regimes
        if run.figures(kind, regime)
    }
    order = sorted(by_model, key=lambda name: (-sum(f["ndcg@10"] for f in by_model[name].values()), name))
    return [{"model": name, "regimes": by_model[name], "best": best} for name in order]


def _slices(run: RunResults, kind: str) -> list[dict[str, Any]]:
    """A row for each slice and regime: the figures of the learned models and of the best rule."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for regime in run.regimes:
        for figures in compared(run, kind, regime).iter_rows(named=True):
            row = rows.setdefault((regime, figures["by"], figures["slice"]), {"n": figures["n"], "models": {}})
            row["models"][figures["who"]] = figures
    return [{"regime": regime, "by": by, "slice": name} | row for (regime, by, name), row in rows.items()]


def _day(second: int) -> str:
    """The UTC date of a Unix second."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d}"


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("befriend.report", "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value: f"{value:.4f}"
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda value, digits=1: f"{value:.{digits}%}"
    return environment
