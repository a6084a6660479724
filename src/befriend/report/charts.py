"""The charts of a run, as Vega-Lite: for the page, which draws them in either theme, and as pictures.

Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart; whatever has a colour has a shape, a
dash or a name as well. Themes replace them by their places, so no chart names a colour.
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
from befriend.data.split import SEGMENTS
from befriend.evaluation.groups import ACTIVITY, JOINED
from befriend.evaluation.report import LISTS
from befriend.report.run import LEARNED, Run

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
PICTURE = 460  # pixels wide
TALL = 230
BEST = 8  # models in a chart of the headline
POINTS = 2500  # users on a map
RULE, BEST_RULE = "rule", "best rule"
KNOWN = dict(zip(JOINED, ("known", "newcomer"), strict=True))
SHARES = ("users_covered", "share", "predicted", "observed", "low", "high", "looked", "recall", "kept")
FORMATS = dict.fromkeys(("n", "events", "epoch", "step"), ",d") | dict.fromkeys(SHARES, ".2%")
FORMATS |= dict.fromkeys(("ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "mrr@100", "loss", "value"), ".4f")


@dataclass(frozen=True)
class Figure:
    name: str
    """of its picture, and its place on the page"""
    title: str
    chart: alt.Chart | alt.LayerChart

    @cached_property
    def drawn(self) -> dict[str, Any]:
        """The chart in Vega-Lite."""
        return self.chart.to_dict()

    @property
    def spec(self) -> dict[str, Any]:
        """For the page: as wide as the place where it stands."""
        return {**self.drawn, "width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}

    def write(self, folder: Path) -> None:
        """A picture for light paper, <name>.svg: pixels would differ with the fonts that a machine has."""
        spec = {**self.drawn, "width": PICTURE, "title": self.title}
        picture = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, config=config(LIGHT, paper=True))
        files.write_text(folder / f"{self.name}.svg", picture)


def config(theme: dict[str, Any], paper: bool = False) -> dict[str, Any]:
    """How charts look in a theme. paper: with a background of their own."""
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


def figures(run: Run) -> list[Figure]:
    """All that the run has to show, in the order of the page; what there is no data for is left out."""
    sections = (_headline, _slices, _shown, _calibration, _training, _maps, _search, _data)
    return [figure for section in sections for figure in section(run)]


def _headline(run: Run) -> Iterator[Figure]:
    for kind in LISTS:
        for regime in run.regimes:
            table = run.headline.filter(list=kind, regime=regime)[:BEST]
            if not table.height:
                continue
            table = table.with_columns(who=_named())
            tips = _tips("model", "ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "mrr@100", "n")
            order = table["model"].to_list()
            base = alt.Chart(table).encode(y=alt.Y("model:N", sort=order, title=None), tooltip=tips)
            bars = base.mark_bar(height=13).encode(x=_x("ndcg@10", "NDCG@10"), color=_who((), RULE))
            whiskers = base.mark_rule().encode(x="ndcg@10_low:Q", x2="ndcg@10_high:Q")
            chart = (bars + whiskers).properties(height=24 * table.height)
            yield Figure(f"headline_{kind}_{regime}", f"List {kind}, {regime}", chart)


def compared(run: Run, kind: str, regime: str) -> pl.DataFrame:
    """The slices of the learned models and of the best rule of the cell, with their names in the column who."""
    rule = run.best_rule(kind, regime)
    names = dict(zip(LEARNED, LEARNED, strict=True)) | ({rule: BEST_RULE} if rule else {})
    rows = run.slices.filter(pl.col("model").is_in(list(names)), list=kind, regime=regime)
    return rows.with_columns(who=pl.col("model").replace_strict(names, return_dtype=pl.String))


def _slices(run: Run) -> Iterator[Figure]:
    sides = [f"{how} {who}" for who in ("actor", "target") for how in KNOWN.values()]
    cuts = (
        ("segments", "any", ["segment"], list(SEGMENTS[:3]), "by segment"),
        ("activity", "new", ["events of the actor"], list(ACTIVITY), "by events so far"),
        ("joined", "new", ["actor", "target"], sides, "by who is new"),
    )
    for name, kind, by, order, title in cuts:
        for regime in run.regimes:
            rows = compared(run, kind, regime).filter(pl.col("by").is_in(by))
            if len(by) > 1:
                rows = rows.with_columns(slice=pl.col("slice").replace(KNOWN) + " " + pl.col("by"))
            rows = rows.filter(pl.col("slice").is_in(order))
            if rows.height:
                yield Figure(f"{name}_{regime}", f"List {kind} {title}, {regime}", _dots(rows, "slice", order))


def _dots(rows: pl.DataFrame, by: str, order: list[str]) -> alt.LayerChart:
    """NDCG@10 of each model in each slice, side by side, with intervals."""
    tips = _tips("who", "model", by, "ndcg@10", "ndcg@10_low", "ndcg@10_high", "hit@10", "n")
    base = alt.Chart(rows).encode(
        x=alt.X(f"{by}:N", sort=order, title=None, axis=_words()),
        xOffset=alt.XOffset("who:N", sort=[*LEARNED, BEST_RULE]),
        tooltip=tips,
    )
    spans = base.mark_rule(opacity=0.5).encode(y=alt.Y("ndcg@10_low:Q", title="NDCG@10"), y2="ndcg@10_high:Q")
    dots = base.mark_point(size=55, opacity=1).encode(y="ndcg@10:Q", color=_who(), shape=_shape())
    return (spans + dots).properties(height=TALL)


def _shown(run: Run) -> Iterator[Figure]:
    for regime in run.regimes:
        quality = pl.DataFrame(
            [{"model": name, "ndcg@10": found["ndcg@10"]} for name, found in run.figures("new", regime).items()],
            {"model": pl.String, "ndcg@10": pl.Float64},
        )
        rows = run.exposure.filter(regime=regime).join(quality, on="model").with_columns(who=_named())
        if not rows.height:
            continue
        chart = (
            alt.Chart(rows)
            .mark_point(size=70, opacity=0.9)
            .encode(
                x=_x("users_covered", "share of people shown to somebody", "%"),
                y=alt.Y("ndcg@10:Q", title="NDCG@10"),
                color=_who((*LEARNED, RULE), RULE),
                shape=_shape((*LEARNED, RULE), RULE),
                tooltip=_tips("model", "ndcg@10", "users_covered", "exposure_gini"),
            )
            .properties(height=TALL)
        )
        yield Figure(f"coverage_{regime}", f"Quality beside coverage, {regime}", chart)
        long = run.shown.filter(regime=regime, model="both").unpivot(
            ["candidates", "contacted", "shown"], index=["by", "group"], variable_name="share of", value_name="share"
        )
        long = long.with_columns(pl.col("group").replace(KNOWN))
        order = [*KNOWN.values(), *ACTIVITY]
        bars = (
            alt.Chart(long)
            .mark_bar()
            .encode(
                x=alt.X("group:N", sort=order, title="who is shown, by when they joined and by events so far",
                        axis=_words()),
                xOffset=alt.XOffset("share of:N", sort=["candidates", "contacted", "shown"]),
                y=alt.Y("share:Q", axis=alt.Axis(format="%"), title=None),
                color=alt.Color("share of:N", sort=["candidates", "contacted", "shown"]),
                tooltip=_tips("group", "share of", "share"),
            )
            .properties(height=TALL)
        )  # fmt: skip
        yield Figure(f"shown_{regime}", f"Places on lists of both, {regime}", bars)


def _calibration(run: Run) -> Iterator[Figure]:
    for kind in LISTS:
        for regime in run.regimes:
            rows = run.reliability.filter(list=kind, regime=regime).with_columns(who=pl.col("model"))
            if not rows.height:
                continue
            models = rows["who"].unique(maintain_order=True).to_list()
            tips = _tips("who", "predicted", "observed", "low", "high", "n")
            base = alt.Chart(rows).encode(x=_root("predicted"), tooltip=tips)
            spans = base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q")
            lines = base.mark_line(opacity=0.6).encode(y=_root("observed"), color=_who(models))
            dots = base.mark_point(size=45, opacity=1)
            dots = dots.encode(y=_root("observed"), color=_who(models), shape=_shape(models))
            most = float(max(rows["predicted"].max(), rows["observed"].max()))  # type: ignore[type-var, arg-type]
            ideal = pl.DataFrame({"predicted": np.linspace(0, most, 2), "observed": np.linspace(0, most, 2)})
            diagonal = alt.Chart(ideal).mark_line(strokeDash=[4, 4], opacity=0.5, color="gray")
            diagonal = diagonal.encode(x="predicted:Q", y="observed:Q")
            chart = (diagonal + spans + lines + dots).properties(height=TALL)
            yield Figure(f"calibration_{kind}_{regime}", f"Probabilities of list {kind}, {regime}", chart)


def _root(field: str) -> Any:
    """An axis of shares on which small ones can be told apart."""
    axis = alt.Axis(format="~%", tickCount=6)
    make = alt.X if field == "predicted" else alt.Y
    return make(f"{field}:Q", scale=alt.Scale(type="sqrt"), axis=axis, title=field)


def _training(run: Run) -> Iterator[Figure]:
    pair = {model: training for model, training in run.trainings.items() if model in LEARNED}
    losses = pl.concat(training.losses.with_columns(who=pl.lit(model)) for model, training in pair.items())
    chart = alt.Chart(losses).mark_line(point=True).encode(
        x=alt.X("step:Q"), y=alt.Y("loss:Q", scale=alt.Scale(zero=False)), color=_who(pair), shape=_shape(pair),
        tooltip=_tips("who", "step", "loss"),
    )  # fmt: skip
    yield Figure("training_loss", "Loss in training", chart.properties(height=TALL))
    epochs = pl.concat(training.epochs.with_columns(who=pl.lit(model)) for model, training in pair.items())
    axis = alt.X("epoch:O", axis=alt.Axis(labelAngle=0))
    if epochs["epoch"].max() != 1:
        chart = alt.Chart(epochs.filter(figure="validation/ndcg@10")).mark_line(point=True).encode(
            x=axis, y=alt.Y("value:Q", title="NDCG@10", scale=alt.Scale(zero=False)),
            color=_who(pair), shape=_shape(pair), tooltip=_tips("who", "epoch", "value"),
        )  # fmt: skip
        yield Figure("training_validation", "Validation, mean over lists and regimes", chart.properties(height=TALL))
    best = pl.concat(epochs.filter(who=model, epoch=training.best) for model, training in pair.items())
    cells = [(kind, regime, f"validation/{kind}_{regime}") for kind in LISTS for regime in run.regimes]
    names = {figure: f"{kind} {regime}" for kind, regime, figure in cells}
    best = best.filter(pl.col("figure").is_in(list(names))).with_columns(pl.col("figure").replace_strict(names))
    chart = alt.Chart(best).mark_point(size=60, opacity=1).encode(
        x=alt.X("figure:N", sort=list(names.values()), title=None, axis=_words()),
        y=alt.Y("value:Q", title="NDCG@10"), xOffset=alt.XOffset("who:N"), color=_who(pair), shape=_shape(pair),
        tooltip=_tips("who", "figure", "value", "epoch"),
    )  # fmt: skip
    yield Figure("validation", "Validation, the epoch that was kept", chart.properties(height=TALL))
    found = run.trainings["clusters"].epochs.filter(figure="validation/found")
    chart = alt.Chart(found).mark_line(point=True).encode(
        x=axis, y=alt.Y("value:Q", title="found in the best clusters", axis=alt.Axis(format="%"),
                        scale=alt.Scale(zero=False)),
        tooltip=_tips("epoch", "value"),
    )  # fmt: skip
    yield Figure("training_clusters", "Clusters: first contacts found on validation", chart.properties(height=TALL))


def _maps(run: Run) -> Iterator[Figure]:
    for name, places, group in (
        ("tokens_map", run.token_map, "token"),
        ("clusters_map", run.cluster_map, "cluster"),
    ):
        rows = places[:: max(1, -(-places.height // POINTS))]
        rows = rows.with_columns(user=run.user_ids.gather(rows["user"]).cast(pl.String))
        count = int(places[group].max()) + 1  # type: ignore[arg-type]
        # Neighbouring numbers get different colours of a wheel, the same ones in every run.
        hues = [f"hsl({k * 137.508 % 360:.0f}, 62%, {(42, 56, 50)[k % 3]}%)" for k in range(count)]
        blank = alt.Axis(labels=False, ticks=False, grid=False, domain=False, title=None)
        chart = alt.Chart(rows).mark_point(size=9, opacity=0.65).encode(
            x=alt.X("x:Q", axis=blank, scale=alt.Scale(zero=False)),
            y=alt.Y("y:Q", axis=blank, scale=alt.Scale(zero=False)),
            color=alt.Color(f"{group}:N", scale=alt.Scale(domain=list(range(count)), range=hues), legend=None),
            tooltip=_tips("user", group),
        )  # fmt: skip
        what = "first token of their STUs" if group == "token" else "cluster"
        yield Figure(name, f"{rows.height:,} people by the {what}", chart.properties(height=2 * TALL))


def _search(run: Run) -> Iterator[Figure]:
    how = pl.when("beside_fresh").then(pl.lit("clusters and whoever was active last"))
    rows = run.search.with_columns(how=how.otherwise(pl.lit("clusters alone")))
    if rows.height:
        chart = alt.Chart(rows).mark_line(point={"size": 50}).encode(
            x=alt.X("looked:Q", scale=alt.Scale(type="log"), axis=alt.Axis(format="~%", labelOverlap="greedy"),
                    title="share of the people looked at"),
            y=alt.Y("kept:Q", axis=alt.Axis(format="%"), title="Recall@10 kept"),
            color=alt.Color("how:N"), strokeDash=alt.StrokeDash("how:N"),
            tooltip=_tips("how", "looked", "recall", "kept"),
        )  # fmt: skip
        yield Figure("search_space", "What a smaller search space costs", chart.properties(height=TALL))


def _data(run: Run) -> Iterator[Figure]:
    months = alt.Chart(run.months).mark_bar().encode(
        x=alt.X("month:O", title=None, axis=alt.Axis(labelAngle=-45, labelOverlap=True)), y=alt.Y("events:Q"),
        tooltip=_tips("month", "events"),
    )  # fmt: skip
    yield Figure("events_by_month", "Events by month", months.properties(height=TALL))
    actions = pl.DataFrame(
        {"action": list(run.validation["actions"]), "events": list(run.validation["actions"].values())}
    )
    bars = alt.Chart(actions.sort("events", descending=True)).mark_bar(height=16).encode(
        x=alt.X("events:Q"), y=alt.Y("action:N", sort=None, title=None), tooltip=_tips("action", "events")
    )  # fmt: skip
    yield Figure("actions", "Events by action", bars.properties(height=28 * actions.height))


def _x(field: str, title: str, form: str = "~g") -> alt.X:
    return alt.X(f"{field}:Q", title=title, axis=alt.Axis(format=form))


def _named() -> pl.Expr:
    """The model, if it has a colour of its own, else that it is a rule."""
    return pl.when(pl.col("model").is_in(LEARNED)).then("model").otherwise(pl.lit(RULE))


def _who(present: Iterable[str] = (*LEARNED, BEST_RULE), rules: str = BEST_RULE) -> alt.Color:
    """Every model has the same colour throughout. present: those of the legend."""
    shown = alt.Legend(values=list(present)) if present else None
    return alt.Color("who:N", scale=alt.Scale(domain=[*LEARNED, rules]), legend=shown)


def _shape(present: Iterable[str] = (*LEARNED, BEST_RULE), rules: str = BEST_RULE) -> alt.Shape:
    shapes = ["circle", "square", "triangle-up", "diamond", "cross"]
    scale = alt.Scale(domain=[*LEARNED, rules], range=shapes)
    return alt.Shape("who:N", scale=scale, legend=alt.Legend(values=list(present)))


def _words() -> alt.Axis:
    """Names of several words, one below the other."""
    return alt.Axis(labelAngle=0, labelExpr="split(datum.label, ' ')", domain=False, ticks=False)


def _tips(*fields: str) -> list[alt.Tooltip]:
    """What is told of a mark: numbers in their formats, anything else as it is."""
    numbers = {name: alt.Tooltip(f"{name}:Q", format=form) for name, form in FORMATS.items()}
    return [numbers.get(name, alt.Tooltip(f"{name}:N")) for name in fields]
