"""Stage report: one page, its pictures and the model card, of what every other stage measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from befriend import files, layout
from befriend.api import load
from befriend.config import Params
from befriend.report.charts import figures
from befriend.report.examples import examples
from befriend.report.page import card, render
from befriend.report.run import Run

FIGURES = "figures"
WAITS_FILE = layout.RUNS / "latency.js"


@dataclass(frozen=True)
class ReportResult:
    page: Path
    figures: int
    megabytes: float

    def summary(self) -> str:
        return f"{self.page}, {self.megabytes:.1f} MB, with {self.figures} figures"


def run(params: Params, root: Path) -> ReportResult:
    """Reads what the other stages wrote below root; writes reports/report/: index.html, model_card.md and figures/.

    How long lists took differs from run to run, and a page that held it would too: runs/latency.js has it, which the
    page reads where it lies.
    """
    told = Run.read(root, params)
    drawn = figures(told)
    shown = examples(load(root), params.report.examples, params.report.people) if params.report.examples else []
    page = render(told, drawn, shown)
    with files.atomic(root / layout.PAGE.parent) as folder:
        (folder / FIGURES).mkdir(parents=True)
        for figure in drawn:
            figure.write(folder / FIGURES)
        files.write_text(folder / layout.PAGE.name, page)
        files.write_text(folder / layout.MODEL_CARD.name, card(told))
    record = root / layout.RUNS / "evaluate.json"
    waits = files.read_json(record).get("latency") if record.is_file() else None
    files.write_text(root / WAITS_FILE, f"window.befriend = {files.to_json({'latency': waits or {}})}")
    return ReportResult(layout.PAGE, len(drawn), len(page.encode()) / 1e6)
