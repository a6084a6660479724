"""Prefect task for the gate, which decides whether the current run may replace the champion, the run that is served."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from befriend.ops.gate import DECISION_FILE, REPORT_FILE, failed_checks
from tasks.command import run_befriend
from tasks.dvc import stage_task
from tasks.page_artifacts import without_images

__all__ = ["check_rows", "failed_checks", "gate", "publish"]  # failed_checks is for flows, which do not import ops

DECISION_KEY, CHECKS_KEY = "gate-decision", "gate-checks"


@stage_task("gate", "Check whether the run may replace the champion.", run_name="gate")
def gate() -> dict[str, Any]:
    """Returns the decision, see `befriend.ops.gate.decide`."""
    run_befriend("gate")
    publish()
    return files.read_json(layout.GATE / DECISION_FILE)


def publish() -> None:
    """Publishes the decision in runs/gate/."""
    decision = files.read_json(layout.GATE / DECISION_FILE)
    create_markdown_artifact(
        without_images(layout.GATE / REPORT_FILE), key=DECISION_KEY, description=f"The gate: {decision['verdict']}"
    )
    if decision["checks"]:
        create_table_artifact(check_rows(decision), key=CHECKS_KEY, description="The checks of the gate")


def check_rows(decision: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each check, failed ones first."""
    rows = [{"verdict": "ok" if check["passed"] else "not met"} | check for check in decision["checks"]]
    return sorted(rows, key=lambda row: row["passed"])
