"""How new events differ from those of the champion, under Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from befriend.ops.drift import DRIFT_FILE, REPORT
from befriend.ops.registry import champion
from tasks.command import befriend
from tasks.dvc import stage_task
from tasks.publish import link, readable

REPORT_KEY, MEASURES_KEY, FILES_KEY = "drift-report", "drift-measures", "drift-files"


@stage_task("drift", "Compare new events with those of the champion.", run_name="drift")
def drift() -> None:
    """The gate takes the verdict up; the first run of all has nothing to differ from."""
    if champion(Path()) is not None:
        befriend("drift")
        publish()


def publish() -> None:
    told = files.read_json(layout.DRIFT / DRIFT_FILE)
    report = layout.DRIFT / REPORT
    create_markdown_artifact(readable(report), key=REPORT_KEY, description=f"Drift: {told['verdict']}")
    if told["measures"]:
        create_table_artifact(measures(told), key=MEASURES_KEY, description=told["compared"])
    link(report, FILES_KEY, "The report with its figure")


def measures(told: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure, the worst first."""
    worst = {"severe": 0, "warning": 1, "ok": 2}
    rows = []
    for name, found in told["measures"].items():
        warning, severe = found["limits"]
        row = {"measure": name, "verdict": found["verdict"], "found": found["value"]}
        rows.append(row | {"warning above": warning, "severe above": severe})
    return sorted(rows, key=lambda row: worst[row["verdict"]])
