"""Stage cluster under Prefect: reproduces it, and shows what the clusters are like."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from befriend import files, layout
from tasks.dvc import Reproduced, reproduce, stage_task
from tasks.progress import Progress
from tasks.publish import committed, link, readable

STAGE = "cluster"
REPORT_KEY = "cluster-report"
SEARCH_KEY = "cluster-search"
FILES_KEY = "cluster-files"
PROGRESS_KEY = "cluster-progress"


@stage_task(STAGE, "Learn clusters of users, and measure what they save a search.", run_name=STAGE)
def cluster(force: bool = False) -> Reproduced:
    """The clusters."""
    progress = Progress(PROGRESS_KEY)
    outcome = reproduce(STAGE, force, heard=progress.hear)
    if outcome.ran:
        progress.finish(files.read_json(layout.RUNS / f"{STAGE}.json")["summary"])
    publish()
    return outcome


def publish() -> None:
    create_markdown_artifact(readable(layout.CLUSTER_REPORT), key=REPORT_KEY, description="The clusters, card by card")
    link(layout.CLUSTER_REPORT, FILES_KEY, "The report with its figures")
    create_table_artifact(
        searched(files.read_json(layout.CLUSTER_METRICS), committed(layout.CLUSTER_METRICS)),
        key=SEARCH_KEY,
        description="Recall kept by looking at a share of the users, and in the last committed run",
    )


def searched(metrics: dict[str, Any], before: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A row for each share of the users. before: the committed metrics, if any."""
    then = (before or {}).get("search", {})
    return [
        {
            "looked at": where,
            "share": float(share),
            "recall kept": figures["kept"],
            "committed": then.get(where, {}).get(share, {}).get("kept"),
        }
        for where, curve in sorted(metrics["search"].items())
        for share, figures in sorted(curve.items(), key=lambda item: float(item[0]))
    ]
