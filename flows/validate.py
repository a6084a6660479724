"""The data checks alone: the data, then stage validate. By hand: `python -m flows.validate`."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow

from befriend import layout
from befriend.files import stage_lock
from tasks.dvc import Reproduced, update_data
from tasks.notify import failed
from tasks.stage_tasks import TASKS


def _run_name() -> str:
    return f"validate {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(name="validate", flow_run_name=_run_name, persist_result=False, on_failure=[failed], on_crashed=[failed])
def validate(update: bool = True, force: bool = False) -> list[Reproduced]:
    """Brings the data and its checks up to date.

    Args:
        update: Look whether the source of the data has changed. Off, the data here is used as it is.
        force: Check the data also where nothing has changed.
    """
    with stage_lock(layout.LOCK):
        done = [update_data()] if update else []
        return [*done, TASKS["validate"](force)]


if __name__ == "__main__":
    from flows import by_hand

    by_hand(validate)
