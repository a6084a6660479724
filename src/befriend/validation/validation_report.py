"""The report on a validated log: a short markdown page with one figure, and the events by month for `dvc plots`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from befriend.data.columns import REASONS
from befriend.data.event_log import DAY
from befriend.readers.sources import SIDE_TABLES
from befriend.validation.expectations import RuleResult
from befriend.validation.log_profile import LogProfile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = "log.png"
# Okabe and Ito 2008: colour-blind readers can distinguish them too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SPANS = {"minute": 60, "hour": 3600, "day": DAY, "month": 30 * DAY, "year": 365 * DAY}


def write_report(folder: Path, profile: LogProfile, results: list[RuleResult], stride: int) -> None:
    """Writes report.md, log.png and events_by_month.csv. stride: Great Expectations checked every `stride`-th row."""
    if profile.figures["rows"]["events"]:
        draw(profile, folder / FIGURE)
    months = profile.by_month.group_by("month").agg(pl.col("events").sum()).sort("month")
    months.write_csv(folder / "events_by_month.csv")
    (folder / "report.md").write_text(markdown(profile.figures, results, stride), encoding="utf-8")


def draw(profile: LogProfile, path: Path) -> None:
    """Draws events by month and action, degrees, time between events, and time to reciprocate."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    with mpl.rc_context(style):
        figure, ((months, degrees), (gaps, reply_gaps)) = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
        _draw_months(months, profile)
        _draw_degrees(degrees, profile.degrees)
        _draw_durations(gaps, profile.gaps, "Time between events of one user")
        _draw_durations(reply_gaps, profile.answers, "Time until the first contact back")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


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
            color=COLOURS[k % len(COLOURS)],
            label=_safe_label(action),
        )
        bottoms = bottoms + values
    ticks = np.unique(np.linspace(0, counts.height - 1, 6).astype(int))
    axes.set_xticks(ticks, [counts["month"][int(k)] for k in ticks])
    axes.set(title="Events by month (UTC)", ylabel="events")
    axes.legend(frameon=False, fontsize=8)


def _safe_label(label: str) -> str:
    """The label in a form that matplotlib neither reads as mathematics nor hides."""
    return " " + label.replace("$", r"\$")


def _draw_degrees(axes: Axes, degrees: np.ndarray) -> None:
    values, counts = np.unique(degrees[degrees > 0], return_counts=True)
    if not len(values):
        _draw_empty(axes, "Contacts of a user")
        return
    at_least = counts[::-1].cumsum()[::-1] / counts.sum()
    axes.step(values, at_least, where="post", color=COLOURS[0])
    axes.set(
        xscale="log", yscale="log", title="Contacts of a user", xlabel="contacts", ylabel="share of users with as many"
    )


def _draw_durations(axes: Axes, seconds: np.ndarray, title: str) -> None:
    if not len(seconds):
        _draw_empty(axes, title)
        return
    values = np.maximum(seconds, 1)
    bins = np.geomspace(1, max(float(values.max()), 60.0), 60)
    axes.hist(values, bins=list(bins), weights=np.full(len(values), 100 / len(values)), color=COLOURS[2])
    axes.set(xscale="log", ylabel="%", xlim=(1, bins[-1]), title=title)
    spans = {name: span for name, span in SPANS.items() if span <= bins[-1]}
    axes.set_xticks(list(spans.values()), list(spans))
    axes.minorticks_off()
    median = float(np.median(values))
    axes.axvline(median, color=COLOURS[5], linewidth=1)
    axes.text(median, axes.get_ylim()[1], f" median {duration(median)}", color=COLOURS[5], va="top")


def _draw_empty(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)


def duration(seconds: float) -> str:
    """A time span in the largest unit of which it holds at least one: "3.4 days"."""
    for name, span in reversed(SPANS.items()):
        if seconds >= span:
            return f"{seconds / span:.1f} {name}s"
    return f"{seconds:.0f} seconds"


def markdown(figures: dict[str, Any], results: list[RuleResult], stride: int) -> str:
    """The report as markdown, without run times or paths, so that equal logs give equal reports."""
    rows, split = figures["rows"], figures["split"]
    failed = [result for result in results if not result.passed]
    critical = [result for result in failed if result.severity == "critical"]
    title = "refused" if critical else "accepted with warnings" if failed else "accepted"
    blocks = [
        [f"# Event log: {title}"],
        [
            f"{rows['read']:,} rows were read, {rows['rejected']:,} refused, "
            f"{rows['self_loops']:,} self-loops dropped, {rows['duplicates']:,} exact duplicates found. "
            f"{_erased_text(rows['forgotten'])}{rows['events']:,} events between {figures['users']:,} users remain."
        ],
        [f"- **{result.severity}**: {result.line()}" for result in failed],
    ]
    attributes, texts, statements = (figures.get(table, {}) for table in SIDE_TABLES)
    if attributes:
        blocks.append([_attributes_text(attributes)])
    if texts or statements:
        blocks.append(_texts_lines(texts, statements))
    for section in (figures, attributes, texts, statements):
        counts = section.get("rejected_by_reason")
        if counts:
            blocks.append(_table("refused because", "rows", {REASONS[code]: n for code, n in counts.items()}))
    if rows["events"]:
        part_sizes = {name: split[name] for name in ("train", "validation", "test")}
        blocks += [
            [f"![the log in four pictures]({FIGURE})"],
            [_summary(figures)],
            _table("action", "events", figures["actions"]),
            _table("part", "events", part_sizes),
        ]
    if "test_shares" in split:
        shares = {name.replace("_", " "): f"{share:.1%}" for name, share in split["test_shares"].items()}
        blocks.append(_table("of the test contacts", "share", shares))
    blocks.append(_rules_table(results))
    if stride > 1:
        blocks.append([f"The rules on rows saw every {stride}th row; all other figures include all rows."])
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _summary(figures: dict[str, Any]) -> str:
    first, last = (
        datetime.fromtimestamp(figures["time"][k], UTC).strftime("%Y-%m-%d %H:%M") for k in ("first", "last")
    )
    degree, reply_seconds = figures["degree"], figures["seconds_to_reciprocate"].get("q50", 0)
    return (
        f"From {first} to {last} UTC, {figures['time']['days']:,.0f} days. "
        f"{figures['shares']['reciprocated_pairs']:.0%} of the pairs acted in both directions; "
        f"the first contact back came after {duration(reply_seconds)} (median). "
        f"Half of the users have at most {degree['q50']:.0f} contacts, 1 % more than {degree['q99']:.0f}."
    )


def _erased_text(rows: int) -> str:
    return f"{rows:,} rows that name erased users were left out. " if rows else ""


def _attributes_text(figures: dict[str, Any]) -> str:
    users = figures["users"] + figures["users_without"]
    line = (
        f"{figures['users']:,} of {users:,} users have attributes ({', '.join(figures['columns'])}). Of the "
        f"{figures['rows']:,} rows of their table, {figures['not_in_log']:,} were left out, since their users are not "
        f"in the log, and {figures['rejected']:,} were refused."
    )
    not_finite = sum(column.get("not_finite", 0) for column in figures["columns"].values())
    return line + (f" {not_finite:,} numbers that are infinite or NaN count as missing." if not_finite else "")


def _texts_lines(texts: dict[str, Any], statements: dict[str, Any]) -> list[str]:
    return [
        f"{table['kept']:,} {phrase} {table['users']:,} users ({table['per_user']['median']:g} each at the median, "
        f"at most {table['per_user']['max']:,}); {table['users_without_events']:,} of these users are in no event."
        + (f" Of {table['rows']:,} rows {table['rejected']:,} were refused." if table["rows"] else "")
        for table, phrase in ((texts, "texts of"), (statements, "statements about"))
        if table
    ]


def _rules_table(results: list[RuleResult]) -> list[str]:
    lines = ["| rule | severity | found | allowed | |", "|---|---|---:|---|---|"]
    for rule in results:
        observed = "" if rule.observed is None else f"{rule.observed:,}"

        lines.append(
            f"| {rule.name} | {rule.severity} | {observed} | {rule.limit} | {'ok' if rule.passed else '**no**'} |"
        )
    return lines


def _table(left_header: str, right_header: str, rows: dict[str, Any]) -> list[str]:
    body = [f"| {name} | {value if isinstance(value, str) else format(value, ',')} |" for name, value in rows.items()]
    return [f"| {left_header} | {right_header} |", "|---|---:|", *body]
