"""The progress bar of a training on Prefect's page, which follows the lines that `befriend.training.loop` prints."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

# "epoch 2 of 20: 99 of 1,178, about 11 min left" during an epoch, "epoch 2 of 20: loss 7.2330, ..." after it
_EPOCH = re.compile(r"epoch (\d+) of (\d+): (?:loss |([\d,]+) of ([\d,]+), )")


class ProgressArtifact:
    """The progress artifact of one run. The first line about progress creates it, and each later one updates it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._artifact: UUID | None = None

    def follow(self, line: str) -> None:
        """Updates the artifact from a line of the stage's output. Lines that are not about progress change nothing."""
        share = share_done(line)
        if share is not None:
            self._show(100 * share, line)

    def finish(self, summary: str) -> None:
        """Sets the progress to 100 %: a training may stop before its last epoch."""
        self._show(100, summary)

    def _show(self, percent: float, text: str) -> None:
        # if the server is down or the artifact was deleted, the training goes on
        with suppress(httpx.HTTPError, PrefectException):
            if self._artifact is None:
                # outside a coroutine it returns a UUID, although its type annotation does not say so
                self._artifact = cast(UUID, create_progress_artifact(percent, key=self.key, description=text))
            else:
                update_progress_artifact(self._artifact, percent, description=text)


def share_done(line: str) -> float | None:
    """The share of the training that is done, from 0 to 1; None if the line is not about progress.

    After an interruption, an epoch counts only its remaining steps, so the true share is larger.
    """
    match = _EPOCH.match(line)
    if not match:
        return None
    epoch, epochs = int(match[1]), int(match[2])
    steps = [int(number.replace(",", "")) for number in match.groups()[2:] if number]
    return (epoch - 1 + (steps[0] / steps[1] if steps else 1)) / epochs
