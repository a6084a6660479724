"""Renders the page of a run, a single HTML file that needs no network, and its model card in Markdown."""

from __future__ import annotations

from typing import Any

import jinja2
import vl_convert

from befriend.analysis.metric_tables import LEARNED, LISTS
from befriend.plots import DARK, LIGHT
from befriend.report.charts import BEST_RULE, VEGA_LITE, PageChart, slices_with_best_rule, vega_config
from befriend.report.example_lists import ExampleUser
from befriend.report.list_hits import RegimeHits
from befriend.report.overview import Overview
from befriend.report.plain_words import utc_date
from befriend.report.run_results import RunResults

METRICS = {"ndcg@10": "NDCG@10", "hit@10": "Hit@10", "mrr@100": "MRR@100"}
SECTIONS = (
    ("lists", "Lists", "all models and rules, newcomers, served lists"),
    ("slices", "Slices", "by kind of contact, by activity, newcomers and known users"),
    ("exposure", "Exposure", "which users are shown, and how many"),
    ("calibration-section", "Calibration", "predicted probabilities against observed shares"),
    ("training", "Training", "loss and validation, epoch by epoch"),
    ("stus", "STUs", "map of the users, use of the codes, decoding"),
    ("clusters", "Clusters", "map of the users, size of the search space"),
    ("latency-section", "Latency", "time to make a list"),
    ("data", "Data", "the log, rejected rows, all checks"),
    ("settings", "Settings", "settings of the run, versions of log and models"),
    ("terms", "Terms", "what the words of this page mean"),
)
"""id, name and content of the sections behind the opening, in the order of the page"""


def chart_library() -> str:
    """The JavaScript that draws charts: Vega-Lite, and what makes it known to page.js. Takes a second or two."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return script.replace("</script", "<\\/script")


def render_page(
    run: RunResults,
    overview: Overview,
    hits: list[RegimeHits],
    charts: list[PageChart],
    examples: list[ExampleUser],
    library: str,
) -> str:
    """The HTML of the page, with data, script and style inline. Equal runs give equal bytes.

    hits: of all regimes that have lists; library: from `chart_library`.
    """
    return (
        _templates()
        .get_template("page.html")
        .render(
            **page_context(run, overview, hits),
            sections=[dict(zip(("id", "name", "content"), section, strict=True)) for section in SECTIONS],
            full_search=_full_search(run),
            chart_by_name={chart.name: chart for chart in charts},
            specs={chart.name: chart.page_spec for chart in charts},
            themes={"light": vega_config(LIGHT), "dark": vega_config(DARK)},
            palettes={"light": LIGHT, "dark": DARK},
            examples=examples,
            library=library,
        )
    )


def render_model_card(run: RunResults, overview: Overview, hits: list[RegimeHits]) -> str:
    """The model card in Markdown, after Mitchell et al., Model Cards for Model Reporting (2019)."""
    return _templates().get_template("model_card.md").render(**page_context(run, overview, hits))


def page_context(run: RunResults, overview: Overview, hits: list[RegimeHits]) -> dict[str, Any]:
    """The variables that the templates of page and model card share."""
    return {
        "run": run,
        "overview": overview,
        "hits": hits,
        "num_rules": len(set(run.headline["model"]) - set(LEARNED)),
        "regimes": run.regimes,
        "lists": {kind: title for kind, (_, title) in LISTS.items()},
        "learned": LEARNED,
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
        "first_day": utc_date(run.validation["time"]["first"]),
        "last_day": utc_date(run.validation["time"]["last"]),
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
    return {
        "list": kind, "regime": regime, "model": best, "metrics": models[best], "rule": rule,
        "rule_metrics": rule_metrics, "models": models,
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


def _full_search(run: RunResults) -> dict[str, int] | None:
    """n, the queries of the search curve, and hits, those whose target the full search finds; None without a curve."""
    row = next(run.search_curve.filter(share=1.0).iter_rows(named=True), None)
    return row and {"n": row["n"], "hits": round(row["recall"] * row["n"])}


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
