"""A training's progress on Prefect's page: owns the artifact, and how far a line of the stage says it has come.

Knows the two lines of `befriend.training.loop` and nothing of what is trained.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

# "epoch 2 of 20: 99 of 1,178, about 11 min left" while it runs, "epoch 2 of 20: loss 7.2330, ..." when it is over
_EPOCH = re.compile(r"epoch (\d+) of (\d+): (?:loss |([\d,]+) of ([\d,]+), )")


class Progress:
    """The artifact of one run: it appears with the first line that says something, and then moves with each."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._artifact: UUID | None = None

    def hear(self, line: str) -> None:
        """One line of the stage's output, whatever it is about."""
        done = share(line)
        if done is not None:
            self._show(100 * done, line)

    def finish(self, summary: str) -> None:
        """The stage is done, perhaps with epochs to spare."""
        self._show(100, summary)

    def _show(self, percent: float, text: str) -> None:
        # A server that is away, or an artifact that somebody deleted, is no reason to end a training of hours.
        with suppress(httpx.HTTPError, PrefectException):
            if self._artifact is None:
                # outside a coroutine it returns no other one, but its type cannot tell
                self._artifact = cast(UUID, create_progress_artifact(percent, key=self.key, description=text))
            else:
                update_progress_artifact(self._artifact, percent, description=text)


def share(line: str) -> float | None:
    """How much of the training is behind, 0 to 1; None if the line is about something else.

    An epoch that goes on after an interruption counts only the steps it had left: there, more is behind than this says.
    """
    found = _EPOCH.match(line)
    if not found:
        return None
    epoch, epochs = int(found[1]), int(found[2])
    steps = [int(number.replace(",", "")) for number in found.groups()[2:] if number]
    return (epoch - 1 + (steps[0] / steps[1] if steps else 1)) / epochs
