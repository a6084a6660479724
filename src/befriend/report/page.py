"""Renders the page of a run, a single HTML file that needs no network, and its model card in Markdown."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jinja2
import vl_convert

from befriend.analysis.evaluation_report import LISTS
from befriend.plots import DARK, LIGHT
from befriend.report.charts import BEST_RULE, VEGA_LITE, PageChart, slices_with_best_rule, vega_config
from befriend.report.example_lists import ExampleUser
from befriend.report.run_results import LEARNED, MODELS, RunResults

METRICS = {"ndcg@10": "NDCG@10", "hit@10": "Hit@10", "mrr@100": "MRR@100"}


def render_page(run: RunResults, charts: list[PageChart], examples: list[ExampleUser]) -> str:
    """The HTML of the page, with data, script and style inline. Equal runs give equal bytes."""
    return (
        _templates()
        .get_template("page.html")
        .render(
            **page_context(run),
            chart_by_name={chart.name: chart for chart in charts},
            specs={chart.name: chart.page_spec for chart in charts},
            themes={"light": vega_config(LIGHT), "dark": vega_config(DARK)},
            palettes={"light": LIGHT, "dark": DARK},
            examples=examples,
            library=vl_convert.javascript_bundle(EMBED_SCRIPT, vl_version=VEGA_LITE).replace("</script", "<\\/script"),
        )
    )


EMBED_SCRIPT = "window.vegaEmbed = vegaEmbed;"
"""what the bundle of Vega-Lite does when the page loads it: makes its function known to page.js"""


def render_model_card(run: RunResults) -> str:
    """The model card in Markdown, after Mitchell et al., Model Cards for Model Reporting (2019)."""
    return _templates().get_template("model_card.md").render(**page_context(run))


def page_context(run: RunResults) -> dict[str, Any]:
    """The variables that the templates of page and model card share."""
    return {
        "run": run,
        "regimes": run.regimes,
        "lists": {kind: title for kind, (_, title) in LISTS.items()},
        "learned": LEARNED,
        "models": MODELS,
        "metrics": METRICS,
        "num_evaluated": {kind: max(run.headline.filter(list=kind)["n"], default=0) for kind in LISTS},
        "headline_tables": {kind: _headline_table(run, kind) for kind in LISTS},
        "headlines": [
            _headline_cell(run, kind, regime)
            for kind in LISTS
            for regime in run.regimes
            if run.metrics_by_model(kind, regime)
        ],
        "newcomers": [
            _headline_cell(run, kind, regime, "newcomers")
            for kind in LISTS
            for regime in run.regimes
            if run.metrics_by_model(kind, regime, "newcomers")
        ],
        "slice_tables": {kind: _slice_table(run, kind) for kind in LISTS},
        "best_rule": BEST_RULE,
        "first_day": _utc_date(run.validation["time"]["first"]),
        "last_day": _utc_date(run.validation["time"]["last"]),
        "rejected_by_reason": sorted(run.validation["rejected_by_reason"].items(), key=lambda item: -item[1]),
        "failed_rules": [name for name, rule in run.validation["rules"].items() if not rule["passed"]],
    }


def _headline_cell(run: RunResults, kind: str, regime: str, segment: str | None = None) -> dict[str, Any]:
    """The best learned model of a list and regime in a segment, beside the rule that is best in the headline segment.

    kind: of the lists, any or new; segment: None for the headline segment.
    """
    models = run.metrics_by_model(kind, regime, segment)
    best = max((name for name in LEARNED if name in models), key=lambda name: models[name]["ndcg@10"])
    rule = run.best_rule(kind, regime)
    rule_metrics = models[rule] if rule else None
    ratio = models[best]["ndcg@10"] / rule_metrics["ndcg@10"] if rule_metrics and rule_metrics["ndcg@10"] else None
    return {
        "list": kind, "regime": regime, "model": best, "metrics": models[best], "rule": rule,
        "rule_metrics": rule_metrics, "ratio": ratio, "models": models,
    }  # fmt: skip


def _headline_table(run: RunResults, kind: str) -> list[dict[str, Any]]:
    """A row for each model, the best on average first: its metrics, and the best NDCG@10 of any model, by regime."""
    by_model: dict[str, dict[str, Any]] = {}
    for regime in run.regimes:
        for name, metrics in run.metrics_by_model(kind, regime).items():
            by_model.setdefault(name, {})[regime] = metrics
    best_ndcg = {
        regime: max(metrics["ndcg@10"] for metrics in run.metrics_by_model(kind, regime).values())
        for regime in run.regimes
        if run.metrics_by_model(kind, regime)
    }
    order = sorted(by_model, key=lambda name: (-sum(row["ndcg@10"] for row in by_model[name].values()), name))
    return [{"model": name, "regimes": by_model[name], "best_ndcg": best_ndcg} for name in order]


def _slice_table(run: RunResults, kind: str) -> list[dict[str, Any]]:
    """A row for each slice and regime: the metrics of the learned models and of the best rule."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for regime in run.regimes:
        for metrics in slices_with_best_rule(run, kind, regime).iter_rows(named=True):
            row = rows.setdefault((regime, metrics["by"], metrics["slice"]), {"n": metrics["n"], "models": {}})
            row["models"][metrics["series"]] = metrics
    return [{"regime": regime, "by": by, "slice": name} | row for (regime, by, name), row in rows.items()]


def _utc_date(second: int) -> str:
    """second: since 1970, UTC."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d}"


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("befriend.report", "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metric"] = lambda value: f"{value:.4f}"
    environment.filters["count"] = lambda value: f"{value:,}"
    environment.filters["percent"] = lambda value, digits=1: f"{value:.{digits}%}"
    return environment
