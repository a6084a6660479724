"""The charts of a run in Vega-Lite: for the page, which draws them in a light or dark theme, and as SVG files.

Colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish; whatever has a colour also has a
shape, a dash or a name. A theme assigns colours by index, so no chart names a colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import polars as pl
import vl_convert

from befriend import files
from befriend.analysis.evaluation_report import LISTS
from befriend.analysis.groups import ACTIVITY, JOINED
from befriend.data.split import SEGMENTS
from befriend.report.run_results import LEARNED, RunResults

VEGA_LITE = "6.4"
LIGHT = {
    "ink": "#1b1f24",
    "muted": "#57606a",
    "line": "#d8dee4",
    "page": "#ffffff",
    "colours": ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A7A7A"],
}
DARK = {
    "ink": "#e6e8eb",
    "muted": "#9aa4b0",
    "line": "#343b44",
    "page": "#14181d",
    "colours": ["#56B4E9", "#E69F00", "#2FC79B", "#E3A5C8", "#9A9A9A"],
}
PICTURE = 460  # width of an SVG file in pixels
TALL = 230  # height of a chart
BEST = 8  # models in a headline chart
POINTS = 2500  # users on a map
RULE, BEST_RULE = "rule", "best rule"
JOINED_LABELS = dict(zip(JOINED, ("known", "newcomer"), strict=True))
SHARES = ("users_covered", "share", "predicted", "observed", "low", "high", "searched", "recall", "relative_recall")
FORMATS = dict.fromkeys(("n", "events", "epoch", "step"), ",d") | dict.fromkeys(SHARES, ".2%")
FORMATS |= dict.fromkeys(("ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "mrr@100", "loss", "value"), ".4f")


@dataclass(frozen=True)
class Figure:
    """A chart of the page."""

    name: str
    """identifies the chart on the page, and names its SVG file"""
    title: str
    chart: alt.Chart | alt.LayerChart

    @cached_property
    def drawn(self) -> dict[str, Any]:
        """The Vega-Lite specification."""
        return self.chart.to_dict()

    @property
    def spec(self) -> dict[str, Any]:
        """The specification for the page: as wide as its container."""
        return {**self.drawn, "width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}

    def write(self, folder: Path) -> None:
        """Writes <name>.svg in the light theme. SVG, because pixels would differ with the fonts of the machine."""
        spec = {**self.drawn, "width": PICTURE, "title": self.title}
        picture = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, config=config(LIGHT, paper=True))
        files.write_text(folder / f"{self.name}.svg", picture)


def config(theme: dict[str, Any], paper: bool = False) -> dict[str, Any]:
    """The Vega-Lite configuration of a theme: LIGHT or DARK. paper: with a background."""
    text = {"labelColor": theme["muted"], "titleColor": theme["muted"], "labelFontSize": 11, "titleFontSize": 11}
    lines = {"gridColor": theme["line"], "domainColor": theme["line"], "tickColor": theme["line"]}
    first = theme["colours"][0]
    return {
        "background": theme["page"] if paper else None,
        "font": "system-ui, -apple-system, Segoe UI, Roboto, Liberation Sans, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, **lines, "titleFontWeight": "normal", "labelLimit": 220},
        "legend": {**text, "orient": "bottom", "title": None, "columns": 3, "labelLimit": 0},
        "title": {"color": theme["ink"], "anchor": "start", "fontSize": 13},
        "range": {"category": theme["colours"]},
        "rule": {"color": theme["ink"]},
        "bar": {"color": first},
        "line": {"color": first},
        "point": {"color": first, "filled": True},
    }


def figures(run: RunResults) -> list[Figure]:
    """All charts of the run, in the order of the page; charts without data are left out."""
    sections = (_headline, _slices, _exposure, _calibration, _training, _maps, _search, _data)
    return [figure for section in sections for figure in section(run)]


def _headline(run: RunResults) -> Iterator[Figure]:
    for kind in LISTS:
        for regime in run.regimes:
            table = run.headline.filter(list=kind, regime=regime)[:BEST]
            if not table.height:
                continue
            table = table.with_columns(who=_model_or_rule())
            tips = _tooltips("model", "ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "mrr@100", "n")
            order = table["model"].to_list()
            base = alt.Chart(table).encode(y=alt.Y("model:N", sort=order, title=None), tooltip=tips)
            bars = base.mark_bar(height=13).encode(x=_x("ndcg@10", "NDCG@10"), color=_colour((), RULE))
            whiskers = base.mark_rule().encode(x="ndcg@10_low:Q", x2="ndcg@10_high:Q")
            chart = (bars + whiskers).properties(height=24 * table.height)
            yield Figure(f"headline_{kind}_{regime}", f"List {kind}, {regime}", chart)


def compared(run: RunResults, kind: str, regime: str) -> pl.DataFrame:
    """Slices of the learned models and of the best rule of the cell. Column who: the model, or BEST_RULE."""
    rule = run.best_rule(kind, regime)
    names = dict(zip(LEARNED, LEARNED, strict=True)) | ({rule: BEST_RULE} if rule else {})
    rows = run.slices.filter(pl.col("model").is_in(list(names)), list=kind, regime=regime)
    return rows.with_columns(who=pl.col("model").replace_strict(names, return_dtype=pl.String))


def _slices(run: RunResults) -> Iterator[Figure]:
    joined = [f"{group} {side}" for side in ("actor", "target") for group in JOINED_LABELS.values()]
    cuts = (
        ("segments", "any", ["segment"], list(SEGMENTS[:3]), "by segment"),
        ("activity", "new", ["events of the actor"], list(ACTIVITY), "by events so far"),
        ("joined", "new", ["actor", "target"], joined, "by newcomers and known users"),
    )
    for name, kind, by, order, title in cuts:
        for regime in run.regimes:
            rows = compared(run, kind, regime).filter(pl.col("by").is_in(by))
            if len(by) > 1:
                rows = rows.with_columns(slice=pl.col("slice").replace(JOINED_LABELS) + " " + pl.col("by"))
            rows = rows.filter(pl.col("slice").is_in(order))
            if rows.height:
                yield Figure(f"{name}_{regime}", f"List {kind} {title}, {regime}", _dots(rows, "slice", order))


def _dots(rows: pl.DataFrame, by: str, order: list[str]) -> alt.LayerChart:
    """NDCG@10 of each model in each slice, side by side, with intervals. by: the column of the slice."""
    tips = _tooltips("who", "model", by, "ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "n")
    base = alt.Chart(rows).encode(
        x=alt.X(f"{by}:N", sort=order, title=None, axis=_wrapped_labels()),
        xOffset=alt.XOffset("who:N", sort=[*LEARNED, BEST_RULE]),
        tooltip=tips,
    )
    spans = base.mark_rule(opacity=0.5).encode(y=alt.Y("ndcg@10_low:Q", title="NDCG@10"), y2="ndcg@10_high:Q")
    dots = base.mark_point(size=55, opacity=1).encode(y="ndcg@10:Q", color=_colour(), shape=_shape())
    return (spans + dots).properties(height=TALL)


def _exposure(run: RunResults) -> Iterator[Figure]:
    for regime in run.regimes:
        quality = pl.DataFrame(
            [{"model": name, "ndcg@10": row["ndcg@10"]} for name, row in run.figures("new", regime).items()],
            {"model": pl.String, "ndcg@10": pl.Float64},
        )
        rows = run.exposure.filter(regime=regime).join(quality, on="model").with_columns(who=_model_or_rule())
        if not rows.height:
            continue
        chart = (
            alt.Chart(rows)
            .mark_point(size=70, opacity=0.9)
            .encode(
                x=_x("users_covered", "share of users shown to anyone", "%"),
                y=alt.Y("ndcg@10:Q", title="NDCG@10"),
                color=_colour((*LEARNED, RULE), RULE),
                shape=_shape((*LEARNED, RULE), RULE),
                tooltip=_tooltips("model", "ndcg@10", "users_covered", "exposure_gini"),
            )
            .properties(height=TALL)
        )
        yield Figure(f"coverage_{regime}", f"Quality against coverage, {regime}", chart)
        long = run.shown.filter(regime=regime, model="both").unpivot(
            ["candidates", "contacted", "shown"], index=["by", "group"], variable_name="share of", value_name="share"
        )
        long = long.with_columns(pl.col("group").replace(JOINED_LABELS))
        order = [*JOINED_LABELS.values(), *ACTIVITY]
        bars = (
            alt.Chart(long)
            .mark_bar()
            .encode(
                x=alt.X("group:N", sort=order, title="users shown, by when they joined and by events so far",
                        axis=_wrapped_labels()),
                xOffset=alt.XOffset("share of:N", sort=["candidates", "contacted", "shown"]),
                y=alt.Y("share:Q", axis=alt.Axis(format="%"), title=None),
                color=alt.Color("share of:N", sort=["candidates", "contacted", "shown"]),
                tooltip=_tooltips("group", "share of", "share"),
            )
            .properties(height=TALL)
        )  # fmt: skip
        yield Figure(f"shown_{regime}", f"Exposure on lists of both, {regime}", bars)


def _calibration(run: RunResults) -> Iterator[Figure]:
    for kind in LISTS:
        for regime in run.regimes:
            rows = run.reliability.filter(list=kind, regime=regime).with_columns(who=pl.col("model"))
            if not rows.height:
                continue
            models = rows["who"].unique(maintain_order=True).to_list()
            tips = _tooltips("who", "predicted", "observed", "low", "high", "n")
            base = alt.Chart(rows).encode(x=_sqrt_axis("predicted"), tooltip=tips)
            spans = base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q")
            lines = base.mark_line(opacity=0.6).encode(y=_sqrt_axis("observed"), color=_colour(models))
            dots = base.mark_point(size=45, opacity=1)
            dots = dots.encode(y=_sqrt_axis("observed"), color=_colour(models), shape=_shape(models))
            maximum = float(max(rows["predicted"].max(), rows["observed"].max()))  # type: ignore[type-var, arg-type]
            ideal = pl.DataFrame({"predicted": np.linspace(0, maximum, 2), "observed": np.linspace(0, maximum, 2)})
            diagonal = alt.Chart(ideal).mark_line(strokeDash=[4, 4], opacity=0.5, color="gray")
            diagonal = diagonal.encode(x="predicted:Q", y="observed:Q")
            chart = (diagonal + spans + lines + dots).properties(height=TALL)
            yield Figure(f"calibration_{kind}_{regime}", f"Probabilities of list {kind}, {regime}", chart)


def _sqrt_axis(field: str) -> Any:
    """A square-root axis of shares, so that small ones can be distinguished."""
    axis = alt.Axis(format="~%", tickCount=6)
    channel = alt.X if field == "predicted" else alt.Y
    return channel(f"{field}:Q", scale=alt.Scale(type="sqrt"), axis=axis, title=field)


def _training(run: RunResults) -> Iterator[Figure]:
    curves = {model: training for model, training in run.trainings.items() if model in LEARNED}
    losses = pl.concat(training.losses.with_columns(who=pl.lit(model)) for model, training in curves.items())
    chart = alt.Chart(losses).mark_line(point=True).encode(
        x=alt.X("step:Q"), y=alt.Y("loss:Q", scale=alt.Scale(zero=False)), color=_colour(curves), shape=_shape(curves),
        tooltip=_tooltips("who", "step", "loss"),
    )  # fmt: skip
    yield Figure("training_loss", "Loss in training", chart.properties(height=TALL))
    epochs = pl.concat(training.epochs.with_columns(who=pl.lit(model)) for model, training in curves.items())
    axis = alt.X("epoch:O", axis=alt.Axis(labelAngle=0))
    if epochs["epoch"].max() != 1:
        chart = alt.Chart(epochs.filter(figure="validation/ndcg@10")).mark_line(point=True).encode(
            x=axis, y=alt.Y("value:Q", title="NDCG@10", scale=alt.Scale(zero=False)),
            color=_colour(curves), shape=_shape(curves), tooltip=_tooltips("who", "epoch", "value"),
        )  # fmt: skip
        yield Figure("training_validation", "Validation, mean over lists and regimes", chart.properties(height=TALL))
    best = pl.concat(epochs.filter(who=model, epoch=training.best) for model, training in curves.items())
    cells = [(kind, regime, f"validation/{kind}_{regime}") for kind in LISTS for regime in run.regimes]
    names = {figure: f"{kind} {regime}" for kind, regime, figure in cells}
    best = best.filter(pl.col("figure").is_in(list(names))).with_columns(pl.col("figure").replace_strict(names))
    chart = alt.Chart(best).mark_point(size=60, opacity=1).encode(
        x=alt.X("figure:N", sort=list(names.values()), title=None, axis=_wrapped_labels()),
        y=alt.Y("value:Q", title="NDCG@10"), xOffset=alt.XOffset("who:N"), color=_colour(curves), shape=_shape(curves),
        tooltip=_tooltips("who", "figure", "value", "epoch"),
    )  # fmt: skip
    yield Figure("validation", "Validation, best epoch", chart.properties(height=TALL))
    recall = run.trainings["clusters"].epochs.filter(figure="validation/recall_at_share")
    chart = alt.Chart(recall).mark_line(point=True).encode(
        x=axis, y=alt.Y("value:Q", title="targets in the best clusters", axis=alt.Axis(format="%"),
                        scale=alt.Scale(zero=False)),
        tooltip=_tooltips("epoch", "value"),
    )  # fmt: skip
    yield Figure("training_clusters", "Clusters: recall of first contacts, validation", chart.properties(height=TALL))


def _maps(run: RunResults) -> Iterator[Figure]:
    for name, table, group in (
        ("tokens_map", run.token_map, "token"),
        ("clusters_map", run.cluster_map, "cluster"),
    ):
        rows = table[:: max(1, -(-table.height // POINTS))]
        rows = rows.with_columns(user=run.user_ids.gather(rows["user"]).cast(pl.String))
        count = int(table[group].max()) + 1  # type: ignore[arg-type]
        # Consecutive numbers get hues far apart, the same in every run.
        hues = [f"hsl({k * 137.508 % 360:.0f}, 62%, {(42, 56, 50)[k % 3]}%)" for k in range(count)]
        blank = alt.Axis(labels=False, ticks=False, grid=False, domain=False, title=None)
        chart = alt.Chart(rows).mark_point(size=9, opacity=0.65).encode(
            x=alt.X("x:Q", axis=blank, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=blank, scale=alt.Scale(zero=False)),
            color=alt.Color(f"{group}:N", scale=alt.Scale(domain=list(range(count)), range=hues), legend=None),
            tooltip=_tooltips("user", group),
        )  # fmt: skip
        label = "the first token of their STUs" if group == "token" else "cluster"
        yield Figure(name, f"{rows.height:,} users by {label}", chart.properties(height=2 * TALL))


def _search(run: RunResults) -> Iterator[Figure]:
    how = pl.when("with_recent").then(pl.lit("clusters and the most recently active users"))
    rows = run.search.with_columns(how=how.otherwise(pl.lit("clusters alone")))
    if rows.height:
        chart = alt.Chart(rows).mark_line(point={"size": 50}).encode(
            x=alt.X("searched:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format="~%", labelOverlap="greedy"),
                    title="share of the users searched"),
            y=alt.Y("relative_recall:Q", axis=alt.Axis(format="%"), title="share of the full Recall@10"),
            color=alt.Color("how:N"), strokeDash=alt.StrokeDash("how:N"),
            tooltip=_tooltips("how", "searched", "recall", "relative_recall"),
        )  # fmt: skip
        yield Figure("search_space", "Recall by size of the search space", chart.properties(height=TALL))


def _data(run: RunResults) -> Iterator[Figure]:
    months = alt.Chart(run.months).mark_bar().encode(
        x=alt.X("month:O", title=None, axis=alt.Axis(labelAngle=-45, labelOverlap=True)), y=alt.Y("events:Q"),
        tooltip=_tooltips("month", "events"),
    )  # fmt: skip
    yield Figure("events_by_month", "Events by month", months.properties(height=TALL))
    actions = pl.DataFrame(
        {"action": list(run.validation["actions"]), "events": list(run.validation["actions"].values())}
    )
    bars = alt.Chart(actions.sort("events", descending=True)).mark_bar(height=16).encode(
        x=alt.X("events:Q"), y=alt.Y("action:N", sort=None, title=None), tooltip=_tooltips("action", "events")
    )  # fmt: skip
    yield Figure("actions", "Events by action", bars.properties(height=28 * actions.height))


def _x(field: str, title: str, number_format: str = "~g") -> alt.X:
    return alt.X(f"{field}:Q", title=title, axis=alt.Axis(format=number_format))


def _model_or_rule() -> pl.Expr:
    """The model if it is a learned one, else RULE: what the colour stands for."""
    return pl.when(pl.col("model").is_in(LEARNED)).then("model").otherwise(pl.lit(RULE))


def _colour(present: Iterable[str] = (*LEARNED, BEST_RULE), rules: str = BEST_RULE) -> alt.Color:
    """The colour of column who: each model has the same colour in all charts. present: models in the legend."""
    legend = alt.Legend(values=list(present)) if present else None
    return alt.Color("who:N", scale=alt.Scale(domain=[*LEARNED, rules]), legend=legend)


def _shape(present: Iterable[str] = (*LEARNED, BEST_RULE), rules: str = BEST_RULE) -> alt.Shape:
    """The shape of column who, as `_colour`."""
    shapes = ["circle", "square", "triangle-up", "diamond", "cross"]
    scale = alt.Scale(domain=[*LEARNED, rules], range=shapes)
    return alt.Shape("who:N", scale=scale, legend=alt.Legend(values=list(present)))


def _wrapped_labels() -> alt.Axis:
    """An axis whose labels have one word per line."""
    return alt.Axis(labelAngle=0, labelExpr="split(datum.label, ' ')", domain=False, ticks=False)


def _tooltips(*fields: str) -> list[alt.Tooltip]:
    """Tooltips of a mark: numbers in their formats, other fields as they are."""
    number_tips = {name: alt.Tooltip(f"{name}:Q", format=number_format) for name, number_format in FORMATS.items()}
    return [number_tips.get(name, alt.Tooltip(f"{name}:N")) for name in fields]
