"""Flow that makes lists for all users with the champion. From the shell: `python -m flows.recommend`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from befriend import layout
from befriend.files import stage_lock
from tasks.notify import notify_failure
from tasks.promotion import recommend as recommend_to_all_users


def _run_name() -> str:
    return f"recommend {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(
    name="recommend",
    flow_run_name=_run_name,
    persist_result=False,
    on_failure=[notify_failure],
    on_crashed=[notify_failure],
)
def recommend(k: int = 20, new_only: bool = True, newest: bool = False) -> Path:
    """Makes lists for all users. If it is stopped, the next run continues with the next user.

    Args:
        k: Number of users on a list.
        new_only: Leave out existing contacts.
        newest: Use the current log, instead of the log with which the champion was promoted.
    """
    with stage_lock(layout.STAGE_LOCK):
        return recommend_to_all_users(k, new_only, newest)


if __name__ == "__main__":
    from flows import run_from_shell

    run_from_shell(recommend)
