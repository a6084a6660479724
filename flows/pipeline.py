"""The whole pipeline: the data, then each stage in order. By hand: `python -m flows.pipeline`."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow

from befriend import layout
from befriend.files import stage_lock
from tasks.dvc import Reproduced, update_data
from tasks.notify import failed
from tasks.stage_tasks import TASKS


def _run_name() -> str:
    return f"pipeline {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(name="pipeline", flow_run_name=_run_name, persist_result=False, on_failure=[failed], on_crashed=[failed])
def pipeline(update: bool = True, force: bool = False) -> list[Reproduced]:
    """Brings everything up to date: data, checks, texts, tokens, models, evaluation, clusters, the page.

    Args:
        update: Look whether the source of the data has changed. Off, the data here is used as it is.
        force: Run every stage, also where nothing has changed.
    """
    with stage_lock(layout.LOCK):
        done = [update_data()] if update else []
        return done + [stage(force) for stage in TASKS.values()]


if __name__ == "__main__":
    from flows import by_hand

    by_hand(pipeline)
