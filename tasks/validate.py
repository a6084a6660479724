"""Stage validate under Prefect: reproduces it, and shows the report, the verdict of each rule and where the rest is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from befriend import files, layout
from tasks.dvc import Reproduced, StageError, reproduce, stage_task

STAGE = "validate"
REPORT_KEY = "validate-report"
RULES_KEY = "validate-rules"
FILES_KEY = "validate-files"
DATA_DOCS_KEY = "validate-data-docs"

_IMAGE = re.compile(r"!\[([^]]*)\]\(([^)]+)\)")


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
            rules(files.read_json(layout.VALIDATION)), key=RULES_KEY, description="What was checked, and what was found"
        )
    if layout.DATA_DOCS.exists():
        link(layout.DATA_DOCS, DATA_DOCS_KEY, "Data Docs of Great Expectations")


def rules(validation: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each rule, failed ones first, critical before warnings."""
    rows = [
        {
            "rule": name,
            "verdict": "ok" if rule["passed"] else "failed",
            "severity": rule["severity"],
            "found": rule["observed"],
            "allowed": rule["limit"],
        }
        for name, rule in validation["rules"].items()
    ]
    return sorted(rows, key=lambda row: (row["verdict"], row["severity"], row["rule"]))


def readable(report: Path) -> str:
    """The report as Prefect's page can show it: it serves no pictures, so each is named instead."""
    text = report.read_text(encoding="utf-8")
    return _IMAGE.sub(lambda image: f"*Figure: {image[1]}, in `{report.parent / image[2]}`*", text)


def link(path: Path, key: str, text: str) -> None:
    """A link to a file of the project. Browsers open these only by hand, so the address is readable too."""
    address = path.resolve().as_uri()
    create_link_artifact(address, link_text=text, key=key, description=f"{text}: {address}")
