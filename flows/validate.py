"""Flow that brings the data up to date and checks it. From the shell: `python -m flows.validate`."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow

from befriend import layout
from befriend.files import stage_lock
from tasks.dvc import update_data
from tasks.dvc_process import StageOutcome
from tasks.notify import notify_failure
from tasks.stage_tasks import run_stages


def _run_name() -> str:
    return f"validate {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(
    name="validate",
    flow_run_name=_run_name,
    persist_result=False,
    on_failure=[notify_failure],
    on_crashed=[notify_failure],
)
def validate(update: bool = True, force: bool = False) -> list[StageOutcome]:
    """Brings the data and its checks up to date.

    Args:
        update: Import the data again if its source has changed.
        force: Check the data also if nothing has changed.
    """
    with stage_lock(layout.STAGE_LOCK):
        outcomes = [update_data()] if update else []
        return outcomes + run_stages(["validate"], force)


if __name__ == "__main__":
    from flows import run_from_shell

    run_from_shell(validate)
