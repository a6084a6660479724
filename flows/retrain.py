"""Flow that trains on new events, and serves the run if the gate accepts it. In a shell: `python -m flows.retrain`.

The gate compares the run with the champion, the promoted run that is served.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.client.schemas import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from befriend import layout
from befriend.files import stage_lock
from tasks.drift_task import drift
from tasks.dvc import update_data
from tasks.gate_task import failed_checks, gate
from tasks.notify import NEXT_STEP, notify_failure
from tasks.notify import notify as send_notification
from tasks.promotion import commit as commit_files
from tasks.promotion import lists_are_current, served_unchanged
from tasks.promotion import promote as promote_run
from tasks.promotion import recommend as recommend_to_all_users
from tasks.promotion import tidy as free_disk_space
from tasks.stage_tasks import STAGES, TASK_RUNNER, run_stages

STAGE_NAMES = list(STAGES)  # the first is validate


def _nothing_has_changed(number: int) -> State[Any]:
    message = f"nothing has changed: no stage ran; champion {number} is this run"
    get_run_logger().info(message)
    return Completed(message=message)


def _serve(decision: dict[str, Any], force: bool, notification: str | None) -> tuple[int, str]:
    """Promotes the run. Returns the number of the champion, and its status in words.

    notification: beginning of the message about it; None: no message is sent.
    """
    number = promote_run(force)
    status = "is served" + (" by force" if decision["verdict"] == "refuse" else "")
    if notification is not None:
        text = f"{notification}champion {number} {status}. To go back: befriend rollback"
        send_notification(f"befriend: champion {number} is served", text)
    return number, status


def _run_name() -> str:
    return f"retrain {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(
    name="retrain",
    flow_run_name=_run_name,
    persist_result=False,
    task_runner=TASK_RUNNER,
    on_failure=[notify_failure],
    on_crashed=[notify_failure],
)
def retrain(
    update: bool = True,
    validate: bool = True,
    check_drift: bool = True,
    train: bool = True,
    promote: bool = True,
    recommend: bool = True,
    commit: bool = False,
    tidy: bool = True,
    notify: bool = True,
    force: bool = False,
) -> Any:
    """Brings everything up to date, and serves the new run if the gate accepts it.

    If it is stopped, run it again: finished stages are not repeated.

    Args:
        update: Import the data again if its source has changed.
        validate: Check the log and split it. Off: the log is used as it was prepared before.
        check_drift: Compare new events with those of the champion, before the other stages.
        train: Bring the other stages up to date. Off: the gate checks the current run as it is.
        promote: Run the gate, and serve the run if it passes. Off: the champion stays.
        recommend: Make lists for all users, unless the champion has made them already.
        commit: Commit the files that reproduce the champion, unless the gate refused the run.
        tidy: After a promotion, remove old promoted runs, checkpoints and cached results.
        notify: Send a message about a refusal or a promotion. A failure is always sent.
        force: Promote the run even if the gate refuses it; the manifest records this.
    """
    with stage_lock(layout.STAGE_LOCK):
        outcomes = [update_data()] if update else []
        number = served_unchanged()
        if number is not None and (lists_are_current(number) or not recommend):
            if commit:
                commit_files(number)
            return _nothing_has_changed(number)
        outcomes += run_stages(STAGE_NAMES[:1]) if validate else []
        if check_drift:
            drift()
        outcomes += run_stages(STAGE_NAMES[1:]) if train else []
        stages_run = [outcome.stage for outcome in outcomes if outcome.ran]
        summary = f"ran {', '.join(stages_run)}" if stages_run else "nothing has changed: no stage ran"
        if not promote:
            return Completed(message=f"{summary}; the champion stays")
        decision = gate()
        if decision["verdict"] == "refuse" and not force:
            if notify:
                text = f"{failed_checks(decision)}\n{NEXT_STEP['Refused']}"
                send_notification("befriend: the gate refused a run", text)
            return Completed(name="Refused", message=f"{summary}; refused: {failed_checks(decision)}")
        if decision["verdict"] == "unchanged":
            number, status = decision["champion"], "is this run"
        else:
            number, status = _serve(decision, force, f"{summary}; " if notify else None)
        if recommend and not lists_are_current(number):
            recommend_to_all_users()
        if commit:
            commit_files(number)
        if tidy and decision["verdict"] != "unchanged":
            free_disk_space()
        return Completed(message=f"{summary}; champion {number} {status}")


if __name__ == "__main__":
    from flows import run_from_shell

    run_from_shell(retrain)
