"""Runs a `befriend` command in a Prefect task, as a separate process that can be stopped."""

from __future__ import annotations

from prefect.logging import get_run_logger

from tasks.dvc_process import TRANSIENT_FAILURE, StageError, environment_bin, error_message, run_streaming

GATE_REFUSED = 3  # exit code of `befriend gate` if it refuses the run


def run_befriend(*arguments: str) -> int:
    """Runs `befriend ARGUMENTS`, and logs its output line by line.

    Returns the exit code if it is 0 or GATE_REFUSED; StageError otherwise.
    """
    logger = get_run_logger()
    code, lines = run_streaming([str(environment_bin() / "befriend"), *arguments], lambda line: logger.info("%s", line))
    if code in (0, GATE_REFUSED):
        return code
    is_transient = code < 0 or code in (137, 143) or bool(TRANSIENT_FAILURE.search("\n".join(lines)))
    error = (
        error_message(lines) or f"`befriend {' '.join(arguments)}` failed with exit code {code} and without a message"
    )
    raise StageError(error, code if code > 0 else 137, began=True, is_transient=is_transient)
