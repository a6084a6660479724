"""Stage tokenize under Prefect: reproduces it, and shows how the codes are used."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from tasks.dvc import Reproduced, reproduce, stage_task
from tasks.publish import committed, link, readable

STAGE = "tokenize"
REPORT_KEY = "tokenize-report"
LEVELS_KEY = "tokenize-levels"
FILES_KEY = "tokenize-files"


@stage_task(STAGE, "Give every user of the training part an STU.", run_name=STAGE)
def tokenize(force: bool = False) -> Reproduced:
    """The tokens."""
    outcome = reproduce(STAGE, force)
    publish()
    return outcome


def publish() -> None:
    create_markdown_artifact(readable(layout.TOKEN_REPORT), key=REPORT_KEY, description="The STUs")
    link(layout.TOKEN_REPORT, FILES_KEY, "The report with its figures")
    create_table_artifact(
        levels(files.read_json(layout.TOKEN_METRICS), committed(layout.TOKEN_METRICS)),
        key=LEVELS_KEY,
        description="How the codes of each level are used, and how they were in the last committed run",
    )


def levels(metrics: dict[str, Any], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each figure of each level. before: the committed metrics, if any."""
    then = (before or {}).get("level", {})
    return [
        {"level": int(level), "figure": name, "found": value, "committed": then.get(level, {}).get(name)}
        for level, figures in sorted(metrics["level"].items(), key=lambda item: int(item[0]))
        for name, value in figures.items()
    ]
