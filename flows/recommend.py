"""Lists for everybody by the champion. By hand: `python -m flows.recommend`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from prefect import flow

from befriend import layout
from befriend.files import stage_lock
from tasks.notify import failed
from tasks.promotion import recommend as recommend_everybody


def _run_name() -> str:
    return f"recommend {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(name="recommend", flow_run_name=_run_name, persist_result=False, on_failure=[failed], on_crashed=[failed])
def recommend(k: int = 20, new_only: bool = True, newest: bool = False) -> Path:
    """Makes lists for everybody; once stopped, the next run goes on where this one was.

    Args:
        k: People a list.
        new_only: Leave out existing contacts.
        newest: Look at the log as it was prepared last, not as it was when the champion was promoted.
    """
    with stage_lock(layout.LOCK):
        return recommend_everybody(k, new_only, newest)


if __name__ == "__main__":
    from flows import by_hand

    by_hand(recommend)
