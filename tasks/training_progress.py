"""The progress bar of a training on Prefect's page: owns the artifact, and reads the progress from the stage's output.

Knows the two kinds of lines that `befriend.training.loop` prints, and nothing of what is trained.
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


class TrainingProgress:
    """The progress artifact of one run: made at the first line about progress, updated at each one after it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._artifact: UUID | None = None

    def follow(self, line: str) -> None:
        """Takes one line of the stage's output, whatever it is about."""
        share = share_done(line)
        if share is not None:
            self._show(100 * share, line)

    def finish(self, summary: str) -> None:
        """The stage is done, perhaps with epochs to spare."""
        self._show(100, summary)

    def _show(self, percent: float, text: str) -> None:
        # A server that is down, or an artifact that somebody deleted, must not end a training of hours.
        with suppress(httpx.HTTPError, PrefectException):
            if self._artifact is None:
                # outside a coroutine it returns a UUID, though its type says otherwise
                self._artifact = cast(UUID, create_progress_artifact(percent, key=self.key, description=text))
            else:
                update_progress_artifact(self._artifact, percent, description=text)


def share_done(line: str) -> float | None:
    """The share of the training that is done, 0 to 1; None if the line is about something else.

    An epoch that resumes after an interruption counts only its remaining steps, so the true share is larger there.
    """
    match = _EPOCH.match(line)
    if not match:
        return None
    epoch, epochs = int(match[1]), int(match[2])
    steps = [int(number.replace(",", "")) for number in match.groups()[2:] if number]
    return (epoch - 1 + (steps[0] / steps[1] if steps else 1)) / epochs
