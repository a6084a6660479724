"""Stage report under Prefect: reproduces it, and shows where the page is, and the model card."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact

from befriend import layout
from tasks.dvc import Reproduced, reproduce, stage_task
from tasks.publish import link

STAGE = "report"
PAGE_KEY = "report-page"
CARD_KEY = "report-model-card"


@stage_task(STAGE, "Tell the whole run on one page.", run_name=STAGE)
def report(force: bool = False) -> Reproduced:
    """The page of the run, with its pictures and the model card."""
    outcome = reproduce(STAGE, force)
    publish()
    return outcome


def publish() -> None:
    link(layout.PAGE, PAGE_KEY, "The page of the run")
    card = layout.MODEL_CARD.read_text(encoding="utf-8")
    create_markdown_artifact(card, key=CARD_KEY, description="What the models are for, and for whom they work how well")
