"""Stage validate under Prefect: reproduces it, and shows the report, the verdict of each rule and where the rest is."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from tasks.dvc import Reproduced, StageError, reproduce, stage_task
from tasks.publish import committed, link, readable

STAGE = "validate"
REPORT_KEY = "validate-report"
RULES_KEY = "validate-rules"
FILES_KEY = "validate-files"
DATA_DOCS_KEY = "validate-data-docs"


@stage_task(STAGE, "Check the event log, split it, report on it.", run_name=STAGE)
def validate(force: bool = False) -> Reproduced:
    """Reproduces the stage. A log that was refused has a report too, and that one is needed most."""
    try:
        outcome = reproduce(STAGE, force)
    except StageError as error:
        if error.began:
            publish()
        raise
    publish()
    return outcome


def publish() -> None:
    """Shows what there is: a stage that failed early left less."""
    if layout.VALIDATION_REPORT.exists():
        create_markdown_artifact(readable(layout.VALIDATION_REPORT), key=REPORT_KEY, description="The event log")
        link(layout.VALIDATION_REPORT, FILES_KEY, "The report with its figure")
    if layout.VALIDATION.exists():
        create_table_artifact(
            rules(files.read_json(layout.VALIDATION), committed(layout.VALIDATION)),
            key=RULES_KEY,
            description="What was checked, what was found, and what was found in the last committed run",
        )
    if layout.DATA_DOCS.exists():
        link(layout.DATA_DOCS, DATA_DOCS_KEY, "Data Docs of Great Expectations")


def rules(validation: dict[str, Any], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each rule, failed ones first, critical before warnings. before: the committed validation, if any."""
    then = (before or {}).get("rules", {})
    rows = [
        {
            "rule": name,
            "verdict": "ok" if rule["passed"] else "failed",
            "severity": rule["severity"],
            "found": rule["observed"],
            "committed": then.get(name, {}).get("observed"),
            "allowed": rule["limit"],
        }
        for name, rule in validation["rules"].items()
    ]
    return sorted(rows, key=lambda row: (row["verdict"], row["severity"], row["rule"]))
