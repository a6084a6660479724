"""Flow that brings the data and all stages up to date. From the shell: `python -m flows.pipeline`."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow

from befriend import layout
from befriend.files import stage_lock
from tasks.dvc import update_data
from tasks.dvc_process import StageOutcome
from tasks.notify import notify_failure
from tasks.stage_tasks import STAGES, TASK_RUNNER, run_stages


def _run_name() -> str:
    return f"pipeline {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(
    name="pipeline",
    flow_run_name=_run_name,
    persist_result=False,
    task_runner=TASK_RUNNER,
    on_failure=[notify_failure],
    on_crashed=[notify_failure],
)
def pipeline(update: bool = True, force: bool = False) -> list[StageOutcome]:
    """Brings everything up to date: data, checks, text vectors, tokens, models, evaluation, clusters, report.

    Args:
        update: Import the data again if its source has changed.
        force: Run every stage, also if nothing has changed.
    """
    with stage_lock(layout.STAGE_LOCK):
        outcomes = [update_data()] if update else []
        return outcomes + run_stages(list(STAGES), force)


if __name__ == "__main__":
    from flows import run_from_shell

    run_from_shell(pipeline)
