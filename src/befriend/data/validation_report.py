"""What a person reads of a validated log: a short markdown page with one figure, and series for `dvc plots`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from befriend.data.columns import REASONS
from befriend.data.expectations import Verdict
from befriend.data.facts import DAY, Facts
from befriend.data.sources import BESIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = "log.png"
# Okabe and Ito 2008: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SPANS = {"minute": 60, "hour": 3600, "day": DAY, "month": 30 * DAY, "year": 365 * DAY}


def write_report(folder: Path, facts: Facts, verdicts: list[Verdict], stride: int) -> None:
    """report.md, log.png and the series behind it. stride: every how many rows Great Expectations saw one."""
    if facts.figures["rows"]["events"]:
        draw(facts, folder / FIGURE)
    months = facts.by_month.group_by("month").agg(pl.col("events").sum()).sort("month")
    months.write_csv(folder / "events_by_month.csv")
    (folder / "report.md").write_text(markdown(facts.figures, verdicts, stride), encoding="utf-8")


def draw(facts: Facts, path: Path) -> None:
    """Events by month and action, degrees, time between events, time to reciprocate."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    with mpl.rc_context(style):
        figure, ((months, degrees), (gaps, answers)) = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
        _months(months, facts)
        _tail(degrees, facts.degrees)
        _durations(gaps, facts.gaps, "Time between events of one user")
        _durations(answers, facts.answers, "Time until the first contact back")
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)


def _months(axes: Axes, facts: Facts) -> None:
    wide = (
        facts.by_month.pivot(on="action", index="month", values="events", sort_columns=True).fill_null(0).sort("month")
    )
    bottom = np.zeros(wide.height)
    for k, action in enumerate(wide.columns[1:]):
        values = wide[action].to_numpy()
        axes.bar(
            range(wide.height), values, bottom=bottom, width=1, color=COLOURS[k % len(COLOURS)], label=_plain(action)
        )
        bottom = bottom + values
    ticks = np.unique(np.linspace(0, wide.height - 1, 6).astype(int))
    axes.set_xticks(ticks, [wide["month"][int(k)] for k in ticks])
    axes.set(title="Events by month (UTC)", ylabel="events")
    axes.legend(frameon=False, fontsize=8)


def _plain(label: str) -> str:
    """A label that matplotlib neither reads as mathematics nor hides."""
    return " " + label.replace("$", r"\$")


def _tail(axes: Axes, degrees: np.ndarray) -> None:
    values, counts = np.unique(degrees[degrees > 0], return_counts=True)
    if not len(values):
        _none(axes, "Contacts of a user")
        return
    at_least = counts[::-1].cumsum()[::-1] / counts.sum()
    axes.step(values, at_least, where="post", color=COLOURS[0])
    axes.set(
        xscale="log", yscale="log", title="Contacts of a user", xlabel="contacts", ylabel="share of users with as many"
    )


def _durations(axes: Axes, seconds: np.ndarray, title: str) -> None:
    if not len(seconds):
        _none(axes, title)
        return
    values = np.maximum(seconds, 1)
    bins = np.geomspace(1, max(float(values.max()), 60.0), 60)
    axes.hist(values, bins=list(bins), weights=np.full(len(values), 100 / len(values)), color=COLOURS[2])
    axes.set(xscale="log", ylabel="%", xlim=(1, bins[-1]), title=title)
    shown = {name: span for name, span in SPANS.items() if span <= bins[-1]}
    axes.set_xticks(list(shown.values()), list(shown))
    axes.minorticks_off()
    middle = float(np.median(values))
    axes.axvline(middle, color=COLOURS[5], linewidth=1)
    axes.text(middle, axes.get_ylim()[1], f" median {duration(middle)}", color=COLOURS[5], va="top")


def _none(axes: Axes, title: str) -> None:
    axes.set_title(title)
    axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)


def duration(seconds: float) -> str:
    """A span in the largest unit that leaves at least 1: "3.4 days"."""
    for name, span in reversed(SPANS.items()):
        if seconds >= span:
            return f"{seconds / span:.1f} {name}s"
    return f"{seconds:.0f} seconds"


def markdown(figures: dict[str, Any], verdicts: list[Verdict], stride: int) -> str:
    """The report as markdown, without times or paths: equal logs give equal reports."""
    rows, split = figures["rows"], figures["split"]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    critical = [verdict for verdict in failed if verdict.severity == "critical"]
    title = "refused" if critical else "accepted with warnings" if failed else "accepted"
    blocks = [
        [f"# Event log: {title}"],
        [
            f"{rows['read']:,} rows were read, {rows['rejected']:,} refused, "
            f"{rows['self_loops']:,} self-loops dropped, {rows['duplicates']:,} exact duplicates found. "
            f"{_forgotten(rows['forgotten'])}{rows['events']:,} events between {figures['users']:,} users remain."
        ],
        [f"- **{verdict.severity}**: {verdict.line()}" for verdict in failed],
    ]
    attributes, texts, statements = (figures.get(table, {}) for table in BESIDE)
    if attributes:
        blocks.append([_of_attributes(attributes)])
    if texts or statements:
        blocks.append(_of_texts(texts, statements))
    for part in (figures, attributes, texts, statements):
        counts = part.get("rejected_by_reason")
        if counts:
            blocks.append(_table("refused because", "rows", {REASONS[code]: n for code, n in counts.items()}))
    if rows["events"]:
        parts = {name: split[name] for name in ("train", "validation", "test")}
        blocks += [
            [f"![the log in four pictures]({FIGURE})"],
            [_prose(figures)],
            _table("action", "events", figures["actions"]),
            _table("part", "events", parts),
        ]
    if "test_shares" in split:
        shares = {name.replace("_", " "): f"{share:.1%}" for name, share in split["test_shares"].items()}
        blocks.append(_table("of the test contacts", "share", shares))
    blocks.append(_rules(verdicts))
    if stride > 1:
        blocks.append([f"The rules on rows saw every {stride}th row; all other figures are of all rows."])
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _prose(figures: dict[str, Any]) -> str:
    first, last = (
        datetime.fromtimestamp(figures["time"][k], UTC).strftime("%Y-%m-%d %H:%M") for k in ("first", "last")
    )
    degree, answer = figures["degree"], figures["seconds_to_reciprocate"].get("q50", 0)
    return (
        f"From {first} to {last} UTC, {figures['time']['days']:,.0f} days. "
        f"{figures['shares']['reciprocated_pairs']:.0%} of the pairs acted in both directions; "
        f"the first contact back came after {duration(answer)} (median). "
        f"Half of the users have at most {degree['q50']:.0f} contacts, 1 % more than {degree['q99']:.0f}."
    )


def _forgotten(rows: int) -> str:
    return f"{rows:,} rows that name people who asked to be forgotten were left out. " if rows else ""


def _of_attributes(figures: dict[str, Any]) -> str:
    users = figures["users"] + figures["users_without"]
    line = (
        f"{figures['users']:,} of {users:,} users have attributes ({', '.join(figures['columns'])}). Of the "
        f"{figures['rows']:,} rows of their table {figures['not_in_log']:,} were left out, since their users are not "
        f"in the log, and {figures['rejected']:,} refused."
    )
    not_finite = sum(column.get("not_finite", 0) for column in figures["columns"].values())
    return line + (f" {not_finite:,} numbers that are infinite or NaN count as missing." if not_finite else "")


def _of_texts(texts: dict[str, Any], statements: dict[str, Any]) -> list[str]:
    return [
        f"{part['kept']:,} {what} {part['users']:,} users ({part['per_user']['median']:g} each at the median, at most "
        f"{part['per_user']['max']:,}); {part['users_without_events']:,} of these users are in no event."
        + (f" Of {part['rows']:,} rows {part['rejected']:,} were refused." if part["rows"] else "")
        for part, what in ((texts, "texts of"), (statements, "statements about"))
        if part
    ]


def _rules(verdicts: list[Verdict]) -> list[str]:
    lines = ["| rule | severity | found | allowed | |", "|---|---|---:|---|---|"]
    for v in verdicts:
        found = "" if v.observed is None else f"{v.observed:,}"
        lines.append(f"| {v.name} | {v.severity} | {found} | {v.limit} | {'ok' if v.passed else '**no**'} |")
    return lines


def _table(left: str, right: str, rows: dict[str, Any]) -> list[str]:
    body = [f"| {name} | {value if isinstance(value, str) else format(value, ',')} |" for name, value in rows.items()]
    return [f"| {left} | {right} |", "|---|---:|", *body]
