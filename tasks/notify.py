"""Sends a message about a failed, refused or promoted run to the addresses that you set, and writes it to the log.

Addresses are URLs of Apprise, separated by blanks: json://host/path for a webhook, mailto://user:password@host,
slack://, and others. Set them in the environment variable BEFRIEND_NOTIFY or in the Prefect secret `befriend-notify`.
They may contain passwords, so they are never read from files.
"""

from __future__ import annotations

import os
from typing import Any

from prefect import task
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_logger

ADDRESSES_VARIABLE, ADDRESSES_SECRET = "BEFRIEND_NOTIFY", "befriend-notify"
NEXT_STEP = {
    "Failed": "Read the log of the run, fix the problem, and run it again: finished stages are not repeated.",
    "Crashed": "The process of the run has ended. Run it again: finished stages are not repeated.",
    "Refused": "The champion stays. To promote the run in spite of the failed checks: `befriend promote --force`.",
}


@task(name="notify", task_run_name="notify", cache_policy=NO_CACHE, persist_result=False)
def notify(title: str, text: str) -> int:
    """Prefect task for `send`."""
    return send(title, text)


def send(title: str, text: str) -> int:
    """Logs a message, and sends it to every address. Returns the number of addresses that were reached.

    An address that cannot be reached is logged as an error, and raises nothing.
    """
    logger = get_logger("befriend")
    logger.warning("%s: %s", title, text)
    num_reached = 0
    for address in addresses():
        import apprise

        receiver = apprise.Apprise()
        if receiver.add(address) and receiver.notify(body=text, title=title):
            num_reached += 1
        else:
            logger.error("%s://... could not be reached", address.split("://")[0])
    return num_reached


def addresses() -> list[str]:
    """The addresses that are set; empty if there are none."""
    value = os.environ.get(ADDRESSES_VARIABLE)
    if value is None:
        try:
            value = str(Secret.load(ADDRESSES_SECRET).get())  # type: ignore[union-attr]
        except ValueError:  # there is no such secret
            return []
    return value.split()


def notify_failure(flow: Any, flow_run: Any, state: Any) -> None:
    """Prefect hook for flows that failed or crashed: sends the error, and what to do next."""
    send(
        f"befriend: {flow.name} {state.name.lower()}",
        f"{flow_run.name}: {state.message}\n{NEXT_STEP.get(state.name, '')}",
    )
