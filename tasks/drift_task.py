"""Prefect task that measures how new events differ from those of the champion, the run that is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from befriend.ops.drift_check import DRIFT_FILE, REPORT_FILE, describe_verdict
from befriend.ops.registry import current_champion
from tasks.command import run_befriend
from tasks.dvc import stage_task
from tasks.page_artifacts import publish_link, without_images

REPORT_KEY, MEASURES_KEY, FILES_KEY = "drift-report", "drift-measures", "drift-files"


@stage_task("drift", "Compare new events with those of the champion.", run_name="drift")
def drift() -> None:
    """Measures drift, and publishes it. Does nothing if there is no champion."""
    if current_champion(Path()) is not None:
        run_befriend("drift")
        publish()


def publish() -> None:
    """Publishes the report and the measures in runs/drift/."""
    drift_report = files.read_json(layout.DRIFT / DRIFT_FILE)
    report = layout.DRIFT / REPORT_FILE
    description = f"Drift: {describe_verdict(drift_report)}"
    create_markdown_artifact(without_images(report), key=REPORT_KEY, description=description)
    if drift_report["measures"]:
        create_table_artifact(measure_rows(drift_report), key=MEASURES_KEY, description=drift_report["compared"])
    publish_link(report, FILES_KEY, "The report with its figure")


def measure_rows(drift_report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure, the worst first. drift_report: content of drift.json."""
    order = {"severe": 0, "warning": 1, "ok": 2}
    rows = []
    for name, measure in drift_report["measures"].items():
        warning, severe = measure["limits"]
        row = {"measure": name, "verdict": measure["verdict"], "measured": measure["value"]}
        rows.append(row | {"warning above": warning, "severe above": severe})
    return sorted(rows, key=lambda row: order[row["verdict"]])
