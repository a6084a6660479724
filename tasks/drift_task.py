"""How new events differ from those of the champion, under Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from befriend.ops.drift_check import DRIFT_FILE, REPORT
from befriend.ops.registry import champion
from tasks.command import befriend
from tasks.dvc import stage_task
from tasks.page_artifacts import link, readable

REPORT_KEY, MEASURES_KEY, FILES_KEY = "drift-report", "drift-measures", "drift-files"


@stage_task("drift", "Compare new events with those of the champion.", run_name="drift")
def drift() -> None:
    """Measures drift and shows it; the gate uses the verdict. Does nothing before the first promotion."""
    if champion(Path()) is not None:
        befriend("drift")
        publish()


def publish() -> None:
    drift_report = files.read_json(layout.DRIFT / DRIFT_FILE)
    report = layout.DRIFT / REPORT
    create_markdown_artifact(readable(report), key=REPORT_KEY, description=f"Drift: {drift_report['verdict']}")
    if drift_report["measures"]:
        create_table_artifact(measure_rows(drift_report), key=MEASURES_KEY, description=drift_report["compared"])
    link(report, FILES_KEY, "The report with its figure")


def measure_rows(drift_report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure, the worst first."""
    worst = {"severe": 0, "warning": 1, "ok": 2}
    rows = []
    for name, measure in drift_report["measures"].items():
        warning, severe = measure["limits"]
        row = {"measure": name, "verdict": measure["verdict"], "found": measure["value"]}
        rows.append(row | {"warning above": warning, "severe above": severe})
    return sorted(rows, key=lambda row: worst[row["verdict"]])
