"""Stage embed_text under Prefect: reproduces it, and shows what the text towers learned."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from befriend import files, layout
from tasks.dvc import Reproduced, reproduce, stage_task
from tasks.progress import Progress
from tasks.publish import readable

STAGE = "embed_text"
REPORT_KEY = "embed-text-report"
PROGRESS_KEY = "embed-text-progress"


@stage_task(STAGE, "Make vectors of what users wrote.", run_name=STAGE)
def embed_text(force: bool = False) -> Reproduced:
    """The texts."""
    progress = Progress(PROGRESS_KEY)
    outcome = reproduce(STAGE, force, heard=progress.hear)
    if outcome.ran:
        progress.finish(files.read_json(layout.RUNS / f"{STAGE}.json")["summary"])
    publish()
    return outcome


def publish() -> None:
    create_markdown_artifact(readable(layout.TEXT_REPORT), key=REPORT_KEY, description="What users wrote")
