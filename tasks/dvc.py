"""Runs `dvc repro` for one stage in a Prefect task, and turns a failure into an error that says whether to retry.

DVC alone decides whether a stage has to run. Nothing is cached here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from befriend.errors import BefriendError
from tasks.dvc_process import DATA, StageError, StageOutcome, bring_up_to_date

P = ParamSpec("P")
R = TypeVar("R")

RETRY_DELAYS = [10.0, 60.0]  # seconds; a lock is free soon, memory may take longer


def should_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Whether Prefect should run the task again after a failure.

    Yes if the stage or DVC was killed (most often for lack of memory), if another process holds DVC's lock or the files
    of the stage, or if a remote source did not answer. No for everything that a stage reports itself: a failed check, a
    wrong setting or source, a full disk, a bug.
    """
    error = state.data
    return isinstance(error, StageError) and error.is_transient


def stage_task(name: str, description: str, run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Decorator for a Prefect task that runs a command of the pipeline, with retries and without Prefect's cache."""
    return task(
        name=name,
        description=description,
        task_run_name=run_name,
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=should_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@stage_task("update-data", "Bring data/ up to date with its source.", run_name="data")
def update_data() -> StageOutcome:
    """Runs `dvc repro` for data.dvc. It comes first because a stage that runs with --single-item ignores data.dvc."""
    return reproduce(DATA)


def reproduce(target: str, force: bool = False, on_line: Callable[[str], None] | None = None) -> StageOutcome:
    """Runs `dvc repro --single-item target`, and logs its output line by line. StageError if it fails.

    force: run the stage also if nothing changed; on_line: is called with each line of output.
    """
    logger = get_run_logger()

    def log_line(line: str) -> None:
        logger.info("%s", line)
        if on_line:
            on_line(line)

    return bring_up_to_date(target, force, log_line)


class _NoTraceback(logging.Filter):
    """Makes Prefect log a BefriendError, which has a message for the user, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, BefriendError):
            record.exc_info, record.exc_text = None, None
            record.msg, record.args = str(error), ()
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_NoTraceback())
