"""Notifies people of a failure, a refusal or a promotion: in the log always, and at the addresses that are set.

Addresses are URLs of Apprise (json://host/path for a webhook, mailto://user:password@host, slack://, ...), several
separated by blanks, in the environment as BEFRIEND_NOTIFY or in the Prefect secret `befriend-notify`; never in files.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import task
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_logger

VARIABLE, BLOCK = "BEFRIEND_NOTIFY", "befriend-notify"
NEXT = {
    "Failed": "Read its log, fix what it names, and run it again: finished stages are not repeated.",
    "Crashed": "The process that ran it is gone. Run it again: finished stages are not repeated.",
    "Refused": "The champion stays. Read the rules above; `befriend promote --force` overrides them.",
}


@task(name="notify", task_run_name="notify", cache_policy=NO_CACHE, persist_result=False)
def notify(title: str, text: str) -> int:
    """Returns how many addresses were reached."""
    return send(title, text)


def send(title: str, text: str) -> int:
    """Logs a message and sends it to every address. An address that cannot be reached is logged, and fails nothing."""
    logger = get_logger("befriend")
    logger.warning("%s: %s", title, text)
    reached = 0
    for address in addresses():
        import apprise

        to = apprise.Apprise()
        if to.add(address) and to.notify(body=text, title=title):
            reached += 1
        else:
            logger.error("%s://... could not be reached", address.split("://")[0])
    return reached


def addresses() -> list[str]:
    value = os.environ.get(VARIABLE)
    if value is None:
        try:
            value = str(Secret.load(BLOCK).get())  # type: ignore[union-attr]
        except ValueError:  # there is none
            return []
    return value.split()


def failed(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook of a flow that failed or crashed: sends what failed, where, and what to do."""
    send(f"befriend: {flow.name} {state.name.lower()}", f"{flow_run.name}: {state.message}\n{NEXT.get(state.name, '')}")
