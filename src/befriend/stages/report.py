"""Stage report: one page with figures, and a model card, of what all other stages measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from befriend import files, layout
from befriend.api import load
from befriend.config import Params
from befriend.report.charts import figures
from befriend.report.example_lists import example_lists
from befriend.report.page import model_card, render
from befriend.report.run_results import RunResults

FIGURES = "figures"
LATENCY_FILE = layout.RUNS / "latency.js"


@dataclass(frozen=True)
class ReportResult:
    page: Path
    figures: int
    megabytes: float

    def summary(self) -> str:
        return f"{self.page}, {self.megabytes:.1f} MB, with {self.figures} figures"


def run(params: Params, root: Path) -> ReportResult:
    """Reads the outputs of the other stages in `root`; writes reports/report/: index.html, model_card.md and figures/.

    The latency of lists differs from run to run, so it is not part of the page, which would differ too. It is written
    to runs/latency.js, which the page loads.
    """
    results = RunResults.read(root, params)
    drawn = figures(results)
    examples = example_lists(load(root), params.report.examples, params.report.people) if params.report.examples else []
    page = render(results, drawn, examples)
    with files.atomic(root / layout.PAGE.parent) as folder:
        (folder / FIGURES).mkdir(parents=True)
        for figure in drawn:
            figure.write(folder / FIGURES)
        files.write_text(folder / layout.PAGE.name, page)
        files.write_text(folder / layout.MODEL_CARD.name, model_card(results))
    record = root / layout.RUNS / "evaluate.json"
    latency = files.read_json(record).get("latency") if record.is_file() else None
    files.write_text(root / LATENCY_FILE, f"window.befriend = {files.to_json({'latency': latency or {}})}")
    return ReportResult(layout.PAGE, len(drawn), len(page.encode()) / 1e6)
