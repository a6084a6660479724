"""Telling people: a failure, a refusal, a promotion. To the log always, and to whatever addresses there are.

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
    "Failed": "Read its log, mend what it names, and run it again: what is done is not done twice.",
    "Crashed": "The process that ran it is gone. Run it again: what is done is not done twice.",
    "Refused": "The champion stays. Read the rules above; `befriend promote --force` overrules them.",
}


@task(name="notify", task_run_name="notify", cache_policy=NO_CACHE, persist_result=False)
def notify(title: str, text: str) -> int:
    """How many addresses were reached."""
    return tell(title, text)


def tell(title: str, text: str) -> int:
    """Says it in the log and to every address; one that cannot be reached is a line in the log, and no failure."""
    logger = get_logger("befriend")
    logger.warning("%s: %s", title, text)
    reached = 0
    for address in addresses():
        import apprise

        to = apprise.Apprise()
        if to.add(address) and to.notify(body=text, title=title):
            reached += 1
        else:
            logger.error("nobody could be told at %s://...", address.split("://")[0])
    return reached


def addresses() -> list[str]:
    told = os.environ.get(VARIABLE)
    if told is None:
        try:
            told = str(Secret.load(BLOCK).get())  # type: ignore[union-attr]
        except ValueError:  # there is none
            return []
    return told.split()


def failed(flow: Any, flow_run: Any, state: Any) -> None:
    """Hook of a flow that failed or crashed: what, where, and what to do."""
    tell(f"befriend: {flow.name} {state.name.lower()}", f"{flow_run.name}: {state.message}\n{NEXT.get(state.name, '')}")
