"""Stage report: a page with charts and a model card, from the results of all other stages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from befriend import files, layout
from befriend.analysis.metric_tables import headline_metrics, reference_figures
from befriend.api import load
from befriend.config import Params
from befriend.report.charts import make_charts
from befriend.report.example_lists import example_lists
from befriend.report.list_hits import measure_hits
from befriend.report.overview import make_overview
from befriend.report.page import chart_library, render_model_card, render_page
from befriend.report.run_results import RunResults
from befriend.report.verdict import Verdict

CHART_FOLDER = "figures"
LATENCY_FILE = layout.RUNS / "latency.js"


@dataclass(frozen=True)
class ReportResult:
    page: Path
    num_charts: int
    megabytes: float
    """size of the page"""
    verdict: Verdict

    def summary(self) -> str:
        size = f"{self.megabytes:.1f} MB, with {self.num_charts} charts"
        return f"{self.verdict.answer}. {self.verdict.reason} {self.page}, {size}"


def run(params: Params, root: Path) -> ReportResult:
    """Reads the outputs of the other stages in `root`; writes index.html, model_card.md, verdict.json and figures/ to
    reports/report/, and headline.json and reference.json to reports/.

    Latency differs from run to run. So that equal runs give equal pages, it is not part of the page, but is written to
    runs/latency.js, which the page loads.
    """
    with ThreadPoolExecutor(1) as renderer:  # which runs outside of Python, while models make the example lists
        library = renderer.submit(chart_library)
        results = RunResults.read(root, params)
        hits = measure_hits(root, results)
        overview = make_overview(results, hits)
        charts = make_charts(results)
        pictures = {chart.name: renderer.submit(chart.svg) for chart in charts}
        num_users, list_length = params.report.examples, params.report.people
        examples = example_lists(load(root), num_users, list_length) if num_users else []
        page = render_page(results, overview, hits, charts, examples, library.result())
    with files.atomic(root / layout.REPORT_PAGE.parent) as folder:
        (folder / CHART_FOLDER).mkdir(parents=True)
        for name, picture in pictures.items():
            files.write_text(folder / CHART_FOLDER / f"{name}.svg", picture.result())
        files.write_text(folder / layout.REPORT_PAGE.name, page)
        files.write_text(folder / layout.MODEL_CARD.name, render_model_card(results, overview, hits))
        files.write_json(folder / layout.VERDICT.name, asdict(overview.verdict))
    metrics, validation = files.read_json(root / layout.METRICS), files.read_json(root / layout.VALIDATION)
    files.write_json(root / layout.HEADLINE, headline_metrics(metrics, validation))
    files.write_json(root / layout.REFERENCE, reference_figures(metrics))
    record = root / layout.RUNS / "evaluate.json"
    latency = files.read_json(record).get("latency") if record.is_file() else None
    files.write_text(root / LATENCY_FILE, f"window.befriend = {files.to_json({'latency': latency or {}})}")
    return ReportResult(layout.REPORT_PAGE, len(charts), len(page.encode()) / 1e6, overview.verdict)
