"""From new events to new lists, if the run deserves it. By hand: `python -m flows.retrain`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.states import Completed

from befriend import layout
from befriend.files import stage_lock
from tasks.drift_task import drift
from tasks.dvc import update_data
from tasks.gate_task import gate, unmet_rules
from tasks.notify import NEXT, failed
from tasks.notify import notify as notify_everybody
from tasks.promotion import commit as commit_files
from tasks.promotion import lists_are_current
from tasks.promotion import promote as promote_run
from tasks.promotion import recommend as recommend_everybody
from tasks.promotion import tidy as remove_old
from tasks.stage_tasks import TASKS

VALIDATE, *REST = TASKS.values()


def _run_name() -> str:
    return f"retrain {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@flow(name="retrain", flow_run_name=_run_name, persist_result=False, on_failure=[failed], on_crashed=[failed])
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
    """Brings everything up to date, and serves the new run if the gate lets it through. Run again, it goes on.

    Args:
        update: Look whether the source of the data has changed. Off, the data here is used as it is.
        validate: Check the log, and split it. Off, what was prepared last is used.
        check_drift: Compare new events with those of the champion, before the stages.
        train: Bring the stages up to date. Off, the current run is judged as it is.
        promote: Judge the run, and serve it if it passes. Off, the champion stays.
        recommend: Make lists for everybody after a promotion.
        commit: Commit what made the champion after a promotion; nothing is committed without.
        tidy: Remove old promoted runs, checkpoints and cached results after a promotion.
        notify: Send a message about a refusal or a promotion; a failure is always sent.
        force: Promote also what the gate refused, which the manifest says then.
    """
    with stage_lock(layout.LOCK):
        done = [update_data()] if update else []
        done += [VALIDATE()] if validate else []
        if check_drift:
            drift()
        done += [stage() for stage in REST] if train else []
        ran = [outcome.stage for outcome in done if outcome.ran]
        what = f"ran {', '.join(ran)}" if ran else "nothing has changed: no stage ran"
        if not promote:
            return Completed(message=f"{what}; the champion stays")
        decision = gate()
        if decision["verdict"] == "refuse" and not force:
            if notify:
                notify_everybody("befriend: the gate refused a run", f"{unmet_rules(decision)}\n{NEXT['Refused']}")
            return Completed(name="Refused", message=f"{what}; refused: {unmet_rules(decision)}")
        if decision["verdict"] == "unchanged":
            number, how = decision["champion"], "is this very run"
        else:
            number = promote_run(force)
            how = "is served" + (" by force" if decision["verdict"] == "refuse" else "")
            if notify:
                text = f"{what}; champion {number} {how}. Back: befriend rollback"
                notify_everybody(f"befriend: champion {number} is served", text)
        if recommend and not lists_are_current(number):
            recommend_everybody()
        if commit:
            commit_files(number)
        if tidy and decision["verdict"] != "unchanged":
            remove_old()
        return Completed(message=f"{what}; champion {number} {how}")


if __name__ == "__main__":
    from flows import by_hand

    by_hand(retrain)
