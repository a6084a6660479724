"""`befriend drift`: measures how the newest prepared log differs from the champion's; writes a report and a figure."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from befriend import files, layout
from befriend.data.event_log import EVENTS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.errors import BefriendError
from befriend.features.text_vectors import TextVectors
from befriend.monitoring.drift_measures import DriftMeasure, LogWindow, comparison_windows, drift_measures
from befriend.monitoring.monitoring_settings import DriftSettings
from befriend.ops.registry import PromotedRun
from befriend.tokens.tokenizer import load_tokenizer

DRIFT_FILE, REPORT, FIGURE = "drift.json", "report.md", "drift.png"
SEVERITY = ("ok", "warning", "severe")
BLUE, ORANGE = "#0072B2", "#E69F00"


def measure(root: Path, champion: PromotedRun, settings: DriftSettings) -> dict[str, Any]:
    """Compares the logs, writes runs/drift/, and returns the content of drift.json.

    Its keys are champion, limits, data (digest of the events), compared (the events that were compared, in words),
    events_a_day, verdict, and measures by name. Logs that cannot be compared at all, for example because their user ids
    have different types, get the verdict severe.
    """
    with files.atomic(root / layout.DRIFT) as folder:
        folder.mkdir(parents=True)
        measures: list[DriftMeasure] = []
        drift: dict[str, Any] = {"champion": champion.number, "limits": settings.model_dump()}
        drift["data"] = files.sha256(root / layout.PREPARED / EVENTS_FILE)
        try:
            windows, compared = _windows(root, champion, settings)
            measures = drift_measures(*windows)
            drift["events_a_day"] = [round(len(w.events) / max(w.days, 1e-9), 1) for w in windows]
        except BefriendError as error:
            compared = f"they cannot be compared: {error}"
        verdicts = [m.verdict(settings) for m in measures]
        drift["compared"] = compared
        worst = max((SEVERITY.index(verdict) for verdict in verdicts), default=len(SEVERITY) - 1)
        drift["verdict"] = SEVERITY[worst]
        drift["measures"] = {
            m.name: {"kind": m.kind, "value": m.value, "verdict": verdict, "before": m.before, "now": m.now}
            | {"limits": list(settings.limits(m.kind))}
            for m, verdict in zip(measures, verdicts, strict=True)
        }
        files.write_json(folder / DRIFT_FILE, drift)
        if measures:
            draw(measures, folder / FIGURE)
        files.write_text(folder / REPORT, report(drift))
    return drift


def _windows(root: Path, champion: PromotedRun, settings: DriftSettings) -> tuple[tuple[LogWindow, LogWindow], str]:
    """The champion's events and the new ones, with the champion's internal ids; and which events they are, in words."""
    before = EventLog.read(champion.folder / layout.PREPARED)
    with tempfile.TemporaryDirectory() as name:
        renumber(root / layout.PREPARED, before.user_ids, Path(name) / "log")
        now = EventLog.read(Path(name) / "log")
    texts = TextVectors.read(champion.folder / layout.TEXT, now)
    first_tokens = (
        load_tokenizer(champion.folder / layout.TOKENS, now, texts).with_newcomers(now).table.stus[:, 0].numpy()
    )
    events_before, events_now, compared = comparison_windows(before, now, settings.least_events)
    return (
        LogWindow(before, events_before, first_tokens[: before.num_users]),
        LogWindow(now, events_now, first_tokens),
    ), compared


def current(root: Path, champion: PromotedRun, settings: DriftSettings) -> dict[str, Any]:
    """The content of drift.json for the prepared log and this champion; measures it if the file is of other ones."""
    path = root / layout.DRIFT / DRIFT_FILE
    if path.is_file():
        drift = files.read_json(path)
        data = files.sha256(root / layout.PREPARED / EVENTS_FILE)
        if (drift["champion"], drift["data"], drift["limits"]) == (champion.number, data, settings.model_dump()):
            return drift
    return measure(root, champion, settings)


def report(drift: dict[str, Any]) -> str:
    """The content of drift.json as Markdown."""
    lines = [
        f"# Drift: {drift['verdict']}",
        "",
        f"Compared with the log of champion {drift['champion']}: {drift['compared']}.",
        "",
    ]
    if not drift["measures"]:
        return "\n".join(lines)
    lines += [
        "{:,.0f} events a day before, {:,.0f} now.".format(*drift["events_a_day"]),
        "",
        f"![each measure before and now]({FIGURE})",
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
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    with mpl.rc_context(style):
        columns = 3
        rows = max(1, -(-len(measures) // columns))
        size = (4.2 * columns, 2.6 * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for axes, m in zip(grid.ravel(), measures, strict=False):
            positions = np.arange(len(m.before))
            axes.bar(positions - 0.2, list(m.before.values()), 0.4, color=BLUE, label="before")
            axes.bar(positions + 0.2, [m.now[name] for name in m.before], 0.4, color=ORANGE, label="now", hatch="//")
            axes.set_title(f"{m.name}: {m.value:.3f}")
            too_many = len(positions) > 12  # for labels
            axes.set_xticks([] if too_many else positions, [] if too_many else list(m.before), rotation=30)
            if m.kind == "ks" and min(m.before.values()) > 0:
                axes.set_yscale("log")
        for axes in grid.ravel()[len(measures) :]:
            axes.set_axis_off()
        grid[0, 0].legend(frameon=False)
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)
