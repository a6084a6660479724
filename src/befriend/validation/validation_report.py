"""Writes the report on a log: a markdown page with one figure, and what `dvc plots` needs of it.

This is a table of events by month, and the library that draws the plots. DVC's own page loads the library from another
server; .dvc/plots.html, the template of that page which .dvc/config names, loads the file that is written here.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import vl_convert

from befriend.data.columns import REASONS
from befriend.data.event_log import DAY
from befriend.plots import LIGHT, saved_figure
from befriend.readers.sources import SIDE_TABLES
from befriend.validation.expectations import RuleResult
from befriend.validation.log_profile import LogProfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = "log.png"
LIBRARY = "vega.js"
DVC_VEGA_LITE = "5.21"  # has the major version of DVC's plot templates
SECONDS_PER_UNIT = {"minute": 60, "hour": 3600, "day": DAY, "month": 30 * DAY, "year": 365 * DAY}


def write_report(folder: Path, profile: LogProfile, results: list[RuleResult], stride: int) -> None:
    """Writes report.md, log.png, events_by_month.csv, and vega.js, which draws the plots of `dvc plots show`.

    stride: Great Expectations checked every `stride`-th row.
    """
    if profile.metrics["rows"]["events"]:
        draw(profile, folder / FIGURE)
    months = profile.by_month.group_by("month").agg(pl.col("events").sum()).sort("month")
    months.write_csv(folder / "events_by_month.csv")
    (folder / "report.md").write_text(markdown(profile.metrics, results, stride), encoding="utf-8")
    write_library(folder / LIBRARY)


def write_library(path: Path) -> None:
    """Writes Vega-Lite and the function vegaEmbed, which draws a plot in a page, as a script."""
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=DVC_VEGA_LITE)
    path.write_text(library, encoding="utf-8")


def draw(profile: LogProfile, path: Path) -> None:
    """Draws four plots: events by month and action, degrees, time between events, and time until the reply."""
    with saved_figure(path, width=10, height=6.4) as figure:
        (months, degrees), (gaps, reply_gaps) = figure.subplots(2, 2)
        _draw_months(months, profile)
        _draw_degrees(degrees, profile.degrees)
        _draw_durations(gaps, profile.event_gaps, "Time between events of one user")
        _draw_durations(reply_gaps, profile.reply_gaps, "Time until the reply")


def _draw_months(axes: Axes, profile: LogProfile) -> None:
    counts = (
        profile.by_month.pivot(on="action", index="month", values="events", sort_columns=True)
        .fill_null(0)
        .sort("month")
    )
    bottoms = np.zeros(counts.height)
    for k, action in enumerate(counts.columns[1:]):
        values = counts[action].to_numpy()
        axes.bar(
            range(counts.height),
            values,
            bottom=bottoms,
            width=1,
            color=LIGHT.series[k % len(LIGHT.series)],
            label=_safe_label(action),
        )
        bottoms = bottoms + values
    ticks = np.unique(np.linspace(0, counts.height - 1, 6).astype(int))
    axes.set_xticks(ticks, [counts["month"][int(k)] for k in ticks])
    axes.set(title="Events by month (UTC)", ylabel="events")
    axes.legend()


def _safe_label(label: str) -> str:
    """The label, escaped: matplotlib reads $ as mathematics, and hides labels that begin with an underscore."""
    return " " + label.replace("$", r"\$")


def _draw_degrees(axes: Axes, degrees: np.ndarray) -> None:
    values, counts = np.unique(degrees[degrees > 0], return_counts=True)
    if not len(values):
        _draw_empty(axes, "Contacts of a user")
        return
    survival = counts[::-1].cumsum()[::-1] / counts.sum()
    axes.step(values, survival, where="post", color=LIGHT.series[0])
    axes.set(
        xscale="log",
        yscale="log",
        title="Contacts of a user",
        xlabel="contacts",
        ylabel="share of users with at least as many",
    )


def _draw_durations(axes: Axes, seconds: np.ndarray, title: str) -> None:
    if not len(seconds):
        _draw_empty(axes, title)
        return
    values = np.maximum(seconds, 1)
    bins = np.geomspace(1, max(float(values.max()), 60.0), 60)
    axes.hist(values, bins=list(bins), weights=np.full(len(values), 100 / len(values)), color=LIGHT.series[0])
    axes.set(xscale="log", ylabel="%", xlim=(1, bins[-1]), title=title)
    ticks = {unit: length for unit, length in SECONDS_PER_UNIT.items() if length <= bins[-1]}
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.minorticks_off()
    median = float(np.median(values))
    axes.axvline(median, color=LIGHT.series[1], linewidth=1)
    axes.text(median, axes.get_ylim()[1], f" median {duration(median)}", color=LIGHT.series[1], va="top")


def _draw_empty(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)


def duration(seconds: float) -> str:
    """A duration as text, in the largest unit that is not longer, such as "3.4 days"."""
    for unit, unit_seconds in reversed(SECONDS_PER_UNIT.items()):
        if seconds >= unit_seconds:
            return f"{seconds / unit_seconds:.1f} {unit}s"
    return f"{seconds:.0f} seconds"


def markdown(metrics: dict[str, Any], results: list[RuleResult], stride: int) -> str:
    """The report as markdown, without run times or paths, so that equal logs give equal reports."""
    rows, split = metrics["rows"], metrics["split"]
    failed = [result for result in results if not result.passed]
    critical = [result for result in failed if result.severity == "critical"]
    verdict = "refused" if critical else "accepted with warnings" if failed else "accepted"
    blocks = [
        [f"# Event log: {verdict}"],
        [
            f"{rows['read']:,} rows were read; {rows['rejected']:,} were rejected, {rows['self_loops']:,} self-loops "
            f"were dropped, {rows['duplicates']:,} events are exact duplicates. "
            f"{_erased_text(rows['forgotten'])}{rows['events']:,} events between {metrics['users']:,} users remain."
        ],
        [f"- **{result.severity}**: {result.line()}" for result in failed],
    ]
    attributes, texts, statements = (metrics.get(table, {}) for table in SIDE_TABLES)
    if attributes:
        blocks.append([_attributes_text(attributes)])
    if texts or statements:
        blocks.append(_texts_lines(texts, statements))
    for section in (metrics, attributes, texts, statements):
        counts = section.get("rejected_by_reason")
        if counts:
            blocks.append(_table("reason of rejection", "rows", {REASONS[code]: n for code, n in counts.items()}))
    if rows["events"]:
        part_sizes = {name: split[name] for name in ("train", "validation", "test")}
        blocks += [
            [f"![four plots of the log]({FIGURE})"],
            [_summary(metrics)],
            _table("action", "events", metrics["actions"]),
            _table("part", "events", part_sizes),
        ]
    if "test_shares" in split:
        shares = {name.replace("_", " "): f"{share:.1%}" for name, share in split["test_shares"].items()}
        blocks.append(_table("test contacts", "share", shares))
    blocks.append(_rules_table(results))
    if stride > 1:
        blocks.append([f"The rules on rows were checked on every {stride}th row; all other values are of all rows."])
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _summary(metrics: dict[str, Any]) -> str:
    """Sentences on the time span, reciprocity and degrees. metrics: of validation.json, of a log with events."""
    first, last = (
        datetime.fromtimestamp(metrics["time"][k], UTC).strftime("%Y-%m-%d %H:%M") for k in ("first", "last")
    )
    degree, reply_seconds = metrics["degree"], metrics["seconds_to_reciprocate"].get("q50", 0)
    return (
        f"From {first} to {last} UTC, {metrics['time']['days']:,.0f} days. "
        f"{metrics['shares']['reciprocated_pairs']:.0%} of the pairs acted in both directions; "
        f"the median time until the reply is {duration(reply_seconds)}. "
        f"Half of the users have at most {degree['q50']:.0f} contacts, 1 % have more than {degree['q99']:.0f}."
    )


def _erased_text(num_rows: int) -> str:
    """A sentence on the rows of erased users; empty if there are none."""
    return f"{num_rows:,} rows that name erased users were left out. " if num_rows else ""


def _attributes_text(metrics: dict[str, Any]) -> str:
    """Sentences on the table of users. metrics: its section of validation.json."""
    num_users = metrics["users"] + metrics["users_without"]
    line = (
        f"{metrics['users']:,} of {num_users:,} users have attributes ({', '.join(metrics['columns'])}). Of the "
        f"{metrics['rows']:,} rows of their table, {metrics['not_in_log']:,} were left out, since their users are not "
        f"in the log, and {metrics['rejected']:,} were rejected."
    )
    num_not_finite = sum(column.get("not_finite", 0) for column in metrics["columns"].values())
    return line + (f" {num_not_finite:,} numbers that are infinite or NaN count as missing." if num_not_finite else "")


def _texts_lines(texts: dict[str, Any], statements: dict[str, Any]) -> list[str]:
    """A line on the texts and a line on the statements. texts, statements: sections of validation.json, may be {}."""
    return [
        f"{table['kept']:,} {phrase} {table['users']:,} users ({table['per_user']['median']:g} each at the median, "
        f"at most {table['per_user']['max']:,}); {table['users_without_events']:,} of these users have no event."
        + (f" Of {table['rows']:,} rows {table['rejected']:,} were rejected." if table["rows"] else "")
        for table, phrase in ((texts, "texts of"), (statements, "statements about"))
        if table
    ]


def _rules_table(results: list[RuleResult]) -> list[str]:
    """The lines of a markdown table of all rules."""
    lines = ["| rule | severity | observed | allowed | passed |", "|---|---|---:|---|---|"]
    for rule in results:
        observed = "" if rule.observed is None else f"{rule.observed:,}"
        lines.append(
            f"| {rule.name} | {rule.severity} | {observed} | {rule.limit} | {'yes' if rule.passed else '**no**'} |"
        )
    return lines


def _table(left_header: str, right_header: str, rows: dict[str, Any]) -> list[str]:
    """The lines of a markdown table with two columns."""
    body = [f"| {name} | {value if isinstance(value, str) else format(value, ',')} |" for name, value in rows.items()]
    return [f"| {left_header} | {right_header} |", "|---|---:|", *body]
