"""Runs `dvc repro` for one stage in a Prefect task, and turns a failure into an error that says whether to retry.

DVC alone decides whether a stage has to run. Nothing is cached here.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from befriend import files, layout
from befriend.errors import BefriendError

P = ParamSpec("P")
R = TypeVar("R")

DATA = "data.dvc"
RETRY_DELAYS = [10.0, 60.0]  # seconds; a lock is free soon, memory may take longer
STOP_TIMEOUT = 15  # seconds in which a stage may end by itself when its run is cancelled

# messages of DVC that need no change of the project: another process works in it, or a remote source is down
TRANSIENT_FAILURE = re.compile(
    r"Unable to acquire lock|is busy, it is being blocked by|Cannot connect to host|timed out|"
    r"Connection reset|Temporary failure in name resolution"
)
# beginnings of lines that DVC prints for interactive use, which are not logged
_ADVICE_LINES = (
    "To track the changes with git",
    "\tgit add",
    "To enable auto staging",
    "\tdvc config",
    "Use `dvc push`",
    "Data and pipelines are up",
)
_KILL_EXIT_CODES = ("-9", "-15", "137", "143")  # of a stage that got SIGKILL or SIGTERM


@dataclass(frozen=True)
class StageOutcome:
    """The result of bringing a stage up to date."""

    stage: str
    ran: bool
    """DVC ran the stage; False: its outputs were up to date or in DVC's cache"""
    seconds: float


class StageError(BefriendError):
    """A stage, or another command of a task, failed. The message is that of the stage, if it left one.

    exit_code: exit code of the stage, 137 if it was killed, 1 if DVC itself failed; began: the stage was started, so
    files in reports/ may be from this run; is_transient: the same command may succeed later without any change.
    """

    def __init__(self, message: str, exit_code: int = 1, began: bool = False, is_transient: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.began = began
        self.is_transient = is_transient


def should_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Whether Prefect should run the task again after a failure.

    Yes if the stage or DVC was killed (most often for lack of memory), if another process holds DVC's lock or the files
    of the stage, or if a remote source did not answer. No for everything that a stage reports itself: a failed check, a
    wrong setting or source, a full disk, a bug.
    """
    error = state.data
    return isinstance(error, StageError) and error.is_transient


def stage_task(name: str, description: str, run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Decorator for a Prefect task that runs a command of the pipeline, with retries and without Prefect's cache."""
    return task(
        name=name,
        description=description,
        task_run_name=run_name,
        retries=len(RETRY_DELAYS),
        retry_delay_seconds=RETRY_DELAYS,
        retry_condition_fn=should_retry,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@stage_task("update-data", "Bring data/ up to date with its source.", run_name="data")
def update_data() -> StageOutcome:
    """Runs `dvc repro` for data.dvc. It comes first because a stage that runs with --single-item ignores data.dvc."""
    return reproduce(DATA)


def reproduce(target: str, force: bool = False, on_line: Callable[[str], None] | None = None) -> StageOutcome:
    """Runs `dvc repro --single-item target`, and logs its output line by line. StageError if it fails.

    force: run the stage also if nothing changed; on_line: is called with each line of output.
    """
    start = time.perf_counter()
    record = layout.RUNS / f"{target}.json"
    before = _modified_ns(record)
    logger = get_run_logger()

    def log_line(line: str) -> None:
        logger.info("%s", line)
        if on_line:
            on_line(line)

    code, lines = run_streaming(dvc_command(target, force), log_line)
    if code != 0:
        raise stage_error(target, code, lines, record if _modified_ns(record) != before else None)
    ran = any(line.startswith((f"Running stage '{target}'", "Importing '")) for line in lines)
    return StageOutcome(target, ran, round(time.perf_counter() - start, 2))


def dvc_command(target: str, force: bool) -> list[str]:
    """The command line of `dvc repro`, with the DVC of this Python environment."""
    return [str(environment_bin() / "dvc"), "repro", "--single-item", *["--force"] * force, target]


def stage_error(target: str, code: int, lines: list[str], record: Path | None) -> StageError:
    """The StageError for a failed `dvc repro`.

    code: exit code of DVC, the same for all failures of stages, negative if a signal ended it; lines: its output;
    record: path of runs/<stage>.json, in which a stage notes its status, if this run wrote it, else None.
    """
    run_record = files.read_json(record) if record else {}
    if run_record.get("status") == "failed":
        return StageError(run_record["error"], run_record["exit_code"], began=True)
    text = "\n".join(lines)
    ended = re.search(r"exited with (-?\d+)", text)
    if code < 0 or (ended[1] in _KILL_EXIT_CODES if ended else run_record.get("status") == "running"):
        return StageError(
            f"{target} was killed, most often for lack of memory. Run it again, with more memory if it happens again.",
            exit_code=137,
            began=record is not None,
            is_transient=True,
        )
    return StageError(
        error_message(lines) or f"`dvc repro {target}` failed with exit code {code} and without a message",
        exit_code=int(ended[1]) if ended else 1,
        began=record is not None,
        is_transient=bool(TRANSIENT_FAILURE.search(text)),
    )


def error_message(lines: list[str]) -> str:
    """The error message in the output of a command: that of befriend ("befriend: ..."), else that of DVC; or empty."""
    for k, line in enumerate(lines):
        if line.startswith("befriend: "):
            end = next((j for j in range(k, len(lines)) if lines[j].startswith("ERROR: ")), len(lines))
            return "\n".join([line.removeprefix("befriend: "), *lines[k + 1 : end]])
    first = next((k for k, line in enumerate(lines) if line.startswith("ERROR: ")), len(lines))
    return "\n".join(line.removeprefix("ERROR: ") for line in lines[first:])


def run_streaming(arguments: list[str], on_line: Callable[[str], None]) -> tuple[int, list[str]]:
    """Runs a command, and calls on_line with each line of its output. Returns its exit code and the lines.

    Leaves out blank lines, and advice of DVC for interactive use.
    """
    path = f"{environment_bin()}{os.pathsep}{os.environ.get('PATH', '')}"  # stages call `befriend`
    lines = []
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # so that a cancelled run can stop DVC together with the stage under it
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.strip() and not line.startswith(_ADVICE_LINES):
                    lines.append(line.rstrip())
                    on_line(line.rstrip())
            return process.wait(), lines
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    """Ends a command and what it started: first with SIGINT, so that a stage can clean up, then with SIGKILL."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(timeout=STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            continue


def environment_bin() -> Path:
    """The folder of the programs of this Python environment."""
    return Path(sys.executable).parent


def _modified_ns(path: Path) -> int:
    """The time at which a file was written, in nanoseconds; 0 if there is no file."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


class _NoTraceback(logging.Filter):
    """Makes Prefect log a BefriendError, which has a message for the user, without a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, BefriendError):
            record.exc_info, record.exc_text = None, None
            record.msg, record.args = str(error), ()
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_NoTraceback())
