"""The gate under Prefect: whether a run may replace the champion."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from befriend.ops.gate import DECISION, REPORT
from tasks.command import befriend
from tasks.dvc import stage_task
from tasks.page_artifacts import readable

DECISION_KEY, RULES_KEY = "gate-decision", "gate-rules"


@stage_task("gate", "Compare the run with the champion, rule by rule.", run_name="gate")
def gate() -> dict[str, Any]:
    """The decision, as `befriend.ops.gate` writes it."""
    befriend("gate")
    publish()
    return files.read_json(layout.GATE / DECISION)


def publish() -> None:
    decision = files.read_json(layout.GATE / DECISION)
    create_markdown_artifact(
        readable(layout.GATE / REPORT), key=DECISION_KEY, description=f"The gate: {decision['verdict']}"
    )
    if decision["rules"]:
        create_table_artifact(rule_rows(decision), key=RULES_KEY, description="What was asked of the run, and found")


def rule_rows(decision: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each rule, those that were not met first."""
    rows = [{"verdict": "ok" if rule["passed"] else "not met"} | rule for rule in decision["rules"]]
    return sorted(rows, key=lambda row: row["passed"])


def unmet_rules(decision: dict[str, Any]) -> str:
    """The rules that were not met, in a line."""
    failed = (rule for rule in decision["rules"] if not rule["passed"])
    return "; ".join(f"{rule['name']}: {rule['found']}, required {rule['required']}" for rule in failed)
