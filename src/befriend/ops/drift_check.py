"""`befriend drift`: measures how the current prepared log differs from the champion's; writes a report and a figure.

The champion is the promoted run that is served. It holds the log on which its models were trained, so drift shows how
far new events differ from what the models have learned.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from befriend import files, layout
from befriend.data.event_log import EVENTS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.errors import BefriendError
from befriend.features.text_vectors import TextVectors
from befriend.monitoring.drift_measures import DriftMeasure, LogWindow, comparison_windows, drift_measures
from befriend.monitoring.monitoring_settings import DriftSettings
from befriend.ops.registry import PromotedRun
from befriend.plots import LIGHT, saved_figure
from befriend.tokens.tokenizer import load_tokenizer

DRIFT_FILE, REPORT_FILE, FIGURE_FILE = "drift.json", "report.md", "drift.png"
VERDICTS = ("ok", "warning", "severe")
"""in order of severity"""


def measure_drift(root: Path, champion: PromotedRun, settings: DriftSettings) -> dict[str, Any]:
    """Compares the prepared log of the project in `root` with the champion's, and writes runs/drift/.

    Returns the content of drift.json. Its keys:
        champion       number of the champion in the registry
        limits         the settings of section drift: above which value a measure is a warning, or severe
        data           SHA-256 of the current events
        compared       the events that were compared, in words; or why the logs cannot be compared
        events_a_day   mean number of events a day before and now
        verdict        ok, warning or severe: the worst verdict of a measure
        measures       by name: kind, value, verdict, limits, and the distribution before and now

    If the logs cannot be compared, for example because their user ids have different types, the verdict is severe,
    there are no measures, and no key events_a_day.
    """
    with files.atomic(root / layout.DRIFT) as folder:
        folder.mkdir(parents=True)
        measures: list[DriftMeasure] = []
        drift: dict[str, Any] = {"champion": champion.number, "limits": settings.model_dump()}
        drift["data"] = files.sha256(root / layout.PREPARED / EVENTS_FILE)
        try:
            windows, compared = _windows(root, champion, settings)
            measures = drift_measures(*windows)
            drift["events_a_day"] = [round(len(window.events) / max(window.days, 1e-9), 1) for window in windows]
        except BefriendError as error:
            compared = f"they cannot be compared: {error}"
        verdicts = [m.verdict(settings) for m in measures]
        drift["compared"] = compared
        worst = max((VERDICTS.index(verdict) for verdict in verdicts), default=len(VERDICTS) - 1)
        drift["verdict"] = VERDICTS[worst]
        drift["measures"] = {
            m.name: {"kind": m.kind, "value": m.value, "verdict": verdict, "before": m.before, "now": m.now}
            | {"limits": list(settings.limits(m.kind))}
            for m, verdict in zip(measures, verdicts, strict=True)
        }
        files.write_json(folder / DRIFT_FILE, drift)
        if measures:
            draw(measures, folder / FIGURE_FILE)
        files.write_text(folder / REPORT_FILE, to_markdown(drift))
    return drift


def _windows(root: Path, champion: PromotedRun, settings: DriftSettings) -> tuple[tuple[LogWindow, LogWindow], str]:
    """The periods of the champion's log and of the current log that are compared, and a description of them in words.

    Both use the champion's internal ids (numbers of users); users that came later get ids after these.
    """
    before = EventLog.read(champion.folder / layout.PREPARED)
    with tempfile.TemporaryDirectory() as name:
        renumber(root / layout.PREPARED, before.user_ids, Path(name) / "log")
        now = EventLog.read(Path(name) / "log")
    texts = TextVectors.read(champion.folder / layout.TEXT, now)
    first_tokens = (
        load_tokenizer(champion.folder / layout.TOKENS, now, texts).add_newcomers(now).table.stus[:, 0].numpy()
    )
    events_before, events_now, compared = comparison_windows(before, now, settings.min_events)
    return (
        LogWindow(before, events_before, first_tokens[: before.num_users]),
        LogWindow(now, events_now, first_tokens),
    ), compared


def read_or_measure_drift(root: Path, champion: PromotedRun, settings: DriftSettings) -> dict[str, Any]:
    """The content of drift.json. Measures drift first if the file is missing or has another log, champion or limits."""
    path = root / layout.DRIFT / DRIFT_FILE
    if path.is_file():
        drift = files.read_json(path)
        data = files.sha256(root / layout.PREPARED / EVENTS_FILE)
        if (drift["champion"], drift["data"], drift["limits"]) == (champion.number, data, settings.model_dump()):
            return drift
    return measure_drift(root, champion, settings)


def describe_verdict(drift: dict[str, Any]) -> str:
    """The verdict of drift.json, with the measures that caused it and their limits; or why there are no measures.

    For example "severe (repeated contacts 0.255 > 0.2)".
    """
    verdict = drift["verdict"]
    if not drift["measures"]:
        return f"{verdict} ({drift['compared']})"
    reasons = [
        f"{name} {measure['value']:.3f} > {measure['limits'][VERDICTS.index(verdict) - 1]:g}"
        for name, measure in drift["measures"].items()
        if verdict != "ok" and measure["verdict"] == verdict
    ]
    return f"{verdict} ({', '.join(reasons)})" if reasons else verdict


def to_markdown(drift: dict[str, Any]) -> str:
    """The content of drift.json as Markdown."""
    lines = [
        f"# Drift: {describe_verdict(drift)}" if drift["measures"] else f"# Drift: {drift['verdict']}",
        "",
        f"Compared with the log of champion {drift['champion']}: {drift['compared']}.",
        "",
    ]
    if not drift["measures"]:
        return "\n".join(lines)
    lines += [
        "{:,.0f} events a day before, {:,.0f} now.".format(*drift["events_a_day"]),
        "",
        f"![each measure before and now]({FIGURE_FILE})",
        "",
        "| measure | | value | warning above | severe above | verdict |",
        "|---|---|---:|---:|---:|---|",
    ]
    kinds = {"psi": "stability index", "ks": "Kolmogorov-Smirnov", "share": "difference"}
    for name, m in drift["measures"].items():
        verdict = f"**{m['verdict']}**" if m["verdict"] != "ok" else "ok"
        lines.append(
            f"| {name} | {kinds[m['kind']]} | {m['value']:.3f} | {m['limits'][0]} | {m['limits'][1]} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def draw(measures: list[DriftMeasure], path: Path) -> None:
    """Draws one panel per measure, with its distribution before and now."""
    num_columns = 3
    num_rows = max(1, -(-len(measures) // num_columns))
    old_colour, new_colour, *_ = LIGHT.series
    with saved_figure(path, width=4.2 * num_columns, height=2.6 * num_rows) as figure:
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        for axes, m in zip(grid.ravel(), measures, strict=False):
            positions = np.arange(len(m.before))
            axes.bar(positions - 0.2, list(m.before.values()), 0.4, color=old_colour, label="before")
            new_values = [m.now[name] for name in m.before]
            axes.bar(positions + 0.2, new_values, 0.4, color=new_colour, label="now", hatch="//")
            axes.set_title(f"{m.name}: {m.value:.3f}")
            too_many = len(positions) > 12  # for labels
            axes.set_xticks([] if too_many else positions, [] if too_many else list(m.before), rotation=30)
            if m.kind == "ks" and min(m.before.values()) > 0:
                axes.set_yscale("log")
        for axes in grid.ravel()[len(measures) :]:
            axes.set_axis_off()
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
