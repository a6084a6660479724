"""`befriend drift`: how the log that was prepared last differs from the champion's, with a page and a picture."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from befriend import files, layout
from befriend.config import DriftSettings
from befriend.data.drift import Measure, Window, measures, windows
from befriend.data.log import EVENTS_FILE, EventLog
from befriend.data.renumber import renumber
from befriend.data.texts import TextVectors
from befriend.errors import BefriendError
from befriend.ops.registry import Promoted
from befriend.tokens.folder import load as load_tokens

DRIFT_FILE, REPORT, FIGURE = "drift.json", "report.md", "drift.png"
SEVERITY = ("ok", "warning", "severe")
BLUE, ORANGE = "#0072B2", "#E69F00"


def measure(root: Path, champion: Promoted, settings: DriftSettings) -> dict[str, Any]:
    """Compares, writes runs/drift/, and returns drift.json: verdict, compared, and measures by name, among others.

    Logs that cannot be compared at all, as their ids are of another kind, differ severely.
    """
    with files.atomic(root / layout.DRIFT) as folder:
        folder.mkdir(parents=True)
        found: list[Measure] = []
        told: dict[str, Any] = {"champion": champion.number, "limits": settings.model_dump()}
        told["data"] = files.sha256(root / layout.PREPARED / EVENTS_FILE)
        try:
            pair, compared = _windows(root, champion, settings)
            found = measures(*pair)
            told["events_a_day"] = [round(len(w.events) / max(w.days, 1e-9), 1) for w in pair]
        except BefriendError as error:
            compared = f"they cannot be compared: {error}"
        verdicts = [measured.verdict(settings) for measured in found]
        told["compared"] = compared
        worst = max((SEVERITY.index(verdict) for verdict in verdicts), default=len(SEVERITY) - 1)
        told["verdict"] = SEVERITY[worst]
        told["measures"] = {
            m.name: {"kind": m.kind, "value": m.value, "verdict": verdict, "before": m.before, "now": m.now}
            | {"limits": list(settings.limits(m.kind))}
            for m, verdict in zip(found, verdicts, strict=True)
        }
        files.write_json(folder / DRIFT_FILE, told)
        if found:
            draw(found, folder / FIGURE)
        files.write_text(folder / REPORT, report(told))
    return told


def _windows(root: Path, champion: Promoted, settings: DriftSettings) -> tuple[tuple[Window, Window], str]:
    """The champion's events and the new ones, in the champion's numbers, and which ones these are."""
    before = EventLog.read(champion.folder / layout.PREPARED)
    with tempfile.TemporaryDirectory() as name:
        renumber(root / layout.PREPARED, before.user_ids, Path(name) / "log")
        now = EventLog.read(Path(name) / "log")
    written = TextVectors.read(champion.folder / layout.TEXT, now)
    tokens = load_tokens(champion.folder / layout.TOKENS, now, written).joined(now).table.stus[:, 0].numpy()
    one, two, compared = windows(before, now, settings.least_events)
    return (Window(before, one, tokens[: before.num_users]), Window(now, two, tokens)), compared


def current(root: Path, champion: Promoted, settings: DriftSettings) -> dict[str, Any]:
    """What was measured for the log that lies here and this champion; measured now if it was not."""
    path = root / layout.DRIFT / DRIFT_FILE
    if path.is_file():
        told = files.read_json(path)
        of = files.sha256(root / layout.PREPARED / EVENTS_FILE)
        if (told["champion"], told["data"], told["limits"]) == (champion.number, of, settings.model_dump()):
            return told
    return measure(root, champion, settings)


def report(told: dict[str, Any]) -> str:
    lines = [
        f"# Drift: {told['verdict']}",
        "",
        f"Compared with the log of champion {told['champion']}: {told['compared']}.",
        "",
    ]
    if not told["measures"]:
        return "\n".join(lines)
    lines += [
        "{:,.0f} events a day then, {:,.0f} now.".format(*told["events_a_day"]),
        "",
        f"![each measure then and now]({FIGURE})",
        "",
        "| measure | | found | warning above | severe above | verdict |",
        "|---|---|---:|---:|---:|---|",
    ]
    kinds = {"psi": "stability index", "ks": "Kolmogorov-Smirnov", "share": "difference"}
    for name, m in told["measures"].items():
        verdict = f"**{m['verdict']}**" if m["verdict"] != "ok" else "ok"
        lines.append(
            f"| {name} | {kinds[m['kind']]} | {m['value']:.3f} | {m['limits'][0]} | {m['limits'][1]} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def draw(found: list[Measure], path: Path) -> None:
    """A panel for each measure: what it was, beside what it is."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "axes.titleweight": "bold"}
    with mpl.rc_context(style):
        columns = 3
        rows = max(1, -(-len(found) // columns))
        size = (4.2 * columns, 2.6 * rows)
        figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for axes, m in zip(grid.ravel(), found, strict=False):
            place = np.arange(len(m.before))
            axes.bar(place - 0.2, list(m.before.values()), 0.4, color=BLUE, label="then")
            axes.bar(place + 0.2, [m.now[name] for name in m.before], 0.4, color=ORANGE, label="now", hatch="//")
            axes.set_title(f"{m.name}: {m.value:.3f}")
            many = len(place) > 12
            axes.set_xticks([] if many else place, [] if many else list(m.before), rotation=30)
            if m.kind == "ks" and min(m.before.values()) > 0:
                axes.set_yscale("log")
        for axes in grid.ravel()[len(found) :]:
            axes.set_axis_off()
        grid[0, 0].legend(frameon=False)
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)
