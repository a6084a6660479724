"""The charts of a run in Vega-Lite: for the page, which draws them in a light or dark theme, and as SVG files.

No chart names a colour. The theme assigns colours by index, from the palette of `befriend.plots`. Whatever has a colour
also has a shape, a dash or a name, for readers who cannot distinguish colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import vl_convert

from befriend.analysis.groups import ACTIVITY_GROUPS, TRAINING_GROUPS
from befriend.analysis.metric_tables import LEARNED, LISTS
from befriend.data.split import SEGMENTS
from befriend.plots import LIGHT, Palette, group_colours
from befriend.report.run_results import RunResults

VEGA_LITE = "6.4"
SVG_WIDTH = 460  # pixels
HEIGHT = 230  # of a chart, in pixels
HEADLINE_MODELS = 8  # maximum number of models in a headline chart
MAX_MAP_USERS = 2500  # maximum number of users on a map
RULE, BEST_RULE = "rule", "best rule"
"""labels of baseline rules: of all of them, and of the best of a list and regime"""
GROUP_LABELS = dict(zip(TRAINING_GROUPS, ("known", "newcomer"), strict=True))
LINE_BREAK = "|"  # in labels of axes
SHARES = ("users_covered", "share", "predicted", "observed", "low", "high", "searched", "recall", "relative_recall")
FORMATS = dict.fromkeys(("n", "hits", "events", "epoch", "step"), ",d") | dict.fromkeys(SHARES, ".2%")
FORMATS |= dict.fromkeys(("ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "mrr@100", "loss", "value"), ".4f")


@dataclass(frozen=True)
class PageChart:
    """A chart of the page."""

    name: str
    """identifies the chart on the page, and names its SVG file"""
    title: str
    chart: alt.Chart | alt.LayerChart

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The Vega-Lite specification. Not validated, which takes as long again; tests validate all charts."""
        return self.chart.to_dict(validate=False)

    @property
    def page_spec(self) -> dict[str, Any]:
        """The Vega-Lite specification for the page: as wide as its container."""
        return {**self.spec, "width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}

    def svg(self) -> str:
        """The chart in the light theme. Not pixels, as these would depend on the fonts of the machine."""
        spec = {**self.spec, "width": SVG_WIDTH, "title": self.title}
        return vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, config=vega_config(LIGHT, has_background=True))


def vega_config(palette: Palette, has_background: bool = False) -> dict[str, Any]:
    """The Vega-Lite configuration with the colours of a palette. has_background: False for a transparent one."""
    text = {"labelColor": palette.muted, "titleColor": palette.muted, "labelFontSize": 11, "titleFontSize": 11}
    lines = {"gridColor": palette.line, "domainColor": palette.line, "tickColor": palette.line}
    first = palette.series[0]
    return {
        "background": palette.background if has_background else None,
        "padding": {"left": 5, "top": 5, "right": 15, "bottom": 5},  # right: half of the last label of an axis
        "font": "system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, **lines, "titleFontWeight": "normal", "labelLimit": 220, "labelSeparation": 8},
        "axisQuantitative": {"labelFlush": False, "labelOverlap": "greedy", "tickCount": 6},
        "legend": {**text, "orient": "bottom", "title": None, "columns": 3, "labelLimit": 0},
        "title": {"color": palette.ink, "anchor": "start", "fontSize": 13},
        "range": {"category": [*palette.series[: len(LEARNED)], palette.neutral]},
        "rule": {"color": palette.ink},
        "bar": {"color": first},
        "line": {"color": first},
        "point": {"color": first, "filled": True},
    }


def make_charts(run: RunResults) -> list[PageChart]:
    """All charts of a run, in the order of the page. A chart without data is left out."""
    sections = (
        _headline_charts, _slice_charts, _exposure_charts, _calibration_charts, _training_charts, _map_charts,
        _search_charts, _log_charts,
    )  # fmt: skip
    return [chart for section in sections for chart in section(run)]


def _headline_charts(run: RunResults) -> Iterator[PageChart]:
    for kind in LISTS:
        for regime in run.regimes:
            table = run.headline.filter(list=kind, regime=regime)[:HEADLINE_MODELS]
            if not table.height:
                continue
            table = table.with_columns(series=_model_or_rule())
            tips = _tooltips("model", "ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "mrr@100", "n")
            order = table["model"].to_list()
            base = alt.Chart(table).encode(y=alt.Y("model:N", sort=order, title=None), tooltip=tips)
            bars = base.mark_bar(height=13).encode(x=_quantitative_x("ndcg@10", "NDCG@10"), color=_colour((), RULE))
            whiskers = base.mark_rule().encode(x="ndcg@10_low:Q", x2="ndcg@10_high:Q")
            chart = (bars + whiskers).properties(height=24 * table.height)
            yield PageChart(f"headline_{kind}_{regime}", f"List {kind}, {regime}", chart)


def slices_with_best_rule(run: RunResults, kind: str, regime: str) -> pl.DataFrame:
    """Slices of the learned models and of the best rule of a list and regime. Column series: the model, or BEST_RULE.

    kind: of the lists, any or new.
    """
    rule = run.best_rule(kind, regime)
    names = dict(zip(LEARNED, LEARNED, strict=True)) | ({rule: BEST_RULE} if rule else {})
    rows = run.slices.filter(pl.col("model").is_in(list(names)), list=kind, regime=regime)
    return rows.with_columns(series=pl.col("model").replace_strict(names, return_dtype=pl.String))


def _slice_charts(run: RunResults) -> Iterator[PageChart]:
    user_groups = [f"{group} {side}" for side in ("actor", "target") for group in GROUP_LABELS.values()]
    sections = (
        ("segments", "any", ["segment"], list(SEGMENTS[:3]), "by segment"),
        ("activity", "new", ["events of the actor"], list(ACTIVITY_GROUPS), "by events so far"),
        ("joined", "new", ["actor", "target"], user_groups, "by newcomers and known users"),
    )
    for name, kind, by, order, title in sections:
        for regime in run.regimes:
            rows = slices_with_best_rule(run, kind, regime).filter(pl.col("by").is_in(by))
            if len(by) > 1:
                rows = rows.with_columns(slice=pl.col("slice").replace(GROUP_LABELS) + " " + pl.col("by"))
            rows = rows.filter(pl.col("slice").is_in(order))
            if rows.height:
                yield PageChart(f"{name}_{regime}", f"List {kind} {title}, {regime}", _dot_chart(rows, order))


def _dot_chart(rows: pl.DataFrame, slices: list[str]) -> alt.LayerChart:
    """NDCG@10 of each model in each slice, side by side, with intervals, and the number of events below each slice.

    slices: in the order of the axis.
    """
    tips = _tooltips("series", "model", "slice", "ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "n")
    num_events = dict(rows.select("slice", "n").iter_rows())
    labels = {name: f"{name.replace(' ', LINE_BREAK)}{LINE_BREAK}n = {n:,}" for name, n in num_events.items()}
    order = [labels[name] for name in slices if name in labels]
    base = alt.Chart(rows.with_columns(label=pl.col("slice").replace_strict(labels))).encode(
        x=alt.X("label:N", sort=order, title=None, axis=_wrapped_labels()),
        xOffset=alt.XOffset("series:N", sort=[*LEARNED, BEST_RULE]),
        tooltip=tips,
    )
    spans = base.mark_rule(opacity=0.5).encode(y=alt.Y("ndcg@10_low:Q", title="NDCG@10"), y2="ndcg@10_high:Q")
    dots = base.mark_point(size=55, opacity=1).encode(y="ndcg@10:Q", color=_colour(), shape=_shape())
    return (spans + dots).properties(height=HEIGHT)


def _exposure_charts(run: RunResults) -> Iterator[PageChart]:
    for regime in run.regimes:
        quality = pl.DataFrame(
            [{"model": name, "ndcg@10": row["ndcg@10"]} for name, row in run.metrics_by_model("new", regime).items()],
            {"model": pl.String, "ndcg@10": pl.Float64},
        )
        rows = run.exposure.filter(regime=regime).join(quality, on="model").with_columns(series=_model_or_rule())
        if not rows.height:
            continue
        chart = (
            alt.Chart(rows)
            .mark_point(size=70, opacity=0.9)
            .encode(
                x=_quantitative_x("users_covered", "share of users on any list", "%"),
                y=alt.Y("ndcg@10:Q", title="NDCG@10"),
                color=_colour((*LEARNED, RULE), RULE),
                shape=_shape((*LEARNED, RULE), RULE),
                tooltip=_tooltips("model", "ndcg@10", "users_covered", "exposure_gini"),
            )
            .properties(height=HEIGHT)
        )
        yield PageChart(f"coverage_{regime}", f"Quality against coverage, {regime}", chart)
        yield PageChart(f"shown_{regime}", f"Exposure on lists of both, {regime}", _exposure_bars(run, regime))


def _exposure_bars(run: RunResults, regime: str) -> alt.Chart:
    """For each group of users, its share of the candidates, of the users contacted, and of those shown by `both`."""
    measures = ["candidates", "contacted", "shown"]
    shares = run.exposure_by_group.filter(regime=regime, model="both").unpivot(
        measures, index=["by", "group"], variable_name="share of", value_name="share"
    )
    activity_labels = {group: f"{group} events" for group in ACTIVITY_GROUPS}
    shares = shares.with_columns(pl.col("group").replace(GROUP_LABELS | activity_labels))
    return (
        alt.Chart(shares)
        .mark_bar()
        .encode(
            y=alt.Y("group:N", sort=[*GROUP_LABELS.values(), *activity_labels.values()], title=None),
            yOffset=alt.YOffset("share of:N", sort=measures),
            x=_quantitative_x("share", "share of all", "%"),
            color=alt.Color("share of:N", sort=measures),
            tooltip=_tooltips("group", "share of", "share"),
        )
        .properties(height=HEIGHT)
    )


def _calibration_charts(run: RunResults) -> Iterator[PageChart]:
    for kind in LISTS:
        for regime in run.regimes:
            rows = run.reliability.filter(list=kind, regime=regime).with_columns(series=pl.col("model"))
            if not rows.height:
                continue
            models = rows["series"].unique(maintain_order=True).to_list()
            tips = _tooltips("series", "predicted", "observed", "low", "high", "n")
            base = alt.Chart(rows).encode(x=_sqrt_axis("predicted"), tooltip=tips)
            spans = base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q")
            lines = base.mark_line(opacity=0.6).encode(y=_sqrt_axis("observed"), color=_colour(models))
            dots = base.mark_point(size=45, opacity=1)
            dots = dots.encode(y=_sqrt_axis("observed"), color=_colour(models), shape=_shape(models))
            maximum = float(max(rows["predicted"].max(), rows["observed"].max()))  # type: ignore[type-var, arg-type]
            ends = pl.DataFrame({"predicted": np.linspace(0, maximum, 2), "observed": np.linspace(0, maximum, 2)})
            diagonal = alt.Chart(ends).mark_line(strokeDash=[4, 4], opacity=0.5, color="gray")
            diagonal = diagonal.encode(x="predicted:Q", y="observed:Q")
            chart = (diagonal + spans + lines + dots).properties(height=HEIGHT)
            yield PageChart(f"calibration_{kind}_{regime}", f"Probabilities of list {kind}, {regime}", chart)


def _sqrt_axis(field: str) -> Any:
    """A square-root axis of shares, on which small ones can be distinguished. field: predicted (x) or observed (y)."""
    axis = alt.Axis(format="~%", tickCount=6)
    channel = alt.X if field == "predicted" else alt.Y
    return channel(f"{field}:Q", scale=alt.Scale(type="sqrt"), axis=axis, title=field)


def _training_charts(run: RunResults) -> Iterator[PageChart]:
    curves = {model: training for model, training in run.trainings.items() if model in LEARNED}
    losses = pl.concat(training.losses.with_columns(series=pl.lit(model)) for model, training in curves.items())
    chart = alt.Chart(losses).mark_line(point=True).encode(
        x=alt.X("step:Q"), y=alt.Y("loss:Q", scale=alt.Scale(zero=False)), color=_colour(curves), shape=_shape(curves),
        tooltip=_tooltips("series", "step", "loss"),
    )  # fmt: skip
    yield PageChart("training_loss", "Loss in training", chart.properties(height=HEIGHT))
    epochs = pl.concat(training.epochs.with_columns(series=pl.lit(model)) for model, training in curves.items())
    epoch_axis = alt.X("epoch:O", axis=alt.Axis(labelAngle=0))
    if epochs["epoch"].max() != 1:
        chart = alt.Chart(epochs.filter(metric="validation/ndcg@10")).mark_line(point=True).encode(
            x=epoch_axis, y=alt.Y("value:Q", title="NDCG@10", scale=alt.Scale(zero=False)),
            color=_colour(curves), shape=_shape(curves), tooltip=_tooltips("series", "epoch", "value"),
        )  # fmt: skip
        yield PageChart(
            "training_validation", "Validation, mean over lists and regimes", chart.properties(height=HEIGHT)
        )
    best = pl.concat(epochs.filter(series=model, epoch=training.best_epoch) for model, training in curves.items())
    labels = {f"validation/{kind}_{regime}": f"{kind}, {regime}" for kind in LISTS for regime in run.regimes}
    best = best.filter(pl.col("metric").is_in(list(labels))).with_columns(pl.col("metric").replace_strict(labels))
    chart = alt.Chart(best).mark_point(size=60, opacity=1).encode(
        y=alt.Y("metric:N", sort=list(labels.values()), title=None), x=_quantitative_x("value", "NDCG@10"),
        yOffset=alt.YOffset("series:N"),
        color=_colour(curves), shape=_shape(curves), tooltip=_tooltips("series", "metric", "value", "epoch"),
    )  # fmt: skip
    yield PageChart("validation", "Validation, best epoch", chart.properties(height=HEIGHT))
    recall = run.trainings["clusters"].epochs.filter(metric="validation/recall_at_share")
    chart = alt.Chart(recall).mark_line(point=True).encode(
        x=epoch_axis, y=alt.Y("value:Q", title="targets in the best clusters", axis=alt.Axis(format="%"),
                        scale=alt.Scale(zero=False)),
        tooltip=_tooltips("epoch", "value"),
    )  # fmt: skip
    yield PageChart(
        "training_clusters", "Clusters: recall of first contacts, validation", chart.properties(height=HEIGHT)
    )


def _map_charts(run: RunResults) -> Iterator[PageChart]:
    for name, table, group in (
        ("tokens_map", run.token_map, "token"),
        ("clusters_map", run.cluster_map, "cluster"),
    ):
        rows = table[:: max(1, -(-table.height // MAX_MAP_USERS))]
        rows = rows.with_columns(user=run.user_ids.gather(rows["user"]).cast(pl.String))
        num_groups = int(table[group].max()) + 1  # type: ignore[arg-type]
        scale = alt.Scale(domain=list(range(num_groups)), range=group_colours(num_groups))
        blank = alt.Axis(labels=False, ticks=False, grid=False, domain=False, title=None)
        chart = alt.Chart(rows).mark_point(size=9, opacity=0.65).encode(
            x=alt.X("x:Q", axis=blank, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=blank, scale=alt.Scale(zero=False)),
            color=alt.Color(f"{group}:N", scale=scale, legend=None),
            tooltip=_tooltips("user", group),
        )  # fmt: skip
        label = "the first token of their STUs" if group == "token" else "cluster"
        yield PageChart(name, f"{rows.height:,} users by {label}", chart.properties(height=2 * HEIGHT))


def _search_charts(run: RunResults) -> Iterator[PageChart]:
    with_recent = pl.when("with_recent").then(pl.lit("and the recently active users"))
    rows = run.search_curve.with_columns(
        searched_users=with_recent.otherwise(pl.lit("clusters alone")), hits=(pl.col("recall") * pl.col("n")).round()
    )
    if rows.height:
        chart = alt.Chart(rows).mark_line(point={"size": 50}).encode(
            x=alt.X("searched:Q", scale=alt.Scale(type="log"), title="share of the users searched",
                    axis=alt.Axis(format="~%", values=[0.005, 0.02, 0.1, 0.5, 1])),
            y=alt.Y("relative_recall:Q", axis=alt.Axis(format="%"), title="share of the full Recall@10"),
            color=alt.Color("searched_users:N"), strokeDash=alt.StrokeDash("searched_users:N"),
            tooltip=_tooltips("searched_users", "searched", "recall", "relative_recall", "hits", "n"),
        )  # fmt: skip
        title = f"Recall by size of the search space, {rows['n'][0]:,} first contacts"
        yield PageChart("search_space", title, chart.properties(height=HEIGHT))


def _log_charts(run: RunResults) -> Iterator[PageChart]:
    months = alt.Chart(run.months).mark_bar().encode(
        x=alt.X("month:O", title=None, axis=alt.Axis(labelAngle=-45, labelOverlap=True)), y=alt.Y("events:Q"),
        tooltip=_tooltips("month", "events"),
    )  # fmt: skip
    yield PageChart("events_by_month", "Events by month", months.properties(height=HEIGHT))
    actions = pl.DataFrame(
        {"action": list(run.validation["actions"]), "events": list(run.validation["actions"].values())}
    )
    bars = alt.Chart(actions.sort("events", descending=True)).mark_bar(height=16).encode(
        x=alt.X("events:Q"), y=alt.Y("action:N", sort=None, title=None), tooltip=_tooltips("action", "events")
    )  # fmt: skip
    yield PageChart("actions", "Events by action", bars.properties(height=28 * actions.height))


def _quantitative_x(field: str, title: str, number_format: str = "~f") -> alt.X:
    return alt.X(f"{field}:Q", title=title, axis=alt.Axis(format=number_format))


def _model_or_rule() -> pl.Expr:
    """The model if it is a learned one, else RULE."""
    return pl.when(pl.col("model").is_in(LEARNED)).then("model").otherwise(pl.lit(RULE))


def _colour(legend: Iterable[str] = (*LEARNED, BEST_RULE), rule_label: str = BEST_RULE) -> alt.Color:
    """The colour by column `series`: each model has the same colour in all charts.

    legend: entries of the legend, in order; empty for no legend. rule_label: the entry of the baseline rules.
    """
    entries = alt.Legend(values=list(legend)) if legend else None
    return alt.Color("series:N", scale=alt.Scale(domain=[*LEARNED, rule_label]), legend=entries)


def _shape(legend: Iterable[str] = (*LEARNED, BEST_RULE), rule_label: str = BEST_RULE) -> alt.Shape:
    """The shape by column `series`; parameters as of `_colour`."""
    shapes = ["circle", "square", "triangle-up", "diamond", "cross"]
    scale = alt.Scale(domain=[*LEARNED, rule_label], range=shapes)
    return alt.Shape("series:N", scale=scale, legend=alt.Legend(values=list(legend)))


def _wrapped_labels() -> alt.Axis:
    """An axis whose labels have lines, separated by LINE_BREAK."""
    return alt.Axis(labelAngle=0, labelExpr=f"split(datum.label, '{LINE_BREAK}')", domain=False, ticks=False)


def _tooltips(*fields: str) -> list[alt.Tooltip]:
    """Tooltips of a mark: fields in FORMATS as numbers in their format, all others as text."""
    number_tips = {name: alt.Tooltip(f"{name}:Q", format=number_format) for name, number_format in FORMATS.items()}
    return [number_tips.get(name, alt.Tooltip(f"{name}:N")) for name in fields]
