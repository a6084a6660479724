"""Runs a `befriend` command as part of a Prefect task, in a process of its own that can be stopped."""

from __future__ import annotations

from prefect.logging import get_run_logger

from tasks.dvc import PASSING, StageError, bin_of, message, stream

REFUSED = 3  # how `befriend gate` ends where it lets nothing through


def befriend(*arguments: str) -> int:
    """Runs `befriend ARGUMENTS`, its output line by line in the run's log; returns 0 or REFUSED, else StageError."""
    logger = get_run_logger()
    code, lines = stream([str(bin_of() / "befriend"), *arguments], lambda line: logger.info("%s", line))
    if code in (0, REFUSED):
        return code
    passing = code < 0 or code in (137, 143) or bool(PASSING.search("\n".join(lines)))
    error = message(lines) or f"`befriend {' '.join(arguments)}` ended with exit code {code} and said nothing"
    raise StageError(error, code if code > 0 else 137, began=True, may_pass=passing)
